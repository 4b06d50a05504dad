"""A request made ready for one batch after another: what comes again has its own ``Restorer``."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.algorithms import Algorithm, Progress
from jpmap_fast.jobs.pictures import Restoring
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.priors.protocol import bound, has_codes

# Restorers kept for one request, and the numbers of their batches: of larger pictures the work is
# worth more than its preparation.
KEPT, MOST_NUMBERS = 32, 1 << 20


class KeptRestoring(Restoring):
    """A ``Restoring`` with a ``Restorer`` for each shape and number of images that come again.

    On a CPU what it gives has the bits of ``restore``. On a GPU, where a Restorer is a recorded
    graph, there is one for ``most`` images, whatever their number, so that no image depends on how
    many come with it.

    Args:
        request, prior, arrays: as of ``Restoring``.
        most: images of a batch.
        device: in place of that of the request.
    """

    def __init__(
        self,
        request: RestoreRequest,
        *,
        most: int,
        prior: Any = None,
        arrays: Any = None,
        device: str | None = None,
    ) -> None:
        if device is not None:
            request = replace(request, device=device)
        super().__init__(request, prior=prior, arrays=arrays)
        self._most = most
        self._restorers: OrderedDict[tuple[Any, ...], jf.Restorer | None] = OrderedDict()

    def result(
        self,
        y: Tensor,
        operator: jf.Operator,
        image_shape: tuple[int, ...],
        sigma: Any,
        progress: Progress | None = None,
    ) -> jf.Result:
        """As of ``Restoring``."""
        restorer = self._restorer(len(y), operator, image_shape)
        if restorer is None:
            return super().result(y, operator, image_shape, sigma, progress)
        # Of a graph's own buffers, which its next call overwrites.
        return restorer(y).clone() if restorer.captured else restorer(y)

    def _restorer(
        self, images: int, operator: jf.Operator, image_shape: tuple[int, ...]
    ) -> jf.Restorer | None:
        """That of a shape and a number of images, from the second time on."""
        on_gpu = self.device.type == "cuda"
        size = self._most if on_gpu else images
        if not self._keeps(operator) or size * math.prod(image_shape) > MOST_NUMBERS:
            return None
        key = (*image_shape, size)
        known = key in self._restorers
        found = self._restorers.pop(key, None)
        if known and found is None:
            assert isinstance(self.algorithm, Algorithm)  # that of an image of highest density
            found = jf.Restorer(
                operator.to(self.device),
                bound(self.prior, image_shape),
                self.request.sigma,
                batch_size=size,
                method=self.algorithm,
                residual=self.request.residual,
                generator=self.generator(),
            )
        self._restorers[key] = found  # the last one used is the last one
        if len(self._restorers) > KEPT:
            self._restorers.popitem(last=False)
        return found

    def _keeps(self, operator: jf.Operator) -> bool:
        known = isinstance(self.request.sigma, float) and self.request.estimate == "map"
        # A Restorer of a CPU tells nobody how far it is, who might end it: not for large networks.
        short = self.device.type == "cuda" or has_codes(self.prior)
        return known and short and operator.batch is None
