"""The operator that a request names, for any images of one shape."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.data.picture import check_limit
from jpmap_fast.jobs._sources import Item
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.operators import Operator
from jpmap_fast.operators.registry import named_operator


class Degradation:
    """A for images of one shape: what is read is shared, random masks are each image's own.

    Args:
        request: of the run.
        image_shape: (C, H, W).
        options: of the operator, as ``read_options`` gives them.

    Raises:
        ValueError, TypeError: a mask, matrix or kernel does not fit.
    """

    def __init__(
        self, request: RestoreRequest, image_shape: tuple[int, ...], options: Mapping[str, Any]
    ) -> None:
        self._request = request
        check_limit(math.prod(image_shape), "a restored picture")
        self.image_shape = image_shape
        self._named = named_operator(request.operator)
        self._options = options
        # What is drawn for each image, by the name of what it takes the place of.
        self._drawn = [
            option.draws
            for option in self._named.options
            if option.of_each and option.name in self._options
        ]
        self._shared = None
        # Masks or kernels of their own of so many images; None where all share one.
        self._count: int | None = None
        if not self._drawn:
            generator = torch.Generator().manual_seed(request.seed)
            self._shared = self._named.build(self._options, image_shape, [generator])
            own = self._shared.batch
            self._count = own if own is not None and own > 1 else None
            self._shared.bind(image_shape)

    def check_sources(self, files: int, rows: bool) -> None:
        """Raise ValueError where nobody can tell which image has which mask or kernel.

        Args:
            files: number of sources.
            rows: whether they are slices of one array.
        """
        if self._count is not None and not rows and files != 1:
            raise ValueError(
                f"expected one mask or kernel for {files} picture files, got {self._count}; one "
                "for each image goes with an array or a file of as many pages"
            )

    def check_count(self, images: int) -> None:
        """Raise ValueError where there is another number of masks or kernels than of images."""
        if self._count not in (None, images):
            assert self._shared is not None
            what = next(iter(self._named.arrays(self._shared)), "operator")
            raise ValueError(
                f"{what}: expected one {what} or one for each of {images} images, got {self._count}"
            )

    def operator(self, items: Sequence[Item]) -> Operator:
        """A of these images."""
        if self._shared is not None and self._count is not None:
            rows = torch.tensor([item.row for item in items])
            return self._shared.bind(self.image_shape, self._count).select(rows).operator
        if self._shared is not None:
            return self._shared
        draws = [self._draws(item.name, " ".join(self._drawn)) for item in items]
        return self._named.build(self._options, self.image_shape, draws)

    def _draws(self, name: str, purpose: str) -> torch.Generator:
        """Random numbers of one image, whatever others there are and in whatever order."""
        text = f"{self._request.seed} {purpose} {name}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1
        return torch.Generator().manual_seed(seed)

    @classmethod
    def of_measured(
        cls, request: RestoreRequest, measured: tuple[int, ...], options: Mapping[str, Any]
    ) -> Degradation:
        """A for the images whose measurements have a shape, [C, H, W].

        Raises:
            ValueError: that does not tell theirs. ValueError, TypeError: as the class.
        """
        # Few operators ask for the shape of images; those that do are made again for the right one.
        draws = [torch.Generator().manual_seed(request.seed)]
        first = named_operator(request.operator).build(options, measured, draws)
        shape = first.image_shape_of(measured)
        if shape is None:
            raise ValueError(
                f"prior: expected one of a fixed image shape, since measurements of shape "
                f"{list(measured)} of {first!r} do not tell it"
            )
        found = cls(request, shape, options)
        if found.measurement_shape() != measured:
            raise ValueError(
                f"expected an image of shape {list(found.measurement_shape())} for {first!r}, got "
                f"{list(measured)}"
            )
        return found

    def measurement_shape(self) -> tuple[int, ...]:
        """Of one image that was measured already."""
        assert self._shared is not None  # of what was measured nothing is drawn
        return self._shared.bind(self.image_shape).measurement_shape

    def measure(self, images: Tensor, items: Sequence[Item]) -> Tensor:
        """Simulated measurements of clean images [B, C, H, W], the noise each image's own."""
        clean = self.operator(items).A(images)
        noise = [
            torch.randn(clean.shape[1:], generator=self._draws(item.name, "noise"))
            for item in items
        ]
        assert not isinstance(self._request.sigma, str)  # there is nothing to estimate it from
        return clean + self._request.sigma * torch.stack(noise)

    def arrays(self) -> dict[str, Any]:
        """What another run needs to know of A beside its measurements, where all share it."""
        return {} if self._shared is None else self._plain(self._shared)

    def own_arrays(self, operator: Operator) -> dict[str, Any]:
        """The same of these images, where each has its own: rows of the measurements."""
        return self._plain(operator) if self._drawn else {}

    def _plain(self, operator: Operator) -> dict[str, Any]:
        return {name: array.numpy() for name, array in self._named.arrays(operator).items()}
