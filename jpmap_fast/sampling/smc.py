"""Sequential Monte Carlo along a path of tempered densities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jpmap_fast._validate import choice, count
from jpmap_fast.kernels.code_products import times, weighted_gram
from jpmap_fast.sampling.method import SamplingMethod
from jpmap_fast.sampling.mixture import Mixture, log_prior
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import Modes
from jpmap_fast.sampling.pareto import effective
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.weighted import SMC_DRAWS, Weighted, systematic

# A temperature is the furthest that leaves so large a part of the particles effective; an image
# that needs more temperatures than these has a posterior that they do not reach.
_LEFT, _TEMPERATURES = 0.6, 200
# Acceptance that the moves are held at.
_ACCEPTED = 0.25


@dataclass(frozen=True)
class SMC(SamplingMethod):
    r"""Tempered sequential Monte Carlo: particles go from q(z) to p(z | y) along q^(1-t) p^t.

    Each image has temperatures t of its own, the next being the furthest that leaves 60% of the
    particles effective. After each, particles are drawn anew by their weights and moved by random
    walks that leave the density as it is: differences of two particles, which fit several modes,
    and normal steps of the particles' covariance. Begun at the prior it knows nothing of modes and
    Laplace approximations: a check of the other methods, at 40 to 75 times the work.

    ``Posterior.ess`` counts the particles, all of equal weight; they are correlated where moves
    are few.

    Args:
        starts, screen, more_starts: how modes are found, see ``sample``.
        particles: >= 64.
        moves: of each particle at each temperature, >= 1.
        begin: "prior", or "modes" for the mixture about the modes that ``AMIS`` begins with.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: P. Del Moral, A. Doucet, A. Jasra, "Sequential Monte Carlo samplers", JRSS B 68, 2006.
    """

    particles: int = 1024
    moves: int = 4
    begin: str = "prior"

    def __post_init__(self) -> None:
        super().__post_init__()
        count("SMC: particles", self.particles, 64)
        count("SMC: moves", self.moves, 1)
        choice("SMC: begin", self.begin, ("prior", "modes"))

    def draw(self, model: Model, modes: Modes, streams: Streams) -> tuple[Weighted, Modes]:
        """See ``SamplingMethod``."""
        batch, k = modes.z.shape[0], modes.z.shape[2]
        mixture = modes.mixture(self.degrees_for(k), 0.05)
        path = _Path(model, mixture if self.begin == "modes" else None)
        if self.begin == "modes":
            z = mixture.draw(self.particles, "smc", streams)
        else:
            z = streams.normal("smc", (self.particles, k))
        cloud = path.at(z.to(model.problem.y.dtype).double())
        ends, index = cloud, torch.arange(batch, device=z.device)
        for number in range(_TEMPERATURES):
            if not index.numel():
                break
            cloud = self._next(path, cloud, streams, number)
            ends = _put(ends, index, cloud)
            left = (cloud.t < 1).nonzero()[:, 0]
            index, cloud = index[left], cloud.select(left)
            path, streams = path.select(left), streams.select(left)
        size = torch.full((batch,), self.particles, device=z.device)
        none = torch.full_like(ends.t, torch.nan)
        reached = ends.t >= 1
        found = Weighted(
            z=ends.z,
            weights=torch.full_like(ends.target, 1 / self.particles),
            ess=torch.where(reached, float(self.particles), 0.0).double(),
            pareto_k=none,
            r_hat=none,
            log_evidence=torch.where(reached, ends.log_evidence, torch.nan),
            evaluations=ends.evaluations,
            size=size,
            sampler=torch.full_like(size, SMC_DRAWS),
        )
        return found, modes

    def _next(self, path: _Path, cloud: _Cloud, streams: Streams, number: int) -> _Cloud:
        """The particles at the next temperature of each image, moved."""
        t = cloud.furthest()
        weight = (t - cloud.t)[:, None] * (cloud.target - cloud.base)
        weight = torch.where(torch.isfinite(weight), weight, -torch.inf)
        evidence = cloud.log_evidence + torch.logsumexp(weight, dim=1) - math.log(self.particles)
        u = torch.arange(self.particles, device=t.device)
        u = (u + streams.uniform(f"smc {number}", (1,))) / self.particles
        index = systematic(torch.softmax(weight, dim=1), u)
        cloud = replace(cloud.taken(index), t=t, log_evidence=evidence)
        for move in range(self.moves):
            cloud = _moved(path, cloud, streams, f"smc {number} {move}", move % 2 == 0)
        return cloud


@dataclass(frozen=True)
class _Path:
    """log of q^(1-t) p^t: the joint density, and the mixture, None for the prior."""

    model: Model
    mixture: Mixture | None

    def at(self, z: Tensor) -> _Cloud:
        """Particles at temperature 0."""
        batch, number, k = z.shape
        zeros = z.new_zeros(batch)
        target, base = self.of(z)
        scale = z.new_full((batch,), 2.38 / math.sqrt(k))
        work = torch.full((batch,), number, device=z.device)
        return _Cloud(z, target, base, zeros, zeros, scale, work)

    def of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log p and log q [B, N]."""
        base = log_prior(z) if self.mixture is None else self.mixture.log_density(z)
        return self.model.log_joint(z), base

    def select(self, index: Tensor) -> _Path:
        """Those of the images ``index``."""
        mixture = None if self.mixture is None else self.mixture.select(index)
        return _Path(self.model.select(index), mixture)


@dataclass(frozen=True)
class _Cloud:
    """Particles z [B, N, k], log p and log q at them [B, N]; t, evidence, step, decodes [B]."""

    z: Tensor
    target: Tensor
    base: Tensor
    t: Tensor
    log_evidence: Tensor
    step: Tensor
    evaluations: Tensor

    def select(self, index: Tensor) -> _Cloud:
        """Those of the images ``index``."""
        return _Cloud(*(value[index] for value in vars(self).values()))

    def taken(self, index: Tensor) -> _Cloud:
        """The particles ``index`` [B, N] of each image."""
        z = self.z.gather(1, index[..., None].expand(self.z.shape))
        target, base = self.target.gather(1, index), self.base.gather(1, index)
        return replace(self, z=z, target=target, base=base)

    def furthest(self) -> Tensor:
        """The next temperatures [B]."""
        rise = self.target - self.base
        rise = torch.where(torch.isfinite(rise), rise, -torch.inf)
        least = _LEFT * self.z.shape[1]

        def fits(t: Tensor) -> Tensor:
            return effective((t - self.t)[:, None] * rise) >= least

        low, high = self.t, torch.ones_like(self.t)
        whole = fits(high)
        for _ in range(30):
            middle = (low + high) / 2
            good = fits(middle)
            low, high = torch.where(good, middle, low), torch.where(good, high, middle)
        # Never standing still, whatever the weights are.
        return torch.where(whole, 1.0, torch.maximum(low, self.t + 1e-9)).clamp_max(1)


def _moved(path: _Path, cloud: _Cloud, streams: Streams, name: str, apart: bool) -> _Cloud:
    """The particles after one Metropolis step, by differences or by their covariance."""
    z, step = cloud.z, cloud.step[:, None, None]
    number, k = z.shape[1:]
    centred = z - z.mean(dim=1, keepdim=True)
    eye = torch.eye(k, dtype=z.dtype, device=z.device)
    covariance = weighted_gram(torch.ones_like(cloud.target), centred) / number + 1e-10 * eye
    root, wrong = torch.linalg.cholesky_ex(covariance)
    root = torch.where((wrong > 0)[:, None, None], 1e-3 * eye, root)
    jump = times(root[:, None], streams.normal(name, (number, k)))
    if apart:
        # Halves, each moved by differences of the other, would be exact; with so many particles
        # what a particle adds to the differences of all others is less than the noise.
        pairs = (streams.uniform(name + " pairs", (2, number)) * number).long()
        first, second = (z.gather(1, pairs[:, i, :, None].expand(-1, -1, k)) for i in range(2))
        far = streams.uniform(name + " far", (number,))[..., None] < 0.1
        size = torch.where(far, 1.0, step / math.sqrt(2))
        jump = size * (first - second) + 1e-3 * jump
    else:
        jump = step * jump
    there = (z + jump).to(path.model.problem.y.dtype).double()
    target, base = path.of(there)
    t = cloud.t[:, None]
    ratio = t * (target - cloud.target) + (1 - t) * (base - cloud.base)
    accept = streams.uniform(name + "?", (number,)).log() < ratio
    rate = accept.double().mean(dim=1)
    return replace(
        cloud,
        z=torch.where(accept[..., None], there, z),
        target=torch.where(accept, target, cloud.target),
        base=torch.where(accept, base, cloud.base),
        step=(cloud.step * (rate - _ACCEPTED).exp()).clamp(0.02, 2.5),
        evaluations=cloud.evaluations + number,
    )


def _put(ends: _Cloud, index: Tensor, cloud: _Cloud) -> _Cloud:
    """The ends with the images ``index`` where they are now."""
    found = {}
    for name, value in vars(ends).items():
        value = value.clone()
        value[index] = getattr(cloud, name)
        found[name] = value
    return _Cloud(**found)
