"""Files written whole or not at all, and torch files read without running what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` at the end and only then."""
    part = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_torch(path: str | Path, what: str) -> Any:
    """Tensors, numbers and plain containers of a torch file, on the CPU; code is never run.

    Args:
        path: of the file.
        what: is expected, for the error.

    Raises:
        OSError: no such file, or not readable.
        ValueError: damaged, or a pickle that wants to run code.
    """
    with Path(path).open("rb") as file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch has a dozen kinds for a damaged file
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"{path}: expected {what}; it is damaged, or holds code, which is never run "
                f"({lines[0]})"
            ) from error
