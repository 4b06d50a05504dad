"""Files written whole or not at all, strict JSON, and torch files read but never run."""

from __future__ import annotations

import json
import math
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


def write_whole(path: Path, content: bytes) -> None:
    """A file of a content, whole or not at all."""
    with written_whole(path) as part:
        part.write_bytes(content)


def plain(value: Any) -> Any:
    """The same as JSON can hold it: keys are text, tensors and arrays lists, NaN and infinity None.

    Args:
        value: numbers, text, tensors, arrays, and dictionaries, lists and tuples of them.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, content: Any, *, indent: int = 2) -> None:
    """``plain(content)`` as strict JSON, whole or not at all.

    Raises:
        TypeError: something in it that JSON cannot hold. OSError: the file cannot be written.
    """
    text = json.dumps(plain(content), indent=indent, allow_nan=False)
    with written_whole(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


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
