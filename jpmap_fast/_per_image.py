"""Numbers of images that were checked, as tensors; the same number for all is one that many share.

Filling a tensor is a launch on a GPU, and so is all that is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

_Value = TypeVar("_Value")

# Of so many entries at most is a tensor shared, and so many of them are held.
_ENTRIES, _TENSORS = 64, 64


@dataclass(frozen=True)
class PerImage:
    """Numbers of images that have been checked, as they came and as the host sees them.

    Attributes:
        given: one number, or a tensor [1] or [batch].
        seen: the same in float64 on the host [1] or [batch].
        batch: B.
    """

    given: Tensor | float
    seen: np.ndarray[Any, np.dtype[np.float64]]
    batch: int

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest of at least one number; NaN for one among them."""
        if not isinstance(self.given, Tensor):
            return self.given, self.given
        return float(self.seen.min()), float(self.seen.max())

    def like(self, tensor: Tensor, *, share: bool = False) -> Tensor:
        """One for each image [B], of the type and on the device of a tensor; nobody else's.

        With ``share`` one number may be others' as well, see ``filled``.
        """
        if not isinstance(self.given, Tensor):
            if share:
                return filled((self.batch,), self.given, tensor)
            return tensor.new_full((self.batch,), self.given)  # with nothing to wait for
        out = self.given.to(tensor.device, tensor.dtype).expand(self.batch)
        # The caller's own may change.
        return out.clone(memory_format=torch.contiguous_format)


_filled: dict[Any, Tensor] = {}
# By which a tensor says that it is shared, also when it is held here no longer.
_MARK = "_jpmap_shared"


def filled(shape: tuple[int, ...], value: float, like: Tensor) -> Tensor:
    """A tensor of one number, of the type and on the device of ``like``, that others are given too.

    For whoever neither writes to it nor gives it away. Work on another stream of a GPU has its own:
    nothing there has waited for this one to be filled.
    """
    device = like.device
    on_gpu = device.type == "cuda"
    # As a number, which is what takes least.
    stream = torch._C._cuda_getCurrentRawStream(device.index) if on_gpu else 0
    key = (shape, value, like.dtype, device, stream)
    found = _filled.get(key)
    if found is not None and not found._version:
        return found
    with torch.inference_mode(False):
        found = torch.full(shape, value, dtype=like.dtype, device=device)
    if found.numel() <= _ENTRIES:
        setattr(found, _MARK, True)
        if len(_filled) >= _TENSORS:
            _filled.clear()
        _filled[key] = found
    return found


def is_shared(tensor: Tensor) -> bool:
    """Whether ``filled`` made a tensor and others are given it too."""
    return hasattr(tensor, _MARK)


def own(tensor: Tensor) -> Tensor:
    """A tensor that whoever is given it may write to."""
    return tensor.clone() if is_shared(tensor) else tensor


class MadeOfShared:
    """What is made of shared numbers: by name, that of the last such numbers."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[tuple[Tensor, ...], Any]] = {}

    def get(self, name: str, numbers: tuple[Tensor, ...], make: Callable[[], _Value]) -> _Value:
        """``make()``, made anew unless all of the numbers are shared, and the same as before."""
        if not all(map(is_shared, numbers)):
            return make()
        found = self._found.get(name)
        if found is None or any(a is not b for a, b in zip(found[0], numbers, strict=True)):
            found = self._found[name] = (numbers, make())
        value: _Value = found[1]
        return value
