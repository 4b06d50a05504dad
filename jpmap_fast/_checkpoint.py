"""Checkpoints of a training run: tensors and numbers alone, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jpmap_fast._files import read_torch, written_whole

FORMAT = "jpmap-fast checkpoint 1"


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write the whole file; an interruption leaves the old one."""
    with written_whole(path) as part:
        torch.save({"format": FORMAT, **content}, part)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What ``write_checkpoint`` wrote, on the CPU.

    Raises:
        OSError: no such file.
        ValueError: no such checkpoint, damaged, or a pickle with code in it (which is not run).
    """
    content = read_torch(path, "a checkpoint of jpmap_fast")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a checkpoint of jpmap_fast, got another torch file")
    return content
