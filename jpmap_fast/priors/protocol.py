"""The optional half of what a prior is, read in one place: its own methods, or the defaults.

A method counts where the class defines it as a function: a module or another object that is kept
under the name of one is none of the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.priors.base import ModulePrior, Prior
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.priors.defaults import code_shape_of, default_decoder, default_encoder
from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.restoration import checked_restoration

# Of priors with latent codes, and of those without; the last of those that know patches.
DEFAULT_METHODS = ("jpmap", "encoder", "patch-jpmap")

# Which look themselves whether they describe what ``decode`` does.
_OWN = (ModulePrior.decoder, ConvVAE.decoder, MLPVAE.decoder)


def make_decoder(prior: Prior, like: Tensor | None = None) -> Decoder:
    """The decoder of a prior, bound to an image shape: its own, or ``decode`` by torch.

    What ``prior.decode`` does is what the decoder does: where a subclass or the object itself
    overrides ``decode``, the decoder it inherits is not asked, and one that gives other images is
    refused.

    Args:
        prior: bound to an image shape.
        like: of the type and device of the codes; None for those of the prior's parameters.

    Raises:
        ValueError: ``decode`` cuts the gradient, see ``derivatives.differentiated``; or the prior's
            decoder does not give the images of ``decode``. TypeError: it is no ``Decoder``.
    """
    if like is None:
        parameter = next(iter(prior.parameters()), None) if hasattr(prior, "parameters") else None
        like = torch.empty(0) if parameter is None else parameter
    method = _method(prior, "decoder", "decode")
    if method is None:
        return default_decoder(prior, like)
    decoder = method(like)
    if getattr(type(prior), "decoder", None) not in _OWN:
        _check_decoder(prior, decoder, like)
    return decoder  # type: ignore[no-any-return]


def make_encoder(prior: Prior, like: Tensor) -> Callable[[Tensor], Tensor]:
    """mu_phi of a prior, images [B, C, H, W] to codes [B, k]: its own, or the mean of ``encode``.

    Args:
        prior: bound to an image shape.
        like: of the type and device of the images.
    """
    method = _method(prior, "encoder", "encode")
    encoder = default_encoder(prior) if method is None else method(like)
    if len(code_shape_of(prior)) == 1:
        return encoder  # type: ignore[no-any-return]
    return lambda x: encoder(x).flatten(1)


def bound(prior: Prior, image_shape: Sequence[int]) -> Prior:
    """A prior for images of ``image_shape`` (C, H, W): of any size, or of this one.

    Raises:
        ValueError: it is for images of another shape, or cannot be bound to this one.
        TypeError: what ``bind`` returns is no prior.
    """
    shape = tuple(image_shape)
    if prior.image_shape is None:
        if not isinstance(getattr(type(prior), "bind", None), FunctionType):
            raise ValueError(
                "prior: expected image_shape to be (C, H, W), or a method bind(image_shape) for a "
                f"prior of any image size, got image_shape = None of {type(prior).__name__}"
            )
        prior = prior.bind(shape)  # type: ignore[attr-defined]
        if not isinstance(prior, Prior):
            raise TypeError(
                f"prior: expected bind to return a prior for images of shape {list(shape)}, got "
                f"{type(prior).__name__}"
            )
    own = None if prior.image_shape is None else list(prior.image_shape)
    if own != list(shape):
        raise ValueError(f"prior: expected one for images of shape {list(shape)}, got {own}")
    return prior


def fixed_image_shape(prior: Prior, who: str) -> tuple[int, ...]:
    """The image shape of a prior, for ``who`` cannot tell it from measurements.

    Raises:
        ValueError: the prior is of any image size.
    """
    if prior.image_shape is None:
        raise ValueError(
            f"prior: expected one of a fixed image shape, which {who} cannot tell, got "
            f"{type(prior).__name__} for images of any size; give prior.bind((C, H, W))"
        )
    return tuple(prior.image_shape)


def picture_shape(prior: Prior) -> tuple[int | None, ...]:
    """(C, H, W) of the images of a prior, each None where any will do."""
    if prior.image_shape is not None:
        return tuple(prior.image_shape)
    channels = getattr(prior, "channels", None)
    return (channels if isinstance(channels, int) else None, None, None)


def has_codes(prior: Prior) -> bool:
    """Whether a prior has codes to descend in: not where its class defines ``autoencode``(x, s)."""
    return not callable(getattr(type(prior), "autoencode", None))


def default_method(prior: Prior) -> str:
    """The name of the method of a prior, where nobody says another: one of ``DEFAULT_METHODS``."""
    if has_codes(prior):
        return DEFAULT_METHODS[0]
    name = getattr(type(prior), "method", None)
    return name if name in DEFAULT_METHODS else DEFAULT_METHODS[1]


def restoration_of(prior: Prior) -> dict[str, int]:
    """``prior.restoration``: settings that it chooses where the caller says nothing; {} without.

    Raises:
        ValueError, TypeError: other names than starts and n2, or values out of range.
    """
    settings = getattr(prior, "restoration", None)
    return checked_restoration(settings) if settings else {}


def _method(prior: Prior, name: str, describes: str) -> Callable[..., Any] | None:
    """The method ``name``(like) of a prior; None where it is none of the protocol, or outdated.

    It is outdated where a subclass of the class that defines it, or the object, has a method
    ``describes`` of its own.
    """
    classes = type(prior).__mro__
    own = getattr(prior, "__dict__", {})
    place = next((i for i, c in enumerate(classes) if name in vars(c)), None)
    if place is None or name in own or describes in own:
        return None
    if any(describes in vars(c) for c in classes[:place]):
        return None
    function = vars(classes[place])[name]
    known = isinstance(function, FunctionType) and _takes_like(function)
    return getattr(prior, name) if known else None


@cache
def _takes_like(function: FunctionType) -> bool:
    """Whether a function is (self, like): many a class has a method decoder(self, z)."""
    return list(signature(function).parameters)[1:] == ["like"]


def _check_decoder(prior: Prior, decoder: Any, like: Tensor) -> None:
    """Raise unless a decoder gives the images of ``decode``, at codes up to far from 0."""
    if not isinstance(decoder, Decoder):
        raise TypeError(
            "prior: expected decoder(like) to return a Decoder, such as MLPDecoder.of(...), got "
            f"{type(decoder).__name__}"
        )
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, prior.latent_dim, generator=generator)
    z = (z * torch.linspace(0, 4, 4)[:, None]).to(like.device, like.dtype)
    with torch.no_grad():
        asked = prior.decode(z.reshape(4, *code_shape_of(prior))).reshape(4, -1)
        read = decoder.value(z)
    expected, got = (list(asked.shape), asked.dtype), (list(read.shape), read.dtype)
    if expected != got or asked.shape[1] != math.prod(prior.image_shape or ()):
        raise ValueError(
            f"prior: expected decoder(like) to give images as decode does, {expected}, got {got}"
        )
    # Sums in another order: a few roundings of the largest value.
    level = 1000 * torch.finfo(read.dtype).eps * float(read.abs().amax())
    apart = float((asked - read).abs().amax())
    if not apart <= level:
        raise ValueError(
            "prior: expected decoder(like) to give the images of decode, got some that differ by "
            f"{apart:.3g}; mend it, or leave it out for derivatives by torch"
        )
