"""Adaptive multiple importance sampling from a mixture about the modes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jpmap_fast._validate import choice, count, counts, number, positive
from jpmap_fast.kernels.code_products import log_sum
from jpmap_fast.sampling.mala import MALA
from jpmap_fast.sampling.method import SamplingMethod
from jpmap_fast.sampling.mixture import Mixture
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import Modes
from jpmap_fast.sampling.moments import sums_of_passes
from jpmap_fast.sampling.pareto import effective, largest_shape, smoothed
from jpmap_fast.sampling.passes import Pass, log_joint_passing
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.smc import SMC
from jpmap_fast.sampling.weighted import AMIS_DRAWS, Weighted

# Draws of each extra round, and the fewest that a Pareto law is fitted to.
_EXTRA = 1024
_FEWEST = 32
# Numbers that the passes of images with extra rounds may be.
_ROOM = 1 << 26
_FALLBACKS: dict[str, type[SamplingMethod]] = {"mala": MALA, "smc": SMC}


@dataclass(frozen=True)
class AMIS(SamplingMethod):
    r"""Adaptive multiple importance sampling.

    Proposals are a mixture of Student-t laws about the modes of p(z | y), with a part of the prior.
    After each round the mixture is fitted to the weighted draws so far. A draw z of any round has
    the weight

        p(y | z) p(z) / sum_r (N_r / N) q_r(z)

    of all rounds (the deterministic mixture); the largest weights are smoothed by a Pareto law
    (PSIS), whose shape k-hat says whether they can be trusted. Images whose k-hat is above
    min(max_pareto_k, 1 - 1 / log10 N), or whose effective number of draws is below min_ess, have
    extra rounds of 1,024 draws.

    Args:
        starts, screen, more_starts: how modes are found, see ``sample``.
        rounds: draws of each round, >= 32 in the first.
        degrees: of freedom of the Student-t laws, >= 1; None for 8, or k / 2 where that is more.
        defensive: part of the prior in the proposal, in (0, 1).
        min_ess: > 0.
        max_pareto_k: in (0, 1).
        extra_rounds: >= 0.
        fallback: "mala" or "smc", which goes on from the modes for images whose k-hat stays above
            its limit; None for a status that says so.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: J.-M. Cornuet et al., "Adaptive multiple importance sampling", Scandinavian J. Stat. 39,
    2012.
    """

    rounds: tuple[int, ...] = (128, 128, 256)
    degrees: int | None = None
    defensive: float = 0.05
    min_ess: float = 100.0
    max_pareto_k: float = 0.7
    extra_rounds: int = 3
    fallback: str | None = "mala"

    def __post_init__(self) -> None:
        super().__post_init__()
        rounds = counts("AMIS: rounds", self.rounds, 1)
        if not rounds or rounds[0] < _FEWEST:
            raise ValueError(f"AMIS: expected rounds of {_FEWEST} draws or more, got {rounds}")
        if self.degrees is not None:
            count("AMIS: degrees", self.degrees, 1)
        positive("AMIS: min_ess", self.min_ess)
        for name in ("defensive", "max_pareto_k"):
            value = number(f"AMIS: {name}", getattr(self, name))
            if not 0 < value < 1:
                raise ValueError(f"AMIS: expected {name} in (0, 1), got {value}")
        count("AMIS: extra_rounds", self.extra_rounds, 0)
        if self.fallback is not None:
            choice("AMIS: fallback", self.fallback, tuple(_FALLBACKS))

    def degrees_for(self, k: int) -> int:
        """See ``SamplingMethod``."""
        return super().degrees_for(k) if self.degrees is None else self.degrees

    def complaints(self) -> dict[str, float]:
        """See ``SamplingMethod``."""
        return {"ess": self.min_ess, "pareto_k": self.max_pareto_k, **MALA().complaints()}

    def draw(self, model: Model, modes: Modes, streams: Streams) -> Weighted:
        """See ``SamplingMethod``."""
        mixture = modes.mixture(self.degrees_for(modes.z.shape[2]), self.defensive)
        rounds = _Rounds(model, mixture, streams)
        for size in self.rounds:
            rounds = rounds.after(size)
        found = rounds.weighted()
        if self.extra_rounds:
            rows = self._doubtful(found).nonzero()[:, 0]
            size = rounds.fitting(_EXTRA * self.extra_rounds)
            for some in rows.split(size) if rows.numel() else ():
                part = rounds.select(some)
                for _ in range(self.extra_rounds):
                    part = part.after(_EXTRA)
                found = found.put(some, part.weighted())
        if self.fallback is None:
            return found
        rows = self._untrusted(found).nonzero()[:, 0]
        if not rows.numel():
            return found
        other = _FALLBACKS[self.fallback]
        method = SMC(begin="modes") if other is SMC else other()
        again = method.draw(model.select(rows), modes.select(rows), streams.select(rows))
        spent = found.evaluations[rows] + again.evaluations
        return found.put(rows, replace(again, evaluations=spent))

    def _untrusted(self, found: Weighted) -> Tensor:
        limit = torch.tensor(
            [largest_shape(size, self.max_pareto_k) for size in found.size.tolist()],
            dtype=torch.float64,
            device=found.ess.device,
        )
        return ~(found.pareto_k <= limit)

    def _doubtful(self, found: Weighted) -> Tensor:
        return self._untrusted(found) | ~(found.ess >= self.min_ess)


class _Rounds:
    """Draws of all rounds so far and the mixtures that they came from.

    Attributes:
        z: [B, N, k].
        log_joint: at them [B, N].
        log_total: log of sum_r N_r q_r(z) [B, N].
        passes: what is left of each round's pass through the decoder; empty where nothing is.
    """

    def __init__(self, model: Model, mixture: Mixture, streams: Streams) -> None:
        self._model, self._streams = model, streams
        self._next = mixture
        self._before: list[tuple[int, Mixture]] = []
        batch, _, k = mixture.mean.shape
        self.z = mixture.mean.new_zeros(batch, 0, k)
        self.log_joint = self.log_total = self.z[..., 0]
        self.passes: list[Pass] = []

    def fitting(self, more: int) -> int:
        """Of how many images the passes fit into memory with so many draws more."""
        if not self.passes:
            return max(1, len(self.z))
        return max(1, _ROOM // ((self.z.shape[1] + more) * self.passes[0].outputs.shape[2]))

    def select(self, index: Tensor) -> _Rounds:
        """Those of the images ``index``."""
        new = _Rounds(
            self._model.select(index), self._next.select(index), self._streams.select(index)
        )
        new._before = [(size, mixture.select(index)) for size, mixture in self._before]
        new.z, new.log_joint = self.z[index], self.log_joint[index]
        new.log_total = self.log_total[index]
        new.passes = [one.select(index) for one in self.passes]
        return new

    def after(self, size: int) -> _Rounds:
        """The same with one more round of ``size`` draws."""
        mixture = self._next
        if self.z.shape[1]:
            mixture = mixture.adapted(self.z, smoothed(self.log_weights)[0])
        new = _Rounds(self._model, mixture, self._streams)
        new._before = [*self._before, (size, mixture)]
        z = mixture.draw(size, f"round {len(self._before)}", self._streams)
        z = z.to(self._model.problem.y.dtype).double()  # as the decoder sees it
        total = torch.full_like(z[..., 0], -torch.inf)
        for drawn, earlier in new._before:
            total = log_sum(total, earlier.log_density(z) + math.log(drawn))
        new.z = torch.cat((self.z, z), dim=1)
        log_joint, one = log_joint_passing(self._model, z)
        new.log_joint = torch.cat((self.log_joint, log_joint), dim=1)
        new.passes = self.passes if one is None else [*self.passes, one]
        if self.z.shape[1]:
            here = mixture.log_density(self.z) + math.log(size)
            total = torch.cat((log_sum(self.log_total, here), total), dim=1)
        new.log_total = total
        return new

    @property
    def log_weights(self) -> Tensor:
        """[B, N], of mean exp(log evidence)."""
        return self.log_joint - self.log_total + math.log(self.z.shape[1])

    def weighted(self) -> Weighted:
        """These draws with smoothed weights."""
        raw = self.log_weights
        smooth, shape = smoothed(raw)
        weights = torch.softmax(smooth, dim=1)
        batch, size = raw.shape
        number = torch.full((batch,), size, device=raw.device)
        return Weighted(
            z=self.z,
            weights=weights,
            ess=effective(smooth),
            pareto_k=shape,
            r_hat=torch.full_like(shape, torch.nan),
            log_evidence=torch.logsumexp(raw, dim=1) - math.log(size),
            evaluations=number,
            size=number,
            sampler=torch.full_like(number, AMIS_DRAWS),
            sums=sums_of_passes(self._model, self.passes, weights) if self.passes else None,
        )
