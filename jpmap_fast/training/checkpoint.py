"""Checkpoints of a training run: tensors and numbers alone, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

FORMAT = "jpmap-fast checkpoint 1"


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write to a file beside ``path`` and rename, so that an interruption leaves the old one."""
    beside = path.with_name(path.name + ".part")
    torch.save({"format": FORMAT, **content}, beside)
    os.replace(beside, path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What ``write_checkpoint`` wrote, on the CPU.

    Raises:
        ValueError: no such checkpoint, damaged, or a pickle with code in it (which is not run).
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: expected a checkpoint of jpmap_fast; it is damaged, or holds code, which is "
            "never run"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a checkpoint of jpmap_fast, got another torch file")
    return content
