"""How large measurements of images in [0, 1] can be, of what is known of A."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jpmap_fast._arrays import on_host
from jpmap_fast.operators import measured_range

if TYPE_CHECKING:
    from jpmap_fast.operators.base import Operator

# Measurements so small are not looked at where nothing is known of A: its norm takes products.
_USUAL = 8.0
_POWER_ITERATIONS = 12


def check(operator: Operator, y: Tensor, sigma: Tensor, host: Tensor | None = None) -> bool:
    """Raise ValueError where y cannot be measurements of images with values in [0, 1].

    Args:
        operator: of a bound one.
        y: measurements [B, ...].
        sigma: noise deviations > 0 [B], there or on the host.
        host: y as ``on_host`` gives it, of whoever has it, for an operator without parts.

    Returns:
        Whether all of y is finite.
    """
    finite = True
    if y.numel():
        measured_range.check_noise(y, sigma)
        for part, piece, deviation in operator._measured_apart(y, sigma):
            shown = on_host(piece)[0] if host is None else host
            finite &= _check_values(part, piece, deviation, shown)
    return finite


def refused(operator: Operator, y: Tensor, sigma: Tensor) -> Tensor:
    """Which images ``check`` refuses, booleans [B], without asking the device.

    But for an A of which nothing is known, the first time.
    """
    bad = measured_range.quiet(y, sigma)
    for part, piece, deviation in operator._measured_apart(y, sigma):
        sums, norm = part._row_sums(), part._norm()
        reach, top = _reach(part, piece, sums, norm), None if sums is None else sums[0]
        large = measured_range.too_large(piece, deviation, reach, top, part._seen())
        values = piece.flatten()
        bad = bad | (large & ~(values.abs().amax(dim=0) <= _usual(part, piece, sums, norm)))
        if sums is not None and piece.dim() == 4:
            low = measured_range.too_low(piece, deviation, sums, part._seen(), asks=False)
            assert low is not None  # who asks nothing knows of none
            bad = bad | (low & ~(values.amin(dim=0) >= measured_range.least(sums)))
    return bad


def _check_values(operator: Operator, y: Tensor, sigma: Tensor, seen_from: Tensor) -> bool:
    """See ``check``, of one of the operator's parts, whose y is ``seen_from`` on the host."""
    low, high = torch.stack(torch.aminmax(seen_from)).tolist()  # NaN for one among them
    finite = -math.inf < low and high < math.inf
    sums, norm = operator._row_sums(), operator._norm()
    # Most measurements are passed by these two numbers alone; NaN is not.
    if not max(high, -low) <= _usual(operator, y, sums, norm):
        reach, top = _reach(operator, y, sums, norm), None if sums is None else sums[0]
        measured_range.check_size(y, sigma.to(y.device), reach, top, operator._seen())
    if sums is not None and y.dim() == 4 and not low >= measured_range.least(sums):
        seen = operator._seen()
        seen = seen if seen is None else seen.to(seen_from.device)
        deviation = sigma.to(seen_from.device)
        measured_range.check_sign(seen_from, deviation, sums, seen, finite=finite)
    return finite


def _usual(
    operator: Operator, y: Tensor, sums: tuple[float, float] | None, norm: float | None
) -> float:
    """What no measurement exceeds of which the size need not be looked at."""
    if sums is not None:
        return measured_range.BEYOND * max(sums)
    if norm is not None:
        return measured_range.BEYOND * norm * math.sqrt(_pixels(operator, y) / y[0].numel())
    return _USUAL


def _reach(
    operator: Operator, y: Tensor, sums: tuple[float, float] | None, norm: float | None
) -> Tensor:
    """The largest norm of A x [B] for x in [0, 1], without what nobody observed."""
    reach = torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)
    if sums is not None:
        seen = operator._seen()
        entries = torch.ones_like(y[0]) if seen is None else seen
        count = entries.expand_as(y).flatten(1).sum(dim=1, dtype=torch.float64)
        reach = count.sqrt() * max(sums)
    if norm is None and sums is None:
        norm = _estimated_norm(operator, y)
    return reach if norm is None else reach.clamp_max(norm * math.sqrt(_pixels(operator, y)))


def _pixels(operator: Operator, y: Tensor) -> int:
    """How many numbers an image has."""
    return math.prod(operator.image_shape or operator.A_adjoint(y).shape[1:])


def _estimated_norm(operator: Operator, y: Tensor) -> float:
    """The norm of A by power iteration, at most a little too small; of measurements as y."""

    def estimate() -> float:
        generator = torch.Generator(y.device).manual_seed(0)
        options = {"dtype": y.dtype, "device": y.device, "generator": generator}
        x = operator.A_adjoint(y if operator.batch is not None else y[:1])
        x = torch.rand(x.shape, **options)  # type: ignore[call-overload]
        norm = 0.0
        for _ in range(_POWER_ITERATIONS):
            measured = operator.A(x / x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1)))
            norm = max(norm, float(measured.flatten(1).norm(dim=1).nan_to_num().max()))
            x = operator.A_adjoint(measured)
        return norm

    if operator.batch is not None:
        return estimate()
    return operator._kept.get(("norm", tuple(y.shape[1:]), y.dtype, y.device), estimate)
