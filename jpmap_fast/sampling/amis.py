"""Adaptive multiple importance sampling from a mixture about the modes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jpmap_fast._validate import choice, count, counts, number, positive
from jpmap_fast.sampling.mala import MALA
from jpmap_fast.sampling.method import SamplingMethod
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import Modes
from jpmap_fast.sampling.moments import sums_of
from jpmap_fast.sampling.pareto import largest_shape
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.rounds import Rounds
from jpmap_fast.sampling.smc import SMC
from jpmap_fast.sampling.weighted import ImageSums, Weighted

# The fewest draws that a Pareto law is fitted to.
_FEWEST = 32
# Draws of an image that are returned of those of extra rounds.
_KEPT = 4096
# Extra rounds of those with too few effective draws: more of the same would be too few still.
_FOR_ALL = 3
# Draws from which more modes are looked for.
_HEAVIEST = 2
_FALLBACKS: dict[str, type[SamplingMethod]] = {"mala": MALA, "smc": SMC}


@dataclass(frozen=True)
class AMIS(SamplingMethod):
    r"""Adaptive multiple importance sampling.

    Proposals are a mixture of Student-t laws about the modes of p(z | y), with a part of the prior.
    After each round the mixture is fitted to the weighted draws so far. A draw z of any round has
    the weight

        p(y | z) p(z) / sum_r (N_r / N) q_r(z)

    of all rounds (the deterministic mixture); the largest weights are smoothed by a Pareto law
    (PSIS), whose shape k-hat says whether they can be trusted. Where k-hat is above
    min(max_pareto_k, 1 - 1 / log10 N), descents from the two draws of the largest weights look for
    modes that draws reached and no start; where they find any, the rounds begin anew with them. An
    image whose k-hat is still above its limit, or whose effective number of draws is below min_ess,
    has extra rounds until neither is so, each of as many draws as it had before; more than three if
    it is k-hat alone. Of more than 4,096 draws so many are kept, of equal weight; ess, k-hat and
    evidence are those of all.

    Args:
        starts, screen, more_starts: how modes are found, see ``sample``.
        rounds: draws of each round, >= 32 in the first.
        degrees: of freedom of the Student-t laws, >= 1; None for 8, or k / 2 where that is more.
        defensive: part of the prior in the proposal, in (0, 1).
        min_ess: > 0.
        max_pareto_k: in (0, 1).
        extra_rounds: at most, >= 0.
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
    extra_rounds: int = 5
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

    @property
    def kept_draws(self) -> int:
        """See ``SamplingMethod``."""
        return sum(self.rounds)

    def complaints(self) -> dict[str, float]:
        """See ``SamplingMethod``."""
        return {"ess": self.min_ess, "pareto_k": self.max_pareto_k, **MALA().complaints()}

    def draw(self, model: Model, modes: Modes, streams: Streams) -> tuple[Weighted, Modes]:
        """See ``SamplingMethod``."""
        rounds = self._begun(model, modes, streams, "round", 0)
        found = rounds.weighted()
        groups = [(torch.arange(len(modes.z), device=modes.z.device), rounds)]
        rows = self._untrusted(found).nonzero()[:, 0]
        if rows.numel():
            part, before = model.select(rows), modes.select(rows)
            after = before.widened(part, rounds.heaviest(_HEAVIEST)[rows])
            modes = modes.put(rows, after)
            new = (after.there.sum(dim=1) > before.there.sum(dim=1)).nonzero()[:, 0]
            if new.numel():
                part, rows = part.select(new), rows[new]
                again = self._begun(
                    part, after.select(new), streams.select(rows), "again", sum(self.rounds)
                )
                rest = torch.ones_like(found.ess, dtype=torch.bool).index_fill(0, rows, False)
                rest = rest.nonzero()[:, 0]
                groups = [(rest, rounds.select(rest)), (rows, again)]
        sums = None
        if rounds.passes:
            sums = ImageSums.unknown(modes.z.new_zeros(len(modes.z), model.pixels))
        for rows, some in groups:
            found, sums = self._finished(found, sums, rows, some, self.extra_rounds)
        found = replace(found, sums=sums)
        return self._fallen_back(found, model, modes, streams), modes

    def fixed_draw(self, model: Model, modes: Modes, streams: Streams) -> Weighted:
        """What ``draw`` gives where the first rounds do, by work that is known before.

        No modes besides, no extra rounds and no fallback, and nobody asks the device. ``sums`` are
        known.
        """
        rounds = self._begun(model, modes, streams, "round", 0)
        found = rounds.weighted()
        rows = torch.arange(len(found.z), device=found.z.device)
        sums = rounds.sums(rows, found.weights)
        if sums is None:
            sums = sums_of(model, found.z, found.weights)
        return replace(found, sums=sums)

    def _begun(self, model: Model, modes: Modes, streams: Streams, name: str, spent: int) -> Rounds:
        """The rounds that every image has."""
        mixture = modes.mixture(self.degrees_for(modes.z.shape[2]), self.defensive)
        rounds = Rounds(model, mixture, streams, name, spent)
        for size in self.rounds:
            rounds = rounds.after(size)
        return rounds

    def _finished(
        self,
        found: Weighted,
        sums: ImageSums | None,
        rows: Tensor,
        rounds: Rounds,
        left: int,
    ) -> tuple[Weighted, ImageSums | None]:
        """The draws with those of the images ``rows``, after what extra rounds they need."""
        told, size = rounds.weighted(), rounds.z.shape[1]
        few = size <= max(_KEPT, sum(self.rounds))
        found = found.put(rows, told if few else told.condensed(_KEPT, rounds.streams))
        doubtful = self._doubtful(told) if left else torch.zeros_like(told.ess).bool()
        if self.extra_rounds - left >= _FOR_ALL:
            doubtful = doubtful & (told.ess >= self.min_ess)
        done = (~doubtful).nonzero()[:, 0]
        new = rounds.sums(done, told.weights[done])
        if sums is not None and new is not None:
            sums = sums.put(rows[done], new)
        again = doubtful.nonzero()[:, 0]
        for some in again.split(rounds.fitting(size << left)) if again.numel() else ():
            more = rounds.select(some).after(size)
            found, sums = self._finished(found, sums, rows[some], more, left - 1)
        return found, sums

    def _fallen_back(
        self, found: Weighted, model: Model, modes: Modes, streams: Streams
    ) -> Weighted:
        rows = self._untrusted(found).nonzero()[:, 0]
        if self.fallback is None or not rows.numel():
            return found
        other = _FALLBACKS[self.fallback]
        method = SMC(begin="modes") if other is SMC else other()
        again, _ = method.draw(model.select(rows), modes.select(rows), streams.select(rows))
        sums = found.sums
        if sums is not None:
            none = ImageSums.unknown(sums.decoded.new_zeros(len(rows), model.pixels))
            sums = sums.put(rows, none)
        spent = found.evaluations[rows] + again.evaluations
        return replace(found.put(rows, replace(again, evaluations=spent)), sums=sums)

    def _untrusted(self, found: Weighted) -> Tensor:
        return ~(found.pareto_k <= largest_shape(found.size, self.max_pareto_k))

    def _doubtful(self, found: Weighted) -> Tensor:
        return self._untrusted(found) | ~(found.ess >= self.min_ess)
