"""What ``sample`` returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from jpmap_fast._validate import count, number

# Codes in Posterior.status_code.
CONVERGED, UNTRUSTED, UNMIXED, FEW, MISFIT, FAILED, NOT_FINITE = range(7)


class IntervalCalibration(Protocol):
    """What makes intervals that cover what they say on real images."""

    def interval(self, posterior: Posterior, level: float) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds [B, C, H, W] of a level in (0, 1)."""
        ...


@dataclass(frozen=True)
class Posterior:
    r"""Draws of p(x, z | y) and what they say. Of one measurement every field loses its batch.

    Attributes:
        x: draws of the image given y, of equal weight [B, draws, C, H, W]; None with draws=0.
        z: the codes they are drawn with [B, draws, k], or [B, draws, \*code_shape].
        mean: E[x | y], by all weighted draws (not clipped), [B, C, H, W].
        std: standard deviation of each pixel of x given y [B, C, H, W], by all weighted draws:
            E var(x | z, y) + var E(x | z, y).
        decoded: E[G(z) | y], [B, C, H, W].
        codes, weights: the weighted draws behind it, [B, S, k] and [B, S], the weights with sum 1.
            Images with fewer draws than others have codes 0 of weight 0 at the end.
        ess: effective number of these draws [B].
        pareto_k: k-hat of the weights [B], to be trusted up to 0.7; NaN where there are none.
        r_hat: of the chains [B]; NaN without chains.
        log_evidence: log p(y) [B], of what was observed: compares priors, gammas and sigmas. NaN
            after MALA, and for an operator known by its action alone (``LinearOperator``, a mask
            after a blur), whose determinant nobody computes.
        modes: of p(z | y), the highest first [B, M, k], NaN where an image has fewer.
        mode_weights: part of the draws in the basin of each [B, M], NaN where there is no mode.
        misfit: chi^2 / m at the best mode, about 1 where the prior knows such images [B].
        misfit_p_value: how probable a larger one is for images of the prior [B]; below 0.01 more
            starts were tried.
        evaluations: decodes spent on modes and draws [B], a Jacobian being k of them.
        status_code: see ``status`` [B].
        method: "amis", "smc" or "mala", what drew each image's codes; a list.
        sigma: noise levels [B].

    A failed image has NaN in everything.
    """

    x: Tensor | None
    z: Tensor
    mean: Tensor
    std: Tensor
    decoded: Tensor
    codes: Tensor
    weights: Tensor
    ess: Tensor
    pareto_k: Tensor
    r_hat: Tensor
    log_evidence: Tensor
    modes: Tensor
    mode_weights: Tensor
    misfit: Tensor
    misfit_p_value: Tensor
    evaluations: Tensor
    status_code: Tensor
    sampler: Tensor = field(repr=False)
    sigma: Tensor
    batched: bool = field(default=True, repr=False)

    @property
    def var(self) -> Tensor:
        """The variance of each pixel, std^2 [B, C, H, W]."""
        return self.std.square()

    @property
    def converged(self) -> Tensor:
        """Whether the draws can be trusted, bool [B]: a large misfit says nothing against them."""
        return (self.status_code == CONVERGED) | (self.status_code == MISFIT)

    @property
    def method(self) -> list[str] | str:
        """What drew the codes of each image."""
        names = ("amis", "smc", "mala")
        found = [names[i] for i in self.sampler.reshape(-1).tolist()]
        return found if self.batched else found[0]

    @property
    def status(self) -> list[str] | str:
        """How far the draws of each image can be trusted, in words.

        Read from tensors: on a GPU it waits for the device.
        """
        columns = (self.status_code, self.pareto_k, self.r_hat, self.ess, self.misfit)
        rows = zip(*(column.reshape(-1).tolist() for column in columns), strict=True)
        found = [_in_words(*row) for row in rows]
        return found if self.batched else found[0]

    def quantile(self, q: float) -> Tensor:
        """The q-quantile of each pixel of x given y [B, C, H, W], by the draws ``x``.

        With n draws that of rank q (n + 1), between two of them by a straight line, and the least
        or the largest draw beyond: another draw is below it with probability q where q is from
        1/(n + 1) to n/(n + 1).

        Raises:
            ValueError: q is not in (0, 1), or there are no draws. TypeError: no number.
        """
        q = number("q", q)
        if not 0 < q < 1:
            raise ValueError(f"q: expected a number in (0, 1), got {q}")
        ordered = self._x.sort(dim=self._draws).values  # NaN, of a failed image, stays NaN
        number_of = ordered.shape[self._draws]
        place = min(max(q * (number_of + 1) - 1, 0), number_of - 1)
        low = min(math.floor(place), number_of - 2) if number_of > 1 else 0
        below, above = (ordered.select(self._draws, min(i, number_of - 1)) for i in (low, low + 1))
        return torch.lerp(below, above, place - low)

    def interval(
        self, level: float, calibration: IntervalCalibration | None = None
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of each pixel of x given y, [B, C, H, W] each.

        Between the (1 - level)/2 and the (1 + level)/2 quantile of the draws ``x``: of each pixel
        on its own, and as sure as the prior is right about images like these. Of fewer than
        (1 + level)/(1 - level) draws, 19 for 0.9, these are the least and the largest, which are
        less sure: with n draws (n - 1)/(n + 1).

        Args:
            level: in (0, 1).
            calibration: asked by ``calibration.interval(posterior, level)`` instead; a
                ``Calibration`` covers real images as often as it says.

        Raises:
            ValueError: the level is out of range, or there are no draws. TypeError: no number.
        """
        level = number("level", level)
        if not 0 < level < 1:
            raise ValueError(f"level: expected a number in (0, 1), got {level}")
        if calibration is not None:
            return calibration.interval(self, level)
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def probability(self, event: Callable[[Tensor], Tensor]) -> Tensor:
        """The part of the draws ``x`` in which something holds.

        Args:
            event: images [R, C, H, W] to booleans, or numbers in [0, 1], [R, ...]; such as
                ``lambda x: x > 0.5``, of each pixel, or ``lambda x: x.mean((1, 2, 3)) > 0.5``.

        Returns:
            [B, ...].

        Raises:
            ValueError: there are no draws, or the event says something of another number of images
                or no probabilities. TypeError: no function.
        """
        x = self._x
        if not callable(event):
            raise TypeError(f"event: expected a function of images [R, C, H, W], got {event!r}")
        flat = x.reshape(-1, *x.shape[-3:])
        found = event(flat)
        if not isinstance(found, Tensor) or found.dim() < 1 or len(found) != len(flat):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"event: expected a tensor of {len(flat)} rows, one an image, got {got}"
            )
        rows = found.to(x.dtype).reshape(*x.shape[:-3], *found.shape[1:])
        # An image that failed has no probability.
        failed = torch.isnan(x).flatten(self._draws + 1).any(dim=-1)
        failed = failed.reshape(*failed.shape, *[1] * (rows.dim() - failed.dim()))
        known = rows.masked_fill(failed, 0)
        if not bool(((known >= 0) & (known <= 1)).all()):
            raise ValueError(
                "event: expected booleans, or numbers in [0, 1], such as x > 0.5, got values from "
                f"{float(known.min()):g} to {float(known.max()):g}"
            )
        return rows.masked_fill(failed, torch.nan).mean(dim=self._draws)

    def to_arviz(self) -> Any:
        """The draws as ArviZ has them, one chain: z and x, and ess and pareto_k as constant data.

        Raises:
            ImportError: ArviZ is not installed. ValueError: there are no draws.
        """
        try:
            import arviz
        except ImportError as error:
            raise ImportError(
                "to_arviz: expected the package arviz, which is not installed; pip install arviz"
            ) from error
        draws = {"z": self.z, "x": self._x}
        if self.batched:  # ArviZ has chain and draw first
            draws = {name: value.transpose(0, 1) for name, value in draws.items()}
        told = {name: getattr(self, name) for name in ("ess", "pareto_k", "r_hat", "log_evidence")}
        groups = {
            "posterior": {name: v[None].cpu().numpy() for name, v in draws.items()},
            "constant_data": {name: v.reshape(-1).cpu().numpy() for name, v in told.items()},
        }
        if hasattr(arviz, "InferenceData"):
            return arviz.from_dict(**groups)
        return arviz.from_dict(groups)

    @property
    def _draws(self) -> int:
        """The dimension of draws."""
        return 1 if self.batched else 0

    @property
    def _x(self) -> Tensor:
        if self.x is None:
            raise ValueError("draws: expected at least 1 of x, got draws=0; sample again with some")
        return self.x

    def first(self, number: int) -> Posterior:
        """The first ``number`` images of a batch, views of these."""
        return self._each(lambda value: value[:number])

    def clone(self) -> Posterior:
        """A copy that the next call of a ``Sampler`` leaves alone."""
        return self._each(Tensor.clone)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Posterior:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)

    def select(self, index: int) -> Posterior:
        """The image ``index`` alone, without its batch dimension.

        Raises:
            IndexError: there is no such image. ValueError: there is no batch. TypeError: no index.
        """
        if not self.batched:
            raise ValueError("index: expected a posterior of a batch, got one of a single image")
        position = count("index", index, 0)
        if position >= len(self.ess):
            raise IndexError(f"index: expected one below {len(self.ess)}, got {position}")
        return replace(self._each(lambda value: value[position]), batched=False)


def draws_for(level: float) -> int:
    """The fewest draws between whose extremes another one is with probability ``level``."""
    return math.ceil((1 + level) / (1 - level) - 1e-9)


def _in_words(code: int, pareto_k: float, r_hat: float, ess: float, misfit: float) -> str:
    if code == UNTRUSTED:
        return f"pareto_k {pareto_k:.2f}: raise rounds of AMIS, or use a fallback"
    if code == UNMIXED:
        return f"r_hat {r_hat:.2f}: raise steps"
    if code == FEW:
        return f"ess {ess:.0f}: raise rounds of AMIS, particles of SMC or steps of MALA"
    if code == MISFIT:
        return f"misfit {misfit:.2f}: raise starts; or the prior does not know such images"
    if code == FAILED:
        return "failed: the posterior is NaN or infinite wherever it was looked at"
    if code == NOT_FINITE:
        return (
            "failed: the measurement contains NaN or infinity; replace such values (with 0 where "
            "nothing was observed)"
        )
    return "converged"
