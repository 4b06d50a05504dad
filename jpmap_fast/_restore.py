"""The public face: one call from measurements to restored images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from jpmap_fast._prepared import as_algorithm, checked_codes, looked_at, prepare, prior_of
from jpmap_fast._result import Result
from jpmap_fast._run import Run
from jpmap_fast._surroundings import full_precision, steady
from jpmap_fast._validate import choice, count
from jpmap_fast.algorithms import ALGORITHMS, Algorithm, Monitor, Progress
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.priors.protocol import default_method
from jpmap_fast.residuals import Residual
from jpmap_fast.sampling import DEFAULT_METHOD, METHODS, as_method, with_codes
from jpmap_fast.sampling.estimate import posterior_mean
from jpmap_fast.sampling.method import SamplingMethod


@steady  # derivatives of a decoder need what inference mode leaves out
@torch.no_grad()
def restore(
    y: Any,
    operator: Operator | Any,
    prior: Prior | str,
    sigma: Any = None,
    *,
    method: str | Algorithm | SamplingMethod | None = None,
    residual: str | Residual | None = None,
    estimate: str = "map",
    z0: Any = None,
    generator: torch.Generator | None = None,
    record: bool = False,
    progress: bool | Progress = False,
    chunk_size: int | None = None,
) -> Result:
    r"""Restore images from measurements y = A x + noise with a generative prior.

    With the default method, the minimum over x and z of

        J1(x, z) = ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - G(z)||^2 + 1/2 ||z||^2,

    beta = 1 / gamma^2. Every image is a problem of its own: coupling weight, candidate choice,
    stopping test and outcome are per image, and no result depends on the rest of the batch.

    Args:
        y: measurements, a floating-point tensor or NumPy array: [B, C, H, W], or [B, m] for
            compressed sensing; or without B. Computed with in the prior's precision.
        operator: A, e.g. ``Inpainting(mask)``; or a linear deepinv physics, whose measurements may
            be complex or a ``TensorList``, see ``deepinv.as_operator``.
        prior: from ``load_prior``, or its name; anything with ``encode``, ``decode``, ``gamma``,
            ``latent_dim`` and ``image_shape``.
        sigma: standard deviation of the noise, > 0, for pixel values in [0, 1], of the real and the
            imaginary part each; a number or one an image [B]. None reads the ``noise_model.sigma``
            of a deepinv physics, "auto" is ``estimate_sigma(y, operator)``.
        method: a name, such as "jpmap", "map-z", "csgm" or "encoder", or an algorithm such as
            ``JPMAP(starts=8)``. None is "jpmap", or what a prior without codes says.
        residual: model of x - G(z): "white" (None) as above, another that the prior carries, such
            as "covariance", or a ``ResidualCovariance`` or ``GreyValueVariance``.
        estimate: "map" as above; "mean" for x = E[x|y], decoded = E[G|y] and z the highest mode, by
            ``sample``, whose methods ``method`` then means.
        z0: codes to descend from, of the shape of ``Result.z``, in place of the starts.
        generator: source of random starts, if there are any; torch's default generator if None.
        record: keep z, J1, beta, gap and candidate by iteration in ``Result.history``.
        progress: show a bar that counts finished images, with "encoder" passes of the network; or
            a function that is called with how many are done and how many there are.
        chunk_size: images worked on at a time; None chooses by memory. Results do not depend on it.

    Returns:
        A ``Result``. An image with NaN or infinity in its measurement is marked failed in
        ``status`` and leaves the others as they are.

    Raises:
        TypeError: integer images, a prior in half precision, or arguments of the wrong kind.
        ValueError: shapes, counts, devices, sigma or names that do not fit; a decoder that cuts the
            gradient.

    Example:
        >>> import jpmap_fast as jf
        >>> prior = jf.load_prior("mnist")
        >>> clean, _ = jf.mnist_test_digits(2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> mask = (torch.rand(28, 28, generator=generator) < 0.2).float()
        >>> operator = jf.Inpainting(mask)
        >>> y = operator.measure(clean, sigma=10 / 255, generator=generator)
        >>> result = jf.restore(y, operator, prior, sigma=10 / 255)
        >>> result.x.shape
        torch.Size([2, 1, 28, 28])

    Source: M. González, A. Almansa, P. Tan, arXiv 2103.01648.
    """
    choice("estimate", estimate, tuple(_ESTIMATES))
    options: dict[str, Any] = {"method": method, "residual": residual, "z0": z0}
    options |= {"generator": generator, "record": record, "progress": progress}
    given, prior = prior, prior_of(prior, shared=True)
    with looked_at(given, prior):
        return _ESTIMATES[estimate](y, operator, prior, sigma, chunk_size=chunk_size, **options)


def _most_probable(
    y: Any,
    operator: Operator | Any,
    prior: Prior,
    sigma: Any,
    *,
    method: str | Algorithm | None,
    residual: str | Residual | None,
    z0: Any,
    generator: torch.Generator | None,
    record: bool,
    progress: bool | Progress,
    chunk_size: int | None,
) -> Result:
    """``restore(..., estimate="map")``."""
    algorithm = as_algorithm(method, prior)
    size = None if chunk_size is None else count("chunk_size", chunk_size, 1)
    with full_precision():
        asked: dict[str, Any] = {"residual": residual, "codes": algorithm.uses_codes}
        task = prepare(y, operator, prior, sigma, **asked, share=True)
        problem, batched = task.problem, task.batched
        begin = None if z0 is None else checked_codes(z0, algorithm, problem, batched=batched)
        run = Run(problem, algorithm, generator, drawn=begin is None)
        with Monitor(record=record, progress=progress) as monitor:
            result = run(problem.y, begin, monitor, size=size, finite=task.finite)
    return result if batched else result.unbatched()


def default_name(estimate: str, prior: Prior) -> str:
    """The name of the method that None means for an estimate with a prior."""
    return default_method(prior) if estimate == "map" else DEFAULT_METHOD


def method_of(
    estimate: str, method: str | Algorithm | SamplingMethod | None, prior: Prior
) -> Algorithm | SamplingMethod:
    """What ``method`` means for an estimate, checked.

    Raises:
        ValueError, TypeError: no such estimate or method, or one that this prior cannot have.
    """
    choice("estimate", estimate, tuple(_ESTIMATES))
    if estimate == "map":
        return as_algorithm(method, prior)  # type: ignore[arg-type]  # which refuses others
    with_codes(prior)
    return as_method(method)


_ESTIMATES: dict[str, Callable[..., Result]] = {"map": _most_probable, "mean": posterior_mean}
# What ``method`` may name for each.
METHODS_OF: dict[str, Mapping[str, type[Algorithm] | type[SamplingMethod]]] = {
    "map": ALGORITHMS,
    "mean": METHODS,
}
