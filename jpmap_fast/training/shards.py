"""Tensors in a folder of safetensors files of a bounded size, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jpmap_fast._weights_file import read_weights

# Stays under what hosts and transfers of files commonly take.
SHARD_BYTES = 15 * 2**20
_INDEX = "index.json"


def write_shards(
    folder: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], form: str
) -> None:
    """Write tensors, cut into rows where one is larger than a file may be.

    The folder that was there is replaced once the new one is complete.

    Args:
        folder: to write; its parent must exist.
        tensors: by name.
        header: what JSON can hold, beside them.
        form: name of the format, which ``read_shards`` asks for.
    """
    from safetensors.torch import save_file

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    files = _filled(tensors)
    for number, held in enumerate(files):
        save_file(held, str(part / f"{number:03d}.safetensors"), metadata={"format": form})
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    index = {"files": len(files), "shapes": shapes, "header": dict(header)}
    (part / _INDEX).write_text(json.dumps(index))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_shards(folder: Path, form: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors that ``write_shards`` wrote, on the CPU.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: damaged, or of another format.
    """
    source = folder if folder.exists() else folder.with_name(folder.name + ".old")
    if not (source / _INDEX).is_file():
        raise FileNotFoundError(f"{folder}: no {what} there")
    try:
        index = json.loads((source / _INDEX).read_text())
        files, shapes, header = int(index["files"]), dict(index["shapes"]), dict(index["header"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: expected {what}, its index is damaged ({error})") from error
    rows: dict[str, list[Tensor]] = {name: [] for name in shapes}
    for number in range(files):
        _, held = read_weights(source / f"{number:03d}.safetensors", form, what)
        for key, value in held.items():
            name = key.rpartition("@")[0]
            if name not in rows:
                raise ValueError(f"{folder}: expected {what}, got the unknown tensor {name!r}")
            rows[name].append(value)
    return header, {name: _joined(folder, name, rows[name], shapes[name]) for name in shapes}


def _filled(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    files: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, value in tensors.items():
        flat = value.detach().cpu().reshape(-1)
        each = SHARD_BYTES // flat.element_size()
        for begin in range(0, max(flat.numel(), 1), each):
            piece = flat[begin : begin + each].clone()
            size = piece.numel() * piece.element_size()
            if size > room:
                files.append({})
                room = SHARD_BYTES
            files[-1][f"{name}@{begin:012d}"] = piece
            room -= size
    return files


def _joined(folder: Path, name: str, pieces: list[Tensor], shape: list[int]) -> Tensor:
    import torch

    try:
        return torch.cat(pieces).reshape(shape)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{folder}: the tensor {name} is damaged ({error})") from error
