"""How precisely a GPU multiplies while a block of code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products of float32 in "ieee" or "tf32" on a GPU.

    Torch lets convolutions use tf32 unless told otherwise: 10 bits, too few for an objective that
    decides whether a step is taken.
    """
    if device.type != "cuda":
        yield
        return
    # The types that torch declares for these change from release to release.
    cudnn: Any = torch.backends.cudnn
    settings: tuple[Any, ...] = (cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
