"""What a model of DeepInverse keeps of the physics it was given."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.bound import unbound
from jpmap_fast.priors.base import Prior

if TYPE_CHECKING:
    from jpmap_fast.deepinv.snapshot import Signature
    from jpmap_fast.deepinv.translation import Translation


def base_class(module: str, name: str) -> Any:
    """A class of deepinv to inherit from; a plain module where deepinv is not installed.

    An installation that is broken says so.
    """
    if importlib.util.find_spec("deepinv") is None:
        return nn.Module
    return getattr(importlib.import_module(module), name)


class KnowsPhysics:
    """A mixin for modules with a ``prior``: physics as operators, made once for each.

    What is made is kept until the physics is gone or holds other values.
    """

    prior: Prior

    @property
    def _known(self) -> WeakKeyDictionary[nn.Module, tuple[Signature, Translation]]:
        return vars(self).setdefault("_translations", WeakKeyDictionary())

    def _problem(self, y: Any, physics: Any, sigma: Any) -> tuple[Any, Any, Any]:
        """Measurements, operator and noise level, as ``restore`` takes them."""
        operator = unbound(physics)
        if isinstance(operator, Operator) or not isinstance(physics, nn.Module):
            return y, operator, sigma
        return self._translation(y, physics).problem(y, physics, sigma)

    def _translation(self, y: Any, physics: nn.Module) -> Translation:
        from jpmap_fast.deepinv.snapshot import Signature
        from jpmap_fast.deepinv.translation import (
            Translation,
            count_of,
            image_shape_of,
            translate,
        )

        batch = count_of(y)
        known = self._known.get(physics)
        if known is not None and known[0].matches(physics):
            fits = self.prior.image_shape is not None or known[1].layout.fits(y)
            if fits and known[1].operator.batch in (None, 1, batch):
                return known[1]
        shape = self.prior.image_shape or image_shape_of(physics, y)
        made = translate(physics, shape, batch)
        # In the prior's precision once, so that factorisations are made once.
        parameters = self.prior.parameters() if isinstance(self.prior, nn.Module) else iter(())
        like = next(iter(parameters), None)
        dtype = None if like is None else like.dtype
        made = Translation(made.operator.to(dtype=dtype).bind(shape).operator, made.layout)
        self._known[physics] = (Signature(physics), made)
        return made

    def __getstate__(self) -> dict[str, Any]:
        # Copies begin without what was made for the physics of the original.
        return {name: value for name, value in vars(self).items() if name != "_translations"}
