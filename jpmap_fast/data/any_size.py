"""Pictures of any sizes, as they come from a folder of photographs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast.data.arrays import check_unit
from jpmap_fast.data.picture import with_channels
from jpmap_fast.data.pictures import read_pictures
from jpmap_fast.data.readers import page_names, picture_files


@dataclass
class Pictures:
    """Pictures of any sizes, with their names.

    Attributes:
        pictures: uint8 [C, H, W] each, all of the same C.
        names: file names, or pages such as "stack.tif[3]".
        failures: (name, reason) of what could not be read; the others were.
    """

    pictures: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


@steady
def load_pictures(source: str | Path, channels: int, *, background: float = 1.0) -> Pictures:
    """Read the pictures of a file or a folder, each in its own size, rounded to 8 bits.

    Args:
        source: a picture file (see ``read_pictures``), or a folder of them, read in the order of
            their names.
        channels: 1 turns colour pictures grey by the luma of ITU-R BT.601, 3 grey ones into three
            equal channels.
        background: grey level in [0, 1] behind transparent pixels.

    Raises:
        FileNotFoundError: nothing there. ValueError: nothing that can be read.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    found = Pictures()
    files = picture_files(path) if path.is_dir() else [path]
    for file in files:
        try:
            pages = [
                with_channels(page.values, channels)
                for page in read_pictures(file, background=background)
            ]
            for page in pages:
                check_unit(file.name, page)
        except ValueError as error:
            found.failures.append((file.name, str(error).removeprefix(f"{file.name}: ")))
            continue
        found.names += page_names(file.name, len(pages))
        found.pictures += [
            torch.from_numpy(np.rint(page.astype(np.float64) * 255).clip(0, 255).astype(np.uint8))
            for page in pages
        ]
    if not found.names:
        reasons = "; ".join(reason for _, reason in found.failures[:3])
        raise ValueError(f"{path}: none of its {len(files)} pictures could be read: {reasons}")
    return found
