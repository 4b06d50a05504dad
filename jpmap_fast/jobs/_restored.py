"""Images in memory, restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.jobs.report import PictureReport


@dataclass(frozen=True)
class RestoredPicture:
    """One picture, restored.

    Attributes:
        x: the restored picture [C, H, W], values about [0, 1] (not clipped); NaN where it failed.
        z: its code [k].
        decoded: G(z) [C, H, W].
        y: what it was restored from, the simulated measurement where the request simulates.
        report: how it went.
    """

    x: Tensor
    z: Tensor
    decoded: Tensor
    y: Tensor
    report: PictureReport


@dataclass(frozen=True)
class RestoredBatch:
    """Images restored together.

    Attributes:
        result: of ``restore``.
        y: measurements [B, ...], on the CPU.
        own: arrays of the operator that each image has for itself, rows as of y.
        reports: one for each image.
    """

    result: jf.Result
    y: Tensor
    own: dict[str, Any]
    reports: list[PictureReport]
