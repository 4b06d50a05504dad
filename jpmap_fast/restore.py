"""The public face: one call from measurements to restored images."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from jpmap_fast._surroundings import full_precision, steady
from jpmap_fast._validate import as_float_tensor, choice, count, noise_levels, same_device
from jpmap_fast.algorithms import (
    ALGORITHMS,
    STATUS_TEXT,
    Algorithm,
    History,
    Monitor,
    Outcome,
    Problem,
)
from jpmap_fast.algorithms.base import CONVERGED, FAILED
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.priors.decoder import make_decoder, make_encoder
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.load import available_priors, load_prior
from jpmap_fast.result import Result

# Working memory a chunk may take where nothing better is known, in bytes.
CHUNK_MEMORY = 1 << 30

NOT_FINITE = (
    "failed: the measurement contains NaN or infinity; replace such values "
    "(with 0 where nothing was observed)"
)


@steady  # derivatives of a decoder need what inference mode leaves out
@torch.no_grad()
def restore(
    y: Any,
    operator: Operator | Any,
    prior: Prior | str,
    sigma: Any = None,
    *,
    method: str | Algorithm = "jpmap",
    z0: Any = None,
    generator: torch.Generator | None = None,
    record: bool = False,
    progress: bool = False,
    chunk_size: int | None = None,
) -> Result:
    r"""Restore images from measurements y = A x + noise with a generative prior.

    With the default method, the minimum over x and z of

        J1(x, z) = ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - G(z)||^2 + 1/2 ||z||^2,

    beta = 1 / gamma^2. Every image is a problem of its own: coupling weight, candidate choice,
    stopping test and outcome are per image, and no result depends on the rest of the batch.

    Args:
        y: measurements, a floating-point tensor or NumPy array: [B, C, H, W] for image-shaped
            measurements, [B, m] for compressed sensing; or one of them without the batch
            dimension. Computation happens in the prior's precision.
        operator: A, e.g. ``Inpainting(mask)``; or a linear deepinv physics, whose measurements may
            be complex or a ``TensorList``, see ``jpmap_fast.deepinv.as_operator``.
        prior: from ``load_prior``, or its name; anything with ``encode``, ``decode``, ``gamma``,
            ``latent_dim`` and ``image_shape``.
        sigma: standard deviation of the noise, > 0, for pixel values in [0, 1]; a number or one an
            image [B]. Of complex measurements it is that of the real and imaginary part each. None
            reads the ``noise_model.sigma`` of a deepinv physics, which must be Gaussian.
        method: "jpmap", "map-z", "map-z-splitting", "csgm", "alternate-convex-search", or an
            algorithm object such as ``JPMAP(starts=8)``.
        z0: codes to descend from [B, k], such as those of the frame before, in place of the
            starts of the method. Methods without codes refuse it.
        generator: source of random starts, if there are any; torch's default generator if None.
        record: keep z, J1, beta, gap and candidate by iteration in ``Result.history``.
        progress: show a progress bar that counts finished images.
        chunk_size: images worked on at a time; None chooses by memory. Results do not depend on it.

    Returns:
        A ``Result``. An image with NaN or infinity in its measurement is marked failed in
        ``status`` and leaves the others as they are.

    Raises:
        TypeError: integer images, a prior in half precision, or arguments of the wrong kind.
        ValueError: shapes, counts, devices, values of sigma or names that do not fit; a decoder
            that cuts the gradient.

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
    algorithm = as_algorithm(method)
    if z0 is not None and not algorithm.uses_codes:
        raise ValueError(
            f"z0: expected None for {type(algorithm).__name__}, which knows no latent codes"
        )
    if isinstance(prior, str) and prior in available_priors():
        prior = _bundled(prior)
    with full_precision():
        task = prepare(y, operator, prior, sigma, codes=algorithm.uses_codes)
        if chunk_size is not None:
            chunk_size = count("chunk_size", chunk_size, 1)
        problem = task.problem
        algorithm = algorithm.bind(problem)
        begin = None if z0 is None else _codes(z0, task)
        # Drawn once: every chunk has the same random starts, or a result would depend on its chunk.
        codes = algorithm.starting_codes(problem, generator, drawn=begin is None)
        good = task.finite.nonzero()[:, 0]
        size = chunk_size or _chunk_size(problem, algorithm)
        outcomes = []
        with Monitor(record=record, progress=progress) as monitor:
            if not good.numel():  # not every A takes no images at all
                outcomes.append(Outcome.of_nothing(problem))
            for rows in good.split(size) if good.numel() else ():
                whole = rows.numel() == problem.batch
                part = problem if whole else problem.select(rows)
                settings = algorithm if whole else algorithm.select(rows)
                from_code = begin if begin is None or whole else begin[rows]
                outcomes.append(settings.solve(part, monitor, codes, from_code))
        return _assemble(task, good, outcomes, ", ".join(sorted(monitor.paths)))


@dataclass(frozen=True)
class Task:
    """Checked inputs: the problem of the whole batch and which of its images can be worked on."""

    problem: Problem
    finite: Tensor  # [B] bool
    batched: bool


def as_algorithm(method: str | Algorithm) -> Algorithm:
    """An algorithm of itself or of its name."""
    if isinstance(method, str):
        choice("method", method, tuple(ALGORITHMS))
        return ALGORITHMS[method]()
    if not isinstance(method, Algorithm):
        raise TypeError(
            f"method: expected one of {', '.join(ALGORITHMS)} or an algorithm object such as "
            f"JPMAP(), got {method!r}"
        )
    return method


@cache
def _bundled(name: str) -> Prior:
    """A bundled prior, read once and handed to nobody who could change it."""
    return load_prior(name)


def prior_of(prior: Prior | str) -> Prior:
    """A prior of itself or of its name."""
    if isinstance(prior, str):
        return load_prior(prior)
    if not isinstance(prior, Prior):
        raise TypeError(
            "prior: expected an object with encode, decode, gamma, latent_dim and image_shape "
            f"(see load_prior), got {type(prior).__name__}"
        )
    for name, module in prior.named_modules() if isinstance(prior, nn.Module) else ():
        if module.training and isinstance(module, (_BatchNorm, _DropoutNd)):
            raise ValueError(
                f"prior: expected evaluation mode, got {name} ({type(module).__name__}) in "
                "training mode, where an image depends on its batch or on chance; call prior.eval()"
            )
    return prior


def prepare(y: Any, operator: Any, prior: Prior | str, sigma: Any, *, codes: bool = True) -> Task:
    """Arguments of ``restore``, checked; without ``codes`` the decoder is not asked whether it can
    be differentiated.
    """
    prior = prior_of(prior)
    if is_physics(operator):
        from jpmap_fast.deepinv.translation import count_of, translate

        physics = operator
        translation = translate(physics, prior.image_shape, count_of(y))
        y, operator, sigma = translation.problem(y, physics, sigma)
    if not isinstance(operator, Operator):
        raise TypeError(
            "operator: expected an operator such as Inpainting(mask), or a deepinv physics, "
            f"got {type(operator).__name__}"
        )
    if sigma is None:
        raise TypeError(
            "sigma: expected the standard deviation of the noise, got None; only a deepinv physics "
            "has one of its own"
        )
    parameter = parameter_of(prior)
    y = as_float_tensor("y", y, device=None if parameter is None else parameter.device)
    like = y if parameter is None else parameter
    same_device("y", y.device, "the prior", like.device)
    if operator.device is not None:
        same_device("y", y.device, "the operator", operator.device)
    y = y.clone() if y.is_inference() else y
    y = y.to(like.dtype)

    image_shape = tuple(prior.image_shape)
    operator = operator.to(dtype=like.dtype)
    shape = operator.bind(image_shape).measurement_shape(image_shape, y)
    batched = y.dim() != len(shape)
    if tuple(y.shape[1:] if batched else y.shape) != shape:
        raise ValueError(
            f"y: expected shape {['B', *shape]} or {list(shape)} for {operator!r} and images of "
            f"shape {list(image_shape)}, got {list(y.shape)}".replace("'", "")
        )
    y = (y if batched else y[None]).contiguous()
    batch = y.shape[0]
    operator = operator.bind(image_shape, batch)
    deviation = noise_levels("sigma", sigma, batch, y)
    operator.check_range(y, deviation)
    finite = torch.isfinite(y.flatten(1)).all(dim=1) if batch else y.new_zeros(0, dtype=torch.bool)
    decoder: Decoder
    if codes:
        decoder = make_decoder(prior, y[:0])
    else:
        decoder = FunctionDecoder(prior.decode, prior.latent_dim, math.prod(image_shape))
    problem = Problem(prior, make_encoder(prior), decoder, operator, y, deviation)
    return Task(problem, finite, batched)


def parameter_of(prior: Prior) -> Tensor | None:
    """A parameter of a prior, whose type and device its images take; None if it has none.

    Raises:
        TypeError: neither float32 nor float64.
    """
    parameter = next(iter(prior.parameters()), None) if hasattr(prior, "parameters") else None
    if parameter is not None and parameter.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"prior: expected weights in float32 or float64, got {parameter.dtype}; "
            "convert it with prior.float()"
        )
    return parameter


def is_physics(value: Any) -> bool:
    """Whether this is a physics of deepinv; without deepinv imported there can be none."""
    module = sys.modules.get("deepinv.physics")
    return module is not None and isinstance(value, module.Physics)


def _chunk_size(problem: Problem, algorithm: Algorithm) -> int:
    """Images whose Jacobians and iterates fit into the memory at hand."""
    pixels = max(math.prod(problem.prior.image_shape), problem.decoder.widest)
    columns = problem.decoder.latent_dim + 8
    # Four arrays the size of the Jacobian are alive at the peak of a Gauss-Newton step.
    each = 4 * columns * pixels * problem.y.element_size() * algorithm.number_of_starts
    memory = CHUNK_MEMORY
    if problem.y.device.type == "cuda":
        memory = max(memory, torch.cuda.mem_get_info(problem.y.device)[0] // 4)
    return max(1, memory // each)


def _codes(z0: Any, task: Task) -> Tensor:
    """The codes of ``z0``, checked [B, k]."""
    like, k = task.problem.y, task.problem.decoder.latent_dim
    codes = as_float_tensor("z0", z0, device=like.device)
    same_device("z0", codes.device, "y", like.device)
    if not task.batched and codes.dim() == 1:
        codes = codes[None]
    if tuple(codes.shape) != (task.problem.batch, k):
        raise ValueError(
            f"z0: expected shape {[task.problem.batch, k]}, one code an image, "
            f"got {list(codes.shape)}"
        )
    if not bool(torch.isfinite(codes).all()):
        raise ValueError("z0: expected finite codes, got NaN or infinity")
    return codes.to(like.dtype)


def _assemble(task: Task, good: Tensor, outcomes: list[Outcome], path: str) -> Result:
    problem = task.problem
    batch, like = problem.batch, problem.y
    shape, k = tuple(problem.prior.image_shape), problem.decoder.latent_dim

    def spread(parts: list[Tensor], fill: float, *rest: int) -> Tensor:
        """Rows of the chunks, in the places of their images."""
        joined = torch.cat(parts)
        full = torch.full((batch, *rest), fill, dtype=joined.dtype, device=like.device)
        full[good] = joined
        return full

    states = [outcome.state for outcome in outcomes]
    codes = spread([outcome.status for outcome in outcomes], FAILED)
    texts = [STATUS_TEXT[code] for code in codes.tolist()]
    status = [
        text if ok else NOT_FINITE for text, ok in zip(texts, task.finite.tolist(), strict=True)
    ]
    nan = math.nan
    result = Result(
        x=spread([s.x for s in states], nan, *shape),
        z=spread([s.z for s in states], nan, k),
        decoded=spread([s.decoded for s in states], nan, *shape),
        objective=spread([s.objective for s in states], nan),
        converged=codes == CONVERGED,
        status=status,
        iterations=spread([outcome.iterations for outcome in outcomes], 0),
        candidates=spread([outcome.candidates for outcome in outcomes], 0, 3),
        beta=spread([outcome.beta for outcome in outcomes], nan),
        gap=spread([s.gap for s in states], nan),
        path=path,
        history=_join_histories(outcomes, good, batch),
    )
    if task.batched:
        return result
    whole = ("history", "path")
    fields = {name: value[0] for name, value in vars(result).items() if name not in whole}
    history = (
        None
        if result.history is None
        else History(*(v[:, 0] for v in vars(result.history).values()))
    )
    return Result(**fields, path=path, history=history)


def _join_histories(outcomes: list[Outcome], good: Tensor, batch: int) -> History | None:
    histories = [outcome.history for outcome in outcomes if outcome.history is not None]
    if len(histories) < len(outcomes) or not histories:
        return None
    length = max(history.objective.shape[0] for history in histories)
    columns = []
    for name in vars(histories[0]):
        fill = -1 if name == "candidate" else math.nan
        parts = []
        for history in histories:
            part = getattr(history, name)
            pad = part.new_full((length - part.shape[0], *part.shape[1:]), fill)
            parts.append(torch.cat((part, pad)))
        full = parts[0].new_full((length, batch, *parts[0].shape[2:]), fill)
        full[:, good] = torch.cat(parts, dim=1)
        columns.append(full)
    return History(*columns)
