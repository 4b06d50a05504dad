"""Whose each file of the checkout is and under which terms, by ``reuse`` from REUSE.toml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# What is read by code and not written by hand: weights, digits, pictures.
DATA = (".safetensors", ".npz", ".png")


class Terms(NamedTuple):
    """What a file is under."""

    licence: str  # an SPDX expression
    copyright: str


def terms() -> dict[str, Terms]:
    """Of every file that has some, by its path from the root of the checkout."""
    command = [sys.executable, "-m", "reuse", "--root", str(ROOT), "lint", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.startswith("{"):
        raise SystemExit(f"reuse: {done.stderr.strip()}\npip install reuse installs it")
    found = {}
    for file in json.loads(done.stdout)["files"]:
        licences = sorted({said["value"] for said in file["spdx_expressions"]})
        owners = [said["value"].partition(": ")[2] for said in file["copyrights"]]
        if licences:
            found[file["path"]] = Terms(" AND ".join(licences), "; ".join(owners))
    return found
