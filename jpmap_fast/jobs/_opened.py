"""A request made ready, and the sources it names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpmap_fast._arrays import as_tensor
from jpmap_fast._messages import FieldError
from jpmap_fast.jobs._degradation import Degradation
from jpmap_fast.jobs._places import place
from jpmap_fast.jobs._sources import BATCH, Source, array_sources, check_vectors, sources
from jpmap_fast.jobs.pictures import Restoring
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.operators.registry import named_operator

# Of images that are drawn, which takes so much longer that what is lost with a run that is killed
# counts for more than what a batch as large as others gains.
DRAWN = 16
# Of these images, where they are large, or of their draws.
MOST_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Opened:
    """A request made ready, and what there is to work on.

    Attributes:
        ready: prior and operator.
        found: the sources.
        count: number of sources of the run.
        rows: whether they are slices of one array.
        common: A of all images; None of picture files that may have any size.
        size: images worked on at a time, if they are not large.
        draws: of each image, which then counts as so many.
    """

    ready: Restoring
    found: list[Source]
    count: int
    rows: bool
    common: Degradation | None
    size: int
    draws: int

    @property
    def most_numbers(self) -> float:
        """Of the images worked on at a time, where the request does not count these."""
        return MOST_NUMBERS if self.ready.request.chunk_size is None else math.inf

    @property
    def files(self) -> list[Path]:
        """Picture files."""
        return [source.file for source in self.found if source.file]


def opened(
    request: RestoreRequest, images: Any, arrays: Mapping[str, Any] | None, draws: int | None = None
) -> Opened:
    """The inputs of a request, or ``images`` in their place.

    Args:
        request, images, arrays: as ``run`` takes them.
        draws: of each image; None where it is restored.

    Raises:
        ValueError, TypeError, OSError: the request cannot be run at all.
    """
    if (images is None) == (not request.inputs):
        raise FieldError(
            "{inputs}: expected paths, or images beside the request; got "
            + ("neither" if images is None else "both")
        )
    request.check_complete(arrays or ())
    inputs = [place(path) for path in request.inputs]
    if inputs and named_operator(request.operator).vectors and not request.simulate:
        check_vectors(inputs, request.operator)
    ready = Restoring(request, arrays=arrays)
    size = batch_size(ready, draws)
    if images is None:
        found, rows = sources(
            inputs,
            ready.shape,
            key=request.key,
            background=request.background,
            batch=size,
        )
    else:
        array = as_tensor("images", images).detach().cpu().numpy()
        found, rows = array_sources(array, ready.shape, size), True
    common = ready.fixed
    if common is None and rows:
        common = ready.at(next(source.shape for source in found if source.shape))
    if common is not None:
        common.check_sources(len(found), rows)
    return Opened(ready, found, len(found), rows, common, size, draws or 1)


def batch_size(ready: Restoring, draws: int | None) -> int:
    """Images worked on at a time."""
    if ready.request.chunk_size is not None:
        return ready.request.chunk_size
    if draws is None:
        return BATCH
    each = draws * math.prod(ready.prior.image_shape or (1,))
    return max(1, min(DRAWN, MOST_NUMBERS // each))
