"""Arguments of a restoration, checked and turned into a problem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from jpmap_fast._foreign import translator_of
from jpmap_fast._made_of_weights import looked_at_once
from jpmap_fast._modules import modules_of, weights_of
from jpmap_fast._noise_level import estimate_sigma
from jpmap_fast._validate import as_float_tensor, choice, noise_levels, same_device
from jpmap_fast.algorithms import ALGORITHMS, Algorithm, Problem
from jpmap_fast.operators import Operator
from jpmap_fast.operators.bound import BoundOperator, unbound
from jpmap_fast.operators.residual import with_residual
from jpmap_fast.priors.base import Prior
from jpmap_fast.priors.defaults import code_shape_of, undifferentiated
from jpmap_fast.priors.load import available_priors, bundled_prior, load_prior
from jpmap_fast.priors.protocol import bound, default_method, has_codes, make_decoder, make_encoder
from jpmap_fast.priors.vae import VAE
from jpmap_fast.residuals import WHITE, Residual, checked_residual, residuals_of

# In place of a noise level: as ``estimate_sigma`` finds it.
AUTO = "auto"


@dataclass(frozen=True)
class Task:
    """Checked inputs: the problem of the whole batch.

    Attributes:
        problem: of all images.
        batched: whether they came as a batch.
        finite: whether all measurements are known to be.
    """

    problem: Problem
    batched: bool
    finite: bool


def as_algorithm(method: str | Algorithm | None, prior: Prior) -> Algorithm:
    """An algorithm of itself or of its name; the prior's own of None.

    Raises:
        ValueError: no such name, or a method that descends in codes for a prior that has none.
        TypeError: neither a name nor an algorithm.
    """
    method = default_method(prior) if method is None else method
    if isinstance(method, str):
        choice("method", method, tuple(ALGORITHMS))
        method = _by_default(ALGORITHMS[method])
    if not isinstance(method, Algorithm):
        raise TypeError(
            f"method: expected one of {', '.join(ALGORITHMS)} or an algorithm object such as "
            f"JPMAP(), got {method!r}"
        )
    if method.uses_codes and not has_codes(prior):
        raise ValueError(
            f"method: expected {default_method(prior)!r} (or one without codes) for a "
            f"{type(prior).__name__}, which has no latent codes, got {type(method).__name__}, "
            "which descends in them"
        )
    return method


@cache
def _by_default(kind: type[Algorithm]) -> Algorithm:
    """An algorithm as it comes: it holds nothing that changes."""
    return kind()


def check_known(sigma: Any) -> None:
    """Raise ValueError where a noise level is to be estimated before there are measurements."""
    if isinstance(sigma, str) and sigma == AUTO:
        raise ValueError(
            "sigma: expected a number, or one an image, since a Restorer knows it before any "
            "measurements, got 'auto'; give jf.estimate_sigma(y, operator) of some"
        )


def prior_of(prior: Prior | str, shared: bool = False) -> Prior:
    """A prior of itself or of its name.

    With ``shared`` a bundled one may be what others are given as well: for who changes nothing.
    """
    if isinstance(prior, str):
        known = shared and prior in available_priors()
        return bundled_prior(prior) if known else load_prior(prior)
    # A protocol looks at every member, which takes longer than all that follows.
    if not isinstance(prior, VAE) and not isinstance(prior, Prior):
        raise TypeError(
            "prior: expected an object with encode, decode, gamma, latent_dim and image_shape "
            f"(see load_prior), got {type(prior).__name__}"
        )
    _check_evaluated(prior)
    return prior


def looked_at(given: Prior | str, prior: Prior) -> looked_at_once:
    """Inside, the weights of a prior are looked at once; never of one that was given by its name.

    Nobody can write to that one.
    """
    return looked_at_once(partial(weights_of, prior), constant=isinstance(given, str))


def _check_evaluated(prior: Prior) -> None:
    """Raise ValueError where what a prior says depends on the batch or on chance."""
    if not isinstance(prior, nn.Module):
        return
    for place, module in enumerate(modules_of(prior)):
        if module.training and isinstance(module, (_BatchNorm, _DropoutNd)):
            name = list(prior.named_modules())[place][0]
            raise ValueError(
                f"prior: expected evaluation mode, got {name} ({type(module).__name__}) in "
                "training mode, where an image depends on its batch or on chance; call prior.eval()"
            )


def operator_of(operator: Any) -> Operator | BoundOperator:
    """An operator of itself, bound or not; of no physics, which is translated before.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(operator, (Operator, BoundOperator)):
        raise TypeError(
            "operator: expected an operator such as Inpainting(mask), or a deepinv physics, "
            f"got {type(operator).__name__}"
        )
    return operator


def prepare(
    y: Any,
    operator: Any,
    prior: Prior,
    sigma: Any,
    *,
    residual: str | Residual | None = None,
    codes: bool = True,
    share: bool = False,
) -> Task:
    """Arguments of ``restore``, checked, with the prior as ``prior_of`` gives it.

    Without ``codes`` the decoder is not asked whether it can be differentiated. For ``share`` see
    ``Problem.shares``.
    """
    foreign = translator_of(operator)
    if foreign is not None:
        physics = operator
        shape = prior.image_shape or foreign.image_shape_of(physics, y)
        translation = foreign.translate(physics, shape, foreign.count_of(y))
        y, operator, sigma = translation.problem(y, physics, sigma)
    given = operator_of(operator)
    if sigma is None:
        raise TypeError(
            "sigma: expected the standard deviation of the noise, got None; only a deepinv physics "
            "has one of its own"
        )
    parameter = parameter_of(prior)
    y = as_float_tensor("y", y, device=None if parameter is None else parameter.device)
    like = y if parameter is None else parameter
    same_device("y", y.device, "the prior", like.device)
    if given.device is not None:
        same_device("y", y.device, "the operator", given.device)
    y = y.clone() if y.is_inference() else y
    y = y.to(like.dtype)

    operator = unbound(given).to(dtype=like.dtype)
    image_shape = _image_shape(prior, given, y)
    prior = _bound(prior, image_shape, like)
    shape = operator._measured_shape(image_shape, y)
    batched = y.dim() != len(shape)
    if tuple(y.shape[1:] if batched else y.shape) != shape:
        raise ValueError(
            f"y: expected shape {['B', *shape]} or {list(shape)} for {operator!r} and images of "
            f"shape {list(image_shape)}, got {list(y.shape)}".replace("'", "")
        )
    y = (y if batched else y[None]).contiguous()
    batch = y.shape[0]
    operator = operator.bind(image_shape, batch, like=y)
    if isinstance(sigma, str) and sigma == AUTO:
        sigma = estimate_sigma(y, operator)
    levels = noise_levels("sigma", sigma, batch, y)
    finite = operator.check_range(y, torch.from_numpy(levels.seen).expand(batch))
    deviation = levels.like(y, share=share)
    model = checked_residual(residual, residuals_of(prior))
    if model is not None and not codes:
        raise ValueError(
            f"residual: expected {WHITE!r} for a method without latent codes, got {residual!r}"
        )
    operator = with_residual(operator, model, prior.gamma, y)
    none = y[:0]
    decoder = make_decoder(prior, none) if codes else undifferentiated(prior)
    encoder = make_encoder(prior, none)
    shapes = image_shape, code_shape_of(prior)
    problem = Problem(prior, encoder, decoder, operator, y, deviation, *shapes, share)
    return Task(problem, batched, finite)


def _image_shape(prior: Prior, operator: Operator | BoundOperator, y: Tensor) -> tuple[int, ...]:
    """(C, H, W) of the images: the prior's, or of one of any size what the operator says of y."""
    if prior.image_shape is not None:
        return tuple(prior.image_shape)
    for measured_shape in (tuple(y.shape[1:]), tuple(y.shape)):  # of a batch, or of one image
        found = unbound(operator).image_shape_of(measured_shape) if measured_shape else None
        if found is not None:
            return tuple(found)
    if operator.image_shape is not None:  # to which it is bound
        return tuple(operator.image_shape)
    raise ValueError(
        f"prior: expected one of a fixed image shape, since measurements of shape {list(y.shape)} "
        f"of {operator!r} do not tell it, got {type(prior).__name__} for images of any size; give "
        "prior.bind((C, H, W))"
    )


def _bound(prior: Prior, image_shape: tuple[int, ...], like: Tensor) -> Prior:
    """A prior for images of a shape, of the type and on the device of ``like``.

    Raises:
        ValueError, TypeError: as ``bound``; what ``bind`` returns is in training mode, of another
            type or elsewhere.
    """
    found = bound(prior, image_shape)
    if found is prior:
        return prior
    _check_evaluated(found)
    own = parameter_of(found)
    if own is not None and (own.dtype, own.device) != (like.dtype, like.device):
        raise ValueError(
            f"prior: expected bind to return a prior in {like.dtype} on {like.device}, got one in "
            f"{own.dtype} on {own.device}"
        )
    return found


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


def checked_codes(
    z0: Any, algorithm: Algorithm, problem: Problem, *, batched: bool = True, looked_at: bool = True
) -> Tensor:
    """The codes of ``z0`` [B, *code_shape] as rows [B, k]; their values unless not ``looked_at``.

    Raises:
        ValueError: another shape, type or device, not finite, or an algorithm without codes.
    """
    if not algorithm.uses_codes:
        raise ValueError(
            f"z0: expected None for {type(algorithm).__name__}, which knows no latent codes"
        )
    like, shape = problem.y, problem.code_shape
    codes = as_float_tensor("z0", z0, device=like.device)
    same_device("z0", codes.device, "y", like.device)
    if not batched and codes.dim() == len(shape):
        codes = codes[None]
    if tuple(codes.shape) != (problem.batch, *shape):
        raise ValueError(
            f"z0: expected shape {[problem.batch, *shape]}, one code an image, got "
            f"{list(codes.shape)}"
        )
    if looked_at and not bool(torch.isfinite(codes).all()):
        raise ValueError("z0: expected finite codes, got NaN or infinity")
    codes = codes.to(like.dtype)
    return codes if len(shape) == 1 else codes.flatten(1)
