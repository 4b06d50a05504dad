"""One call from measurements to draws of what they may have been."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._memory import memory_at_hand
from jpmap_fast._prepared import Task, checked_codes, looked_at, prepare, prior_of
from jpmap_fast._run import Run
from jpmap_fast._surroundings import full_precision, steady
from jpmap_fast._validate import choice, count
from jpmap_fast.algorithms import JPMAP, Monitor, Problem
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.priors.protocol import has_codes
from jpmap_fast.residuals import Residual
from jpmap_fast.sampling.amis import AMIS
from jpmap_fast.sampling.assembly import Part, assembled, part_of
from jpmap_fast.sampling.mala import MALA
from jpmap_fast.sampling.method import SamplingMethod
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import find_modes
from jpmap_fast.sampling.moments import completed, drawn_images, moments
from jpmap_fast.sampling.posterior import Posterior
from jpmap_fast.sampling.random_numbers import Streams, drawn_seed
from jpmap_fast.sampling.smc import SMC

METHODS: dict[str, type[SamplingMethod]] = {"amis": AMIS, "smc": SMC, "mala": MALA}
DEFAULT_METHOD = "amis"


@steady
@torch.no_grad()
def sample(
    y: Any,
    operator: Operator | Any,
    prior: Prior | str,
    sigma: Any = None,
    *,
    draws: int = 100,
    method: str | SamplingMethod | None = None,
    residual: str | Residual | None = None,
    z0: Any = None,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Posterior:
    r"""Draw images from p(x | y), for measurements y = A x + noise and a generative prior.

    The model is z ~ N(0, I), x = G(z) + gamma n, y = A x + sigma e: the posterior of which
    ``restore`` finds a maximum. The codes are drawn from

        p(z | y) ~ exp(-(y - A G)^T (sigma^2 I + gamma^2 A A^T)^{-1} (y - A G) / 2 - ||z||^2 / 2),

    by default by importance sampling about its modes (``AMIS``), and x exactly from p(x | z, y).
    What is drawn is as good as the model: on images unlike those of the prior, intervals are too
    narrow, see ``Posterior.misfit``.

    Modes are looked for by Gauss-Newton descents from JPMAP's own end (or ``z0``) and the most
    probable of many prior draws; from more starts where chi^2 at the best mode is less probable
    than 1% for images of the prior. Every image is a problem of its own: its
    random numbers are keyed by its measurement and noise level, and it has the same bits alone and
    in any batch, place or chunk.

    Args:
        y, operator, prior, sigma: as in ``restore``; the prior has latent codes.
        draws: of x an image, >= 0; 0 for moments and codes alone.
        method: "amis", "smc", "mala", or an object such as ``AMIS(rounds=(512, 512))``; None for
            ``AMIS()``.
        residual: model of x - G(z) in the place of gamma n, as in ``restore``: "covariance",
            "pixel", "grey" or a model.
        z0: codes to look for modes from [B, k], in place of the end of a restoration.
        generator: of the one seed that is drawn; torch's default generator if None.
        chunk_size: images worked on at a time; None chooses by memory. Nothing depends on it.

    Returns:
        A ``Posterior``. An image with NaN or infinity in its measurement is marked failed in
        ``status`` and leaves the others as they are.

    Raises:
        TypeError, ValueError: as ``restore``; a prior without codes, such as ``photos``; draws or a
            method out of range.

    Example:
        >>> import jpmap_fast as jf
        >>> clean, _ = jf.mnist_test_digits(1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> operator = jf.Denoising()
        >>> y = operator.measure(clean, sigma=0.4, generator=generator)
        >>> posterior = jf.sample(y, operator, "mnist", 0.4, draws=20, generator=generator)
        >>> posterior.x.shape, posterior.status
        (torch.Size([1, 20, 1, 28, 28]), ['converged'])
    """
    given, prior = prior, with_codes(prior_of(prior, shared=True))
    way = as_method(method)
    draws = count("draws", draws, 0)
    size = None if chunk_size is None else count("chunk_size", chunk_size, 1)
    with full_precision(), looked_at(given, prior):
        task = prepare(y, operator, prior, sigma, residual=residual)
        posterior = posterior_of(task, way, draws, z0, generator, size)
    return posterior if task.batched else posterior.select(0)


def posterior_of(
    task: Task,
    method: SamplingMethod,
    draws: int,
    z0: Any,
    generator: torch.Generator | None,
    size: int | None,
) -> Posterior:
    """The posterior of a batch of checked measurements; ``z0`` is not checked yet."""
    problem = task.problem
    if z0 is not None:
        z0 = checked_codes(z0, JPMAP(), problem, batched=task.batched)
    seed = drawn_seed(generator)
    begin = _restored_codes(task, generator, size) if z0 is None else z0
    streams = Streams.of(seed, problem.y, problem.sigma[:, None])
    finite = torch.isfinite(problem.y.flatten(1)).all(dim=1)
    good = finite.nonzero()[:, 0]
    parts = [
        _of_chunk(problem.select(rows), method, draws, begin[rows], streams.select(rows))
        for rows in good.split(size or _fitting(problem, draws, method))
        if rows.numel()
    ]
    return assembled(problem, good, parts, draws)


def as_method(method: object) -> SamplingMethod:
    """A sampling method of itself or of its name; that of ``DEFAULT_METHOD`` of None.

    Raises:
        ValueError: no such name. TypeError: neither a name nor a method.
    """
    method = DEFAULT_METHOD if method is None else method
    if isinstance(method, str):
        choice("method", method, tuple(METHODS))
        return METHODS[method]()
    if not isinstance(method, SamplingMethod):
        raise TypeError(
            f"method: expected one of {', '.join(METHODS)} or an object such as AMIS(), got "
            f"{method!r}"
        )
    return method


def with_codes(
    prior: Prior,
    wanted: str = "latent codes to draw",
    lack: str = "its noise levels are a path, no posterior. restore(...) gives one estimate",
) -> Prior:
    """The prior itself.

    Args:
        prior: any.
        wanted, lack: what codes are asked for here, and what a prior without them has instead.

    Raises:
        ValueError: it has no latent codes.
    """
    if not has_codes(prior):
        raise ValueError(
            f"prior: expected one with {wanted}, got {type(prior).__name__}, which has none: "
            f"{lack}; priors with codes are 'mnist', 'fashion', 'faces' and those of jf.train"
        )
    return prior


def _restored_codes(task: Task, generator: torch.Generator | None, size: int | None) -> Tensor:
    """Where a restoration ends [B, k]."""
    run = Run(task.problem, JPMAP(), generator)
    result = run(task.problem.y, None, Monitor(), size=size, finite=task.finite)
    return result.z.flatten(1)


def _of_chunk(
    problem: Problem, method: SamplingMethod, draws: int, begin: Tensor, streams: Streams
) -> Part:
    """Everything of images whose measurements are finite."""
    model = Model(problem)
    modes = find_modes(
        model, begin, method.starts, method.screen, tuple(method.more_starts), streams
    )
    found, modes = method.draw(model, modes, streams)
    z = found.resampled(draws, streams)
    x = drawn_images(model, z, streams) if draws else None
    images = moments(model, completed(model, found), streams)
    return part_of(model, modes, found, z, x, images, method)


def _fitting(problem: Problem, draws: int, method: SamplingMethod) -> int:
    """Images of which everything fits into the memory at hand."""
    k, n = problem.decoder.latent_dim, max(math.prod(problem.image_shape), problem.decoder.widest)
    # Draws of x with their noise in float64; starts with four arrays of a Jacobian's size at the
    # peak of a step; codes, weights and densities of some thousand draws.
    each = 24 * draws * n + 16 * max((method.starts + 1, *method.more_starts)) * n
    each += 16 * 4096 * (k + 8)
    # Decoded draws, and once more where some images go on without the others.
    each += 2 * problem.y.element_size() * method.kept_draws * n
    return max(1, memory_at_hand(problem.y.device) // each)
