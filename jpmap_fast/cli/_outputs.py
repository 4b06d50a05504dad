"""What ``jpmap-fast restore`` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jpmap_fast.result import Result


def png_names(names: Sequence[str]) -> list[str]:
    """A file name ending in .png for each name, all different."""
    taken: set[str] = set()
    out = []
    for name in names:
        stem = str(Path(name).with_suffix("")).replace("/", "_").replace("\\", "_")
        candidate, count = stem, 1
        while candidate.lower() in taken:
            count += 1
            candidate = f"{stem}_{count}"
        taken.add(candidate.lower())
        out.append(f"{candidate}.png")
    return out


def write_png(path: Path, image: Tensor) -> None:
    """An image [C, H, W], clipped to [0, 1], as an 8-bit PNG file."""
    from PIL import Image

    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    array = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(array).save(path)


def write_arrays(path: Path, result: Result, names: Sequence[str]) -> None:
    """x, z, decoded, objective, converged and names as one .npz file."""
    fields = ("x", "z", "decoded", "objective", "converged")
    arrays = {name: getattr(result, name).cpu().numpy() for name in fields}
    np.savez(path, names=np.array(names, dtype=np.str_), **arrays)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Strict JSON: NaN and infinity become null."""
    text = json.dumps(_strict(content), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
