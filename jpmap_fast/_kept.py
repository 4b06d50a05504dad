"""What an operator makes once and keeps: spectra, factors, itself in another precision."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from jpmap_fast._arrays import on_host

_Value = TypeVar("_Value")


class Kept:
    """Values by key, each made when first asked for.

    Threads that ask at once may each make one, and all get the same whole value. Pickles and deep
    copies begin empty.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value of ``key``, of ``make`` where there is none yet."""
        found: _Value | None = self._values.get(key)
        if found is None:
            found = self._values.setdefault(key, plainly_made(make))
        return found

    def get_of(
        self, key: Hashable, tensor: Tensor, make: Callable[[], _Value], host: Tensor | None = None
    ) -> _Value:
        """The value of ``key``, made of a tensor; anew where that holds other numbers by now.

        They are compared, since not every way to write into a tensor leaves a trace: an array of
        NumPy may share its memory, and a CUDA graph counts no versions. ``host`` is what
        ``on_host`` gives of the tensor, of whoever has it.
        """
        host = on_host(tensor)[0] if host is None else host
        found: tuple[Tensor, _Value] | None = self._values.get(key)
        if found is None or found[0].device != host.device or not torch.equal(found[0], host):
            found = self._values[key] = plainly_made(lambda: (host.clone(), make()))
        return found[1]

    def peek(self, key: Hashable) -> Any:
        """The value of ``key``, None where it has not been asked for."""
        return self._values.get(key)

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


def plainly_made(make: Callable[[], _Value]) -> _Value:
    """``make()``, whatever mode it is first asked for in: it serves derivatives as well."""
    if not (torch.is_inference_mode_enabled() or torch.is_grad_enabled()):
        return make()  # as it would be: to enter modes takes longer than many a thing that is made
    with torch.inference_mode(False), torch.no_grad():
        return make()
