"""The program of ``benchmarks/cpp``: built, and run on measurements."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import jpmap_fast

SOURCE = Path(__file__).resolve().parent / "cpp"
CONFIG = Path(jpmap_fast.__file__).resolve().parent / "cmake"


@dataclass(frozen=True)
class Restored:
    """What the program wrote and said: x as a row, objectives, who converged, and the time.

    Attributes:
        x: numbers of all images [B n].
        objective: float64 [B].
        converged: bool [B].
        milliseconds: a call; None where it was not asked for.
    """

    x: Tensor
    objective: Tensor
    converged: Tensor
    milliseconds: float | None


def build(folder: Path) -> Path:
    """The program, built in a folder.

    Raises:
        RuntimeError: CMake or the compiler failed, with what they said.
    """
    configure = ["cmake", "-S", SOURCE, "-B", folder, f"-Djpmap_fast_DIR={CONFIG}"]
    _said([*configure, f"-DPython_EXECUTABLE={sys.executable}"])
    _said(["cmake", "--build", folder])
    return folder / "restore"


def restore(program: Path, package: Path, y: Tensor, folder: Path, calls: int = 0) -> Restored:
    """What the program makes of measurements y [B, ...].

    Raises:
        RuntimeError: it failed, with what it said.
    """
    measured, restored = folder / "measured.bin", folder / "restored.bin"
    y.cpu().numpy().tofile(measured)
    said = _said([program, package, measured, restored, calls])
    x = np.fromfile(restored, dtype=y.cpu().numpy().dtype)
    images = re.findall(r"^image \d+: objective (\S+?)(, converged)?$", said, re.MULTILINE)
    spent = re.search(r"^milliseconds a call: (\S+)$", said, re.MULTILINE)
    return Restored(
        torch.from_numpy(x),
        torch.tensor([float(value) for value, _ in images], dtype=torch.float64),
        torch.tensor([bool(word) for _, word in images]),
        float(spent[1]) if spent else None,
    )


def _said(command: list[object]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
