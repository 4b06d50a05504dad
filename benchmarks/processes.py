"""Processes of Ray on this machine, found by what they call themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def named(title: bytes, root: int) -> list[int]:
    """Process ids of those whose command line begins so, below one process."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "cmdline").read_bytes().startswith(title):
                if root in ancestors(int(folder.name)):
                    found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return sorted(found)


def cpu_seconds(pid: int) -> float:
    """That a process has worked until now; 0 of one that has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def ancestors(pid: int) -> Iterator[int]:
    """The parent of a process, its parent, and so on."""
    while pid > 1:
        text = Path(f"/proc/{pid}/stat").read_text()
        pid = int(text.rpartition(")")[2].split()[1])
        yield pid
