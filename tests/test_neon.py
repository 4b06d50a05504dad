"""The CPU's kernels on ARM: compiled across, run by an emulator, against plain loops.

Debian's packages are g++-aarch64-linux-gnu and qemu-user. ``make cpp`` runs it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CSRC = Path(__file__).parent.parent / "csrc"

pytestmark = [
    pytest.mark.cpp,
    pytest.mark.skipif(
        not shutil.which(COMPILER) or not shutil.which(EMULATOR),
        reason=f"needs {COMPILER} and {EMULATOR}",
    ),
]


def test_kernels_have_the_sums_of_plain_loops(tmp_path):
    program = tmp_path / "neon"
    sources = [str(CSRC / "cpu/isa/select.cpp"), str(Path(__file__).parent / "neon.cpp")]
    options = ["-std=c++20", "-O3", "-static", f"-I{CSRC}", "-o", str(program)]
    subprocess.run([COMPILER, *options, *sources], check=True)
    done = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "3 rows, neon\n"
