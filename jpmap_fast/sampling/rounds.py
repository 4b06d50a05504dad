"""Rounds of draws from mixtures that are fitted to the draws before them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jpmap_fast.kernels.code_products import log_sum
from jpmap_fast.sampling.mixture import Mixture
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.moments import sums_of_passes
from jpmap_fast.sampling.pareto import effective, smoothed
from jpmap_fast.sampling.passes import Pass, log_joint_passing
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.weighted import AMIS_DRAWS, ImageSums, Weighted

# Numbers that the passes of images with extra rounds may be.
_ROOM = 1 << 26


class Rounds:
    """Draws of all rounds so far and the mixtures that they came from.

    Args:
        model: of a batch.
        mixture: the proposal of the first round.
        streams: of the images.
        name: of the random numbers.
        spent: decodes before them.

    Attributes:
        streams: of the images.
        z: [B, N, k].
        log_joint: at them [B, N].
        log_total: log of sum_r N_r q_r(z) [B, N].
        passes: what is left of each round's pass through the decoder; empty where nothing is.
    """

    def __init__(
        self, model: Model, mixture: Mixture, streams: Streams, name: str, spent: int
    ) -> None:
        self._model, self.streams = model, streams
        self._name, self._spent = name, spent
        self._next = mixture
        self._before: list[tuple[int, Mixture]] = []
        batch, _, k = mixture.mean.shape
        self.z = mixture.mean.new_zeros(batch, 0, k)
        self.log_joint = self.log_total = self.z[..., 0]
        self.passes: list[Pass] = []

    def fitting(self, draws: int) -> int:
        """Of how many images the passes of so many draws fit into memory."""
        if not self.passes:
            return max(1, len(self.z))
        return max(1, _ROOM // (draws * self.passes[0].outputs.shape[2]))

    def sums(self, rows: Tensor, weights: Tensor) -> ImageSums | None:
        """What weights [R, N] say of the images ``rows``; None where no pass is kept."""
        if not self.passes:
            return None
        return sums_of_passes(self._model.select(rows), self.passes, rows, weights)

    def heaviest(self, count: int) -> Tensor:
        """The draws of the largest weights [B, count, k]."""
        index = self.log_weights.topk(count, dim=1).indices
        return self.z.gather(1, index[..., None].expand(-1, -1, self.z.shape[2]))

    def select(self, index: Tensor) -> Rounds:
        """Those of the images ``index``."""
        new = Rounds(
            self._model.select(index),
            self._next.select(index),
            self.streams.select(index),
            self._name,
            self._spent,
        )
        new._before = [(size, mixture.select(index)) for size, mixture in self._before]
        new.z, new.log_joint = self.z[index], self.log_joint[index]
        new.log_total = self.log_total[index]
        new.passes = [one.select(index) for one in self.passes]
        return new

    def after(self, size: int) -> Rounds:
        """The same with one more round of ``size`` draws."""
        mixture = self._next
        if self.z.shape[1]:
            mixture = mixture.adapted(self.z, smoothed(self.log_weights)[0])
        new = Rounds(self._model, mixture, self.streams, self._name, self._spent)
        new._before = [*self._before, (size, mixture)]
        z = mixture.draw(size, f"{self._name} {len(self._before)}", self.streams)
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
        batch, size = raw.shape
        number = torch.full((batch,), size, device=raw.device)
        return Weighted(
            z=self.z,
            weights=torch.softmax(smooth, dim=1),
            ess=effective(smooth),
            pareto_k=shape,
            r_hat=torch.full_like(shape, torch.nan),
            log_evidence=torch.logsumexp(raw, dim=1) - math.log(size),
            evaluations=number + self._spent,
            size=number,
            sampler=torch.full_like(number, AMIS_DRAWS),
        )
