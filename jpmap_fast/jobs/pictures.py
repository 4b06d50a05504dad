"""A request made ready, and pictures in memory restored by it: no files are written here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._arrays import as_float_tensor, as_tensor
from jpmap_fast._messages import FieldError
from jpmap_fast._metrics import psnr
from jpmap_fast._prepared import AUTO
from jpmap_fast._restore import default_name, method_of
from jpmap_fast._validate import per_image
from jpmap_fast.algorithms import Progress
from jpmap_fast.jobs._degradation import Degradation
from jpmap_fast.jobs._restored import RestoredBatch, RestoredPicture
from jpmap_fast.jobs._sources import Item, Shape, check_shape
from jpmap_fast.jobs.device import pick_device
from jpmap_fast.jobs.report import PictureReport
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.operators.registry import named_operator, read_options
from jpmap_fast.priors import pinned_name
from jpmap_fast.priors.protocol import bound, picture_shape

# Shapes of pictures whose operators are kept.
KEPT = 4


class Restoring:
    """A request made ready: prior and operator are there, and any number of images follow.

    With a prior for pictures of any size each may have its own; what is made for the last few sizes
    is kept. It is made where it works: it does not pickle.

    Args:
        request: what to do with them; where it has ``inputs`` they are not looked at.
        prior: the one that the request names, on its device, where it is loaded already.
        arrays: options of the operator that the request leaves out, as arrays: "mask", "kernel" or
            "matrix" as their operators take them.

    Raises:
        ValueError, TypeError, OSError: the request is not complete, or names what cannot be had.

    Example:
        >>> import jpmap_fast as jf
        >>> from jpmap_fast.jobs import Restoring, RestoreRequest
        >>> ready = Restoring(RestoreRequest(operator="denoising", sigma=0.4, simulate=True))
        >>> digit = jf.mnist_test_digits(1)[0][0]
        >>> ready.picture(digit).report.source
        'picture'
    """

    def __init__(
        self,
        request: RestoreRequest,
        *,
        prior: Any = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> None:
        beside = {name: as_tensor(name, array).cpu() for name, array in (arrays or {}).items()}
        request.check_complete(beside)
        self.device = pick_device(request.device)
        if prior is None:
            # From here on the request names the commit of a prior on the hub,
            request = replace(request, prior=pinned_name(request.prior))
            prior = jf.load_prior(request.prior, device=self.device)
        self.prior = prior
        # and its method.
        method = request.method or default_name(request.estimate, self.prior)
        self.request = replace(request, method=method)
        self.algorithm = method_of(request.estimate, self.request.algorithm(), self.prior)
        if self.prior.image_shape is None:
            self._check_pictures()
        self._options = read_options(request.operator, request.options, beside)
        self._by_shape: dict[tuple[int, ...], Degradation] = {}
        # A of all images; None where they may have any size.
        self.fixed: Degradation | None = None
        # Of one image as it comes, (C, H, W), or of its measurements; None in it for any.
        self.shape: Shape = picture_shape(self.prior)
        if self.prior.image_shape is not None:
            self.fixed = Degradation(request, tuple(self.prior.image_shape), self._options)
            if not request.simulate:
                self.shape = self.fixed.measurement_shape()

    def _check_pictures(self) -> None:
        """Raise ValueError where measurements are no pictures, which alone tell a size."""
        if named_operator(self.request.operator).vectors:
            raise FieldError(
                "{operator} {name}: expected a {prior} of a fixed image shape, which measurements "
                "y [m] do not tell, got {got} for pictures of any size",
                {"name": self.request.operator, "got": type(self.prior).__name__},
            )

    def at(self, shape: tuple[int, ...]) -> Degradation:
        """A for images that come in a shape, as they are or as measurements.

        Raises:
            ValueError, TypeError: A is not for such images.
        """
        if self.fixed is not None:
            return self.fixed
        found = self._by_shape.pop(shape, None)
        if found is None:
            make = Degradation if self.request.simulate else Degradation.of_measured
            found = make(self.request, shape, self._options)
        self._by_shape[shape] = found  # the last one used is the last one
        if len(self._by_shape) > KEPT:
            del self._by_shape[next(iter(self._by_shape))]
        return found

    def picture(self, picture: Any, name: str = "picture") -> RestoredPicture:
        """Restore one picture.

        Args:
            picture: the measurement [C, H, W] or [m] of it, or the clean picture [C, H, W] where
                the request simulates; a floating-point tensor or array, of pixel values in [0, 1].
            name: of it, in the report; simulated measurements are drawn by it and the seed.

        Raises:
            ValueError, TypeError: another shape or type, values that are no pixel values, or masks
                or kernels of several images.
        """
        tensor = as_float_tensor("picture", picture).detach().cpu()
        check_shape(tuple(tensor.shape), self.shape)
        items = [Item(name, tensor.numpy(), 0)]
        self.at(tuple(tensor.shape)).check_count(1)
        done = self.batch(self.check_range(items))
        result = done.result.unbatched()
        return RestoredPicture(result.x, result.z, result.decoded, done.y[0], done.reports[0])

    def check_range(self, items: Sequence[Item]) -> list[Item]:
        """The items, of one shape, each with its noise level where that is to be estimated.

        Raises:
            ValueError: these cannot be (measurements of) images in [0, 1].
        """
        y = _stacked(items)
        found = self.at(tuple(y.shape[1:]))
        operator = jf.Denoising() if self.request.simulate else found.operator(items)
        if self.request.sigma == AUTO:
            sigma = jf.estimate_sigma(y, operator)
            items = [replace(i, sigma=s) for i, s in zip(items, sigma.tolist(), strict=True)]
        else:
            sigma = per_image("sigma", self.request.sigma, len(items), y)
        finite = torch.isfinite(y.flatten(1)).all(dim=1)
        rows = finite.nonzero()[:, 0]
        of_these = operator.bind(found.image_shape, len(items)).select(rows)
        of_these.check_range(y[rows], sigma[rows])
        return list(items)

    def noise_levels(self, items: Sequence[Item]) -> Any:
        """Sigma as ``restore`` takes it, of items as ``check_range`` gives them or not."""
        known = [item.sigma for item in items if item.sigma is not None]
        if len(known) < len(items):
            return self.request.sigma
        return torch.tensor(known, device=self.device)

    def batch(self, items: Sequence[Item], progress: Progress | None = None) -> RestoredBatch:
        """Restore images that were read, all at once.

        Args:
            items: of one shape.
            progress: as ``restore`` takes it.

        Raises:
            ValueError, TypeError: as ``restore``.
        """
        begin = time.perf_counter()
        images, y, operator, degradation = self.measured(items)
        found, sigma = y.to(self.device), self.noise_levels(items)
        result = self.result(found, operator, degradation.image_shape, sigma, progress)
        reports = self._reports(items, result, images)
        share = (time.perf_counter() - begin) / len(items)
        own = degradation.own_arrays(operator)
        return RestoredBatch(result, y, own, [PictureReport(**r, seconds=share) for r in reports])

    def result(
        self,
        y: Tensor,
        operator: jf.Operator,
        image_shape: tuple[int, ...],
        sigma: Any,
        progress: Progress | None = None,
    ) -> jf.Result:
        """``restore`` as the request has it.

        Args:
            y: measurements [B, ...], where it works.
            operator: A of these.
            image_shape: (C, H, W).
            sigma: as ``restore`` takes it.
            progress: as ``restore`` takes it.

        Raises:
            ValueError, TypeError: as ``restore``.
        """
        return jf.restore(
            y,
            operator.to(self.device),
            bound(self.prior, image_shape),
            sigma,
            method=self.algorithm,
            residual=self.request.residual,
            estimate=self.request.estimate,
            generator=self.generator(),
            # Draws are no iterations, of which a mean has none.
            progress=progress or False if self.request.estimate == "map" else False,
        )

    def generator(self) -> torch.Generator:
        """Of random starts, as new."""
        return torch.Generator().manual_seed(self.request.seed)

    def measured(self, items: Sequence[Item]) -> tuple[Tensor, Tensor, jf.Operator, Degradation]:
        """Images as they came, their measurements, and A of these images and of all, on the CPU.

        Args:
            items: of one shape.
        """
        images = _stacked(items)
        degradation = self.at(tuple(images.shape[1:]))
        operator = degradation.operator(items)
        y = degradation.measure(images, items) if self.request.simulate else images
        return images, y, operator, degradation

    def _reports(
        self, items: Sequence[Item], result: jf.Result, images: Tensor
    ) -> list[dict[str, Any]]:
        quality = {}
        if self.request.simulate:
            for name, found in (("psnr", result.x), ("psnr_decoded", result.decoded)):
                quality[name] = psnr(found.cpu(), images.to(found.dtype))
        finite = torch.isfinite(result.x.flatten(1)).all(dim=1).tolist()
        sigma = [self.request.sigma] * len(items)
        if self.request.sigma == AUTO:
            assert result.sigma is not None
            sigma = result.sigma.tolist()
        return [
            {
                "source": item.name,
                "sigma": sigma[i],
                "status": result.status[i],
                "converged": bool(result.converged[i]),
                "objective": finite_number(result.objective[i]),
                "iterations": int(result.iterations[i]),
                **{measure: finite_number(values[i]) for measure, values in quality.items()},
                "notes": tuple(item.notes),
                "failure": None if finite[i] else result.status[i],
            }
            for i, item in enumerate(items)
        ]


def restore_picture(
    picture: Any,
    request: RestoreRequest,
    *,
    prior: Any = None,
    arrays: Mapping[str, Any] | None = None,
    name: str = "picture",
) -> RestoredPicture:
    """Restore one picture in memory: ``Restoring(request).picture(picture)``.

    Args:
        picture, name: as ``Restoring.picture`` takes them.
        request, prior, arrays: as ``Restoring`` takes them.

    Raises:
        ValueError, TypeError, OSError: as these.

    Example:
        >>> import jpmap_fast as jf
        >>> digit = jf.mnist_test_digits(1)[0][0]
        >>> request = RestoreRequest(operator="inpainting", sigma=0.04)
        >>> mask = jf.random_masks(1, digit.shape, 0.5)[0]
        >>> restore_picture(digit * mask, request, arrays={"mask": mask}).x.shape
        torch.Size([1, 28, 28])
    """
    return Restoring(request, prior=prior, arrays=arrays).picture(picture, name)


def _stacked(items: Sequence[Item]) -> Tensor:
    return torch.from_numpy(np.stack([item.values for item in items]))


def finite_number(value: Tensor) -> float | None:
    """A number as JSON can hold it; None where it is not finite."""
    return float(value) if bool(torch.isfinite(value)) else None
