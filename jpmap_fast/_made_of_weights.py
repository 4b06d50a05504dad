"""What is made of weights once, and made anew when these hold other numbers.

Tensors count the versions of what is written into them, but not of every way to write: neither
through ``.data`` nor through an array of NumPy that shares their memory nor by a CUDA graph. So
their numbers are looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from jpmap_fast.kernels.fingerprint import fingerprints

_Value = TypeVar("_Value")


def weights_of(prior: Any) -> list[Tensor]:
    """Parameters and buffers of a prior that is a module; none of another."""
    if not (hasattr(prior, "parameters") and hasattr(prior, "buffers")):
        return []
    return [*prior.parameters(), *prior.buffers()]


class MadeOfWeights(Generic[_Value]):
    """One value, kept while the weights that it is made of stay as they are.

    Threads that ask at once may each make one, and all get a whole value. Pickles and deep copies
    begin empty.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, list[int] | None, _Value] | None = None

    def get(
        self, weights: Sequence[Tensor], make: Callable[[], _Value], key: Hashable = None
    ) -> _Value:
        """The value, of ``make`` where weights or ``key`` are others than when it was made.

        While a CUDA graph or an export records, nobody can look at numbers: then they are taken to
        be what they were.
        """
        places = (key, *((t.data_ptr(), t.dtype, t.device, t.shape) for t in weights))
        numbers = None if _recording(weights) else _numbers(weights)
        # Read once: another thread may put its own value there at any time.
        kept = self._kept
        same = kept is not None and kept[0] == places and numbers in (None, kept[1])
        if kept is None or not same:
            kept = self._kept = (places, numbers, make())
        return kept[2]

    def __reduce__(self) -> tuple[type[MadeOfWeights[_Value]], tuple[()]]:
        return type(self), ()


class _Looked(threading.local):
    """What this thread looks at once."""

    at: _Look | None = None


class _Look:
    """Weights that are looked at together when the first of them is asked for.

    Args:
        outer: what is looked at once already.
        weights, constant: as ``looked_at_once`` takes them.
    """

    def __init__(
        self, outer: _Look | None, weights: Callable[[], Sequence[Tensor]], constant: bool
    ) -> None:
        self._outer, self._weights, self._constant = outer, weights, constant
        self._numbers: dict[int, int] | None = None

    def numbers(self, weights: Sequence[Tensor]) -> list[int] | None:
        """Of these weights; None where one of them is none of those that are looked at."""
        found = None if self._outer is None else self._outer.numbers(weights)
        if found is not None:
            return found
        if self._numbers is None:
            held = self._weights()
            found = [0] * len(held) if self._constant else fingerprints(held)
            self._numbers = dict(zip(map(id, held), found, strict=True))
        known = self._numbers
        found = [known[id(tensor)] for tensor in weights if id(tensor) in known]
        return found if len(found) == len(weights) else None


_looked = _Looked()


@contextmanager
def looked_at_once(
    weights: Callable[[], Sequence[Tensor]], constant: bool = False
) -> Iterator[None]:
    """Until it is left all of these weights are looked at together, once: a GPU is waited for then.

    Args:
        weights: asked for when the first of them is; the caller holds them.
        constant: nobody writes to them: they need not be looked at.
    """
    outer = _looked.at
    _looked.at = _Look(outer, weights, constant)
    try:
        yield
    finally:
        _looked.at = outer


def _numbers(weights: Sequence[Tensor]) -> list[int]:
    found = None if _looked.at is None else _looked.at.numbers(weights)
    return fingerprints(weights) if found is None else found


def _recording(weights: Sequence[Tensor]) -> bool:
    if torch.compiler.is_compiling():
        return True
    return any(t.is_cuda for t in weights) and torch.cuda.is_current_stream_capturing()
