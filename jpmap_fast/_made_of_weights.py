"""What is made of weights once, and made anew when these hold other numbers.

Tensors count the versions of what is written into them, but not of every way to write: neither
through ``.data`` nor through an array of NumPy that shares their memory nor by a CUDA graph. So
their numbers are looked at. A mask is compared with a copy (``Kept.get_of``), which is on the host
for other reasons; weights are too large for copies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from jpmap_fast._kept import plainly_made
from jpmap_fast.kernels.fingerprint import fingerprints

_Value = TypeVar("_Value")

_FAKE = torch._C._TorchDispatchModeKey.FAKE


@dataclass(frozen=True)
class _Kept(Generic[_Value]):
    """A value and what its weights were: where they lie, their versions and their numbers.

    Numbers are None of what is constant.
    """

    places: Any
    versions: list[int]
    numbers: list[int] | None
    value: _Value


class MadeOfWeights(Generic[_Value]):
    """One value, kept while the weights that it is made of stay as they are.

    It must not share memory with them. Threads that ask at once may each make one, and all get a
    whole value. Pickles and deep copies begin empty.
    """

    def __init__(self) -> None:
        self._kept: _Kept[_Value] | None = None

    def get(
        self, weights: Sequence[Tensor], make: Callable[[], _Value], key: Hashable = None
    ) -> _Value:
        """The value, of ``make`` where weights or ``key`` are others than when it was made.

        While a CUDA graph or an export records, nobody can look at numbers: weights are taken to
        be what they were if their versions are, and what is made then is not kept.
        """
        places = key, [(t.data_ptr(), t.dtype, t.shape) for t in weights]
        recording = _recording(weights)
        numbers = None if recording else _numbers(weights)
        # Read once: another thread may put its own value there at any time.
        kept = self._kept
        if kept is not None and kept.places == places:
            if numbers is not None:
                same = kept.numbers == numbers
            else:
                same = not recording or kept.versions == _versions(weights)
            if same:
                return kept.value
        value = plainly_made(make)
        if not recording:
            self._kept = _Kept(places, _versions(weights), numbers, value)
        return value

    def __reduce__(self) -> tuple[type[MadeOfWeights[_Value]], tuple[()]]:
        return type(self), ()


_of_owners: WeakKeyDictionary[Any, dict[Hashable, MadeOfWeights[Any]]] = WeakKeyDictionary()


def made_of_weights(owner: Any, name: Hashable) -> MadeOfWeights[Any]:
    """The value of this name that is kept for an object, for as long as that lives."""
    of_owner = _of_owners.get(owner)
    if of_owner is None:
        of_owner = _of_owners.setdefault(owner, {})
    found = of_owner.get(name)
    return of_owner.setdefault(name, MadeOfWeights()) if found is None else found


class Unchanged:
    """Parameters that are not to be written to any more, as far as their versions tell.

    Args:
        prior: whose they are; of what has no parameters there is nothing to say.
        user: what has been made of them, for its error.
    """

    def __init__(self, prior: Any, user: str) -> None:
        held = prior.parameters() if hasattr(prior, "parameters") else ()
        self._parameters = [parameter for parameter in held if not is_lazy(parameter)]
        self._versions, self._user = _versions(self._parameters), user

    def check(self) -> None:
        """Raise RuntimeError where one has been written to; it asks no device."""
        if _versions(self._parameters) != self._versions:
            raise RuntimeError(
                f"prior: expected the weights that this {self._user} was made with, got some that "
                f"have been written to since; make a new {self._user}"
            )


class _Looked(threading.local):
    """What this thread looks at once."""

    at: _Look | None = None


class _Look:
    """Weights that are looked at together when the first of them is asked for.

    Args:
        weights, constant: as ``looked_at_once`` takes them.
    """

    def __init__(self, weights: Callable[[], Sequence[Tensor]], constant: bool) -> None:
        self._weights, self.constant = weights, constant
        self._numbers: dict[int, int] | None = None

    def numbers(self, weights: Sequence[Tensor]) -> list[int] | None:
        """Of these weights, 0 for constant ones; None where one is none of those looked at."""
        if self._numbers is None:
            held = self._weights()
            if self.constant:
                found = [0] * len(held)
            else:
                try:
                    found = fingerprints(held)
                except (RuntimeError, ValueError):  # of one that perhaps nobody asks for
                    held = [tensor for tensor in held if can_be_looked_at(tensor)]
                    found = fingerprints(held)
            self._numbers = dict(zip(map(id, held), found, strict=True))
        known = self._numbers
        try:
            return [known[id(tensor)] for tensor in weights]
        except KeyError:
            return None


_looked = _Looked()


class looked_at_once:  # noqa: N801  # as a generator it would take longer
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


def can_be_looked_at(tensor: Tensor) -> bool:
    """Whether a tensor is numbers in memory: not sparse, quantised, nested, or without any yet."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type != "meta"
        and not (tensor.is_quantized or tensor.is_nested)
        and not is_lazy(tensor)
    )


def _numbers(weights: Sequence[Tensor]) -> list[int] | None:
    """Of these weights; None of constant ones."""
    look = _looked.at
    found = None if look is None else look.numbers(weights)
    if found is None:
        return fingerprints(weights)
    return None if look is not None and look.constant else found


def _versions(weights: Sequence[Tensor]) -> list[int]:
    # Tensors of inference mode count none.
    return [0 if t.is_inference() else t._version for t in weights]


def _recording(weights: Sequence[Tensor]) -> bool:
    # Of this thread: an export elsewhere changes nothing here.
    if torch._C._get_dispatch_mode(_FAKE) is not None:
        return True
    return any(t.is_cuda for t in weights) and torch.cuda.is_current_stream_capturing()
