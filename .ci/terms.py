"""Whose each file is and under which terms: of the checkout by REUSE.toml, of a wheel by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

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


def metadata_of(wheel: Path) -> Message:
    """What a wheel says of itself."""
    with ZipFile(wheel) as archive:
        (head,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(head).decode())
