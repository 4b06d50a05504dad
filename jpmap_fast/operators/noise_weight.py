"""How strongly a blur is to be coupled to an estimate, by the noise that comes through."""

from __future__ import annotations

import math

from torch import Tensor

from jpmap_fast.operators.fourier import kernel_spectrum

# At 1/4 no frequency has noise of more power than s^2; a search found somewhat less for the kernels
# of motions and of a shaking hand.
LEAST, MOST = 0.01, 0.19
_SIDE = 64  # of the grid of frequencies, at least
_HALVINGS = 30


def noise_weight(kernel: Tensor, share: float, last: float) -> float:
    r"""The weight lambda of an x-update that passes on so much noise as a denoiser is told.

    With beta = lambda / s^2 and s = last sigma the x-update has at the frequency f noise of power

        s^2 h^2 / (last (h^2 + lambda / last^2))^2,    h = |kernel_hat(f)|,

    whatever sigma is. lambda is the one with ``share`` of s^2 on average over all frequencies,
    within ``LEAST`` and ``MOST``. A kernel that loses most frequencies altogether, such as a wide
    Gaussian, passes little noise, and wants less weight on the estimate for it.

    Args:
        kernel: [C, kh, kw] of sum 1, on the CPU.
        share: > 0.
        last: s over sigma, > 0.
    """
    side = 1 << (max(_SIDE, 2 * max(kernel.shape[-2:])) - 1).bit_length()
    # A half spectrum with its mirror image left out: every frequency but two columns counts twice.
    power = kernel_spectrum(kernel.double(), side, side).abs().square()

    def passed(weight: float) -> float:
        gain = power / (power + weight / last**2).square()
        inner = gain[..., 1:-1].sum() * 2
        whole = (inner + gain[..., 0].sum() + gain[..., -1].sum()) / (len(power) * side**2)
        return float(whole) / last**2

    low, high = math.log(LEAST), math.log(MOST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if passed(math.exp(middle)) > share else (low, middle)
    return math.exp(high)
