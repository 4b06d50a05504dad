"""What is made of weights once, and made anew when these hold other numbers.

Tensors count the versions of what is written into them, but not of every way to write: neither
through ``.data`` nor through an array of NumPy that shares their memory nor by a CUDA graph. So
their numbers are looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from jpmap_fast.kernels.fingerprint import fingerprints

_Value = TypeVar("_Value")


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
        # No two devices have one address.
        places = key, [(t.data_ptr(), t.dtype, t.shape) for t in weights]
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
        weights, constant: as ``looked_at_once`` takes them.
    """

    def __init__(self, weights: Callable[[], Sequence[Tensor]], constant: bool) -> None:
        self._weights, self._constant = weights, constant
        self._numbers: dict[int, int] | None = None

    def numbers(self, weights: Sequence[Tensor]) -> list[int] | None:
        """Of these weights; None where one of them is none of those that are looked at."""
        if self._numbers is None:
            held = self._weights()
            found = [0] * len(held) if self._constant else fingerprints(held)
            self._numbers = dict(zip(map(id, held), found, strict=True))
        known = self._numbers
        try:
            return [known[id(tensor)] for tensor in weights]
        except KeyError:
            return None


_looked = _Looked()


class looked_at_once:  # noqa: N801  # a generator with contextmanager takes three times as long
    """Inside, all of these weights are looked at together, once: a GPU is waited for then.

    Args:
        weights: asked for when the first of them is; the caller holds them.
        constant: nobody writes to them: they need not be looked at.
    """

    def __init__(self, weights: Callable[[], Sequence[Tensor]], constant: bool = False) -> None:
        self._look = _Look(weights, constant)

    def __enter__(self) -> None:
        self._outer, _looked.at = _looked.at, self._look

    def __exit__(self, *_: object) -> None:
        _looked.at = self._outer


def _numbers(weights: Sequence[Tensor]) -> list[int]:
    found = None if _looked.at is None else _looked.at.numbers(weights)
    return fingerprints(weights) if found is None else found


def _recording(weights: Sequence[Tensor]) -> bool:
    if torch.compiler.is_compiling():
        return True
    return weights[0].is_cuda and torch.cuda.is_current_stream_capturing()
