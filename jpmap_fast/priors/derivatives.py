"""Whether the derivatives that torch has of a decoder are those of its values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.reverse_decoder import ReverseDecoder, difference_step

# A derivative may differ from a difference quotient by this part of it.
AGREEMENT = 0.05
# Jacobians of more numbers than this are not written out to be looked at: no step of such a size
# takes their columns either.
MOST_NUMBERS = 1 << 26


@torch.no_grad()
def differentiated(
    function: Callable[[Tensor], Tensor],
    latent_dim: int,
    size: int,
    low_precision: bool,
    like: Tensor,
) -> FunctionDecoder:
    """The decoder z [B, k] -> images, by forward mode where torch can, else by reverse mode.

    Its derivative at one random code, in one random direction, is compared with a difference of its
    values.

    Args:
        function: decode.
        latent_dim, size, low_precision: as in ``FunctionDecoder``.
        like: of the type and device of the codes.

    Raises:
        ValueError: the images have another size, or the derivative is not that of the values: a
            part of the decoder cuts the gradient.
    """
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 1, latent_dim, generator=generator).to(like.device, like.dtype)
    forward = FunctionDecoder(function, latent_dim, size, None, low_precision)
    decoded = function(z)
    if decoded.numel() != size:
        raise ValueError(
            f"prior: expected decode to give {size} numbers an image, got shape "
            f"{list(decoded.shape)} for codes {list(z.shape)}"
        )
    decoder: FunctionDecoder
    try:
        if latent_dim * size <= MOST_NUMBERS:
            tangent = v @ forward.forward_mode(z)[1][0]
        else:
            tangent = forward.linearisation(z).push(v)
        decoder = forward
    except Exception:  # torch has as many kinds as there are reasons
        tangent = None
        decoder = ReverseDecoder(function, latent_dim, size, None, low_precision)
    h = difference_step(z)
    quotients = [
        ((decoder.value(z + s * v) - decoder.value(z - s * v)) / (2 * s)).double()
        for s in (h, h / 2)
    ]
    coarse, fine = quotients
    # What rounding in G leaves of a difference.
    noise = 32 * torch.finfo(z.dtype).eps / h * float(decoded.double().norm())
    slope = float(fine.norm())
    far = float((decoder.value(z + v) - decoder.value(z)).double().norm())
    smooth = float((coarse - fine).norm()) <= 0.02 * slope + noise
    if tangent is not None:
        _compare(float(tangent.double().norm()), tangent.double() - fine, slope, far, smooth, noise)
    direction = (fine / max(slope, 1e-300)).to(z.dtype) if slope else torch.ones_like(fine).to(z)
    try:
        _, pulled = decoder.pullback(z, lambda _: direction)
    except RuntimeError as error:
        raise ValueError(_text(slope, "it has none")) from error
    along = (pulled * v).double().sum()
    lost = along - (direction.double() * fine).sum()
    size_of_pull = float(pulled.double().norm())
    _compare(size_of_pull, lost, slope, far, smooth, noise)
    return decoder


def _compare(
    size: float, lost: Tensor, slope: float, far: float, smooth: bool, noise: float
) -> None:
    """Raise ValueError where a derivative of norm ``size`` cannot be that of the values.

    Where difference quotients of two steps do not agree, a kink is near: then only a derivative
    that is exactly zero tells anything.
    """
    wrong = smooth and float(lost.norm()) > AGREEMENT * slope + noise
    if wrong or (size == 0 and far > noise):
        raise ValueError(_text(slope, f"its derivative there has norm {size:.3g}"))


def _text(slope: float, found: str) -> str:
    return (
        "prior: expected decode to pass derivatives on, which every descent needs; its values "
        f"change by {slope:.3g} along a direction, but {found}. Take torch.no_grad, "
        "inference_mode, .detach(), .data, .numpy() or rounding out of it"
    )
