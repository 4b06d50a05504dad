"""Arguments of a restoration, checked and turned into a problem."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from jpmap_fast._validate import as_float_tensor, choice, noise_levels, same_device
from jpmap_fast.algorithms import ALGORITHMS, Algorithm, Problem
from jpmap_fast.operators import Operator
from jpmap_fast.operators.bound import unbound
from jpmap_fast.priors.base import Prior
from jpmap_fast.priors.decoder import make_decoder, make_encoder
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.load import available_priors, bundled_prior, load_prior


@dataclass(frozen=True)
class Task:
    """Checked inputs: the problem of the whole batch, and whether it came as a batch."""

    problem: Problem
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


def prior_of(prior: Prior | str, shared: bool = False) -> Prior:
    """A prior of itself or of its name.

    With ``shared`` a bundled one may be what others are given as well: for who changes nothing.
    """
    if isinstance(prior, str):
        known = shared and prior in available_priors()
        return bundled_prior(prior) if known else load_prior(prior)
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
    prior = prior_of(prior, shared=True)
    if is_physics(operator):
        from jpmap_fast.deepinv.translation import count_of, translate

        physics = operator
        translation = translate(physics, prior.image_shape, count_of(y))
        y, operator, sigma = translation.problem(y, physics, sigma)
    operator = unbound(operator)
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
    shape = operator.bind(image_shape, like=y).measurement_shape
    batched = y.dim() != len(shape)
    if tuple(y.shape[1:] if batched else y.shape) != shape:
        raise ValueError(
            f"y: expected shape {['B', *shape]} or {list(shape)} for {operator!r} and images of "
            f"shape {list(image_shape)}, got {list(y.shape)}".replace("'", "")
        )
    y = (y if batched else y[None]).contiguous()
    batch = y.shape[0]
    operator = operator.bind(image_shape, batch, like=y)
    deviation = noise_levels("sigma", sigma, batch, y)
    operator.check_range(y, deviation)
    decoder: Decoder
    if codes:
        decoder = make_decoder(prior, y[:0])
    else:
        decoder = FunctionDecoder(prior.decode, prior.latent_dim, math.prod(image_shape))
    problem = Problem(prior, make_encoder(prior), decoder, operator, y, deviation)
    return Task(problem, batched)


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


def checked_codes(
    z0: Any, algorithm: Algorithm, problem: Problem, *, batched: bool = True, looked_at: bool = True
) -> Tensor:
    """The codes of ``z0`` [B, k]; without ``looked_at`` their values are not.

    Raises:
        ValueError: another shape, type or device, not finite, or an algorithm without codes.
    """
    if not algorithm.uses_codes:
        raise ValueError(
            f"z0: expected None for {type(algorithm).__name__}, which knows no latent codes"
        )
    like, k = problem.y, problem.decoder.latent_dim
    codes = as_float_tensor("z0", z0, device=like.device)
    same_device("z0", codes.device, "y", like.device)
    if not batched and codes.dim() == 1:
        codes = codes[None]
    if tuple(codes.shape) != (problem.batch, k):
        raise ValueError(
            f"z0: expected shape {[problem.batch, k]}, one code an image, got {list(codes.shape)}"
        )
    if looked_at and not bool(torch.isfinite(codes).all()):
        raise ValueError("z0: expected finite codes, got NaN or infinity")
    return codes.to(like.dtype)
