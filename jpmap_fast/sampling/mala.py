"""Langevin chains from the modes, with an acceptance test."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._validate import count, positive
from jpmap_fast.kernels.code_products import times
from jpmap_fast.sampling.chains import r_hat_and_ess
from jpmap_fast.sampling.method import SamplingMethod
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import Modes
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.walk import Walk
from jpmap_fast.sampling.weighted import MALA_DRAWS, Weighted

# Steps whose random numbers are drawn together, and draws of an image that are kept.
_AT_A_TIME, _KEPT = 50, 512


@dataclass(frozen=True)
class MALA(SamplingMethod):
    r"""Metropolis-adjusted Langevin chains, begun at the modes.

    With L L^T the inverse curvature at the mode where a chain begins, g the gradient of
    log p(z | y) and n ~ N(0, I),

        z' = z + (e^2 / 2) L L^T g(z) + e L n,

    accepted by Metropolis and Hastings. The first half of the steps sets e, by chain, to an
    acceptance of 0.574, and is dropped. Chains rarely change their mode: how they are shared among
    modes is the Laplace approximation's word, and ``r_hat`` tells where they do not agree. There is
    no log evidence (NaN).

    Args:
        starts, screen, more_starts: how modes are found, see ``sample``.
        chains: >= 2.
        steps: of each, >= 32.
        max_r_hat: above it a status asks for more steps, > 1.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: G. Roberts, R. Tweedie, "Exponential convergence of Langevin distributions", Bernoulli
    2, 1996.
    """

    chains: int = 8
    steps: int = 600
    max_r_hat: float = 1.05

    def __post_init__(self) -> None:
        super().__post_init__()
        count("MALA: chains", self.chains, 2)
        count("MALA: steps", self.steps, 32)
        if positive("MALA: max_r_hat", self.max_r_hat) <= 1:
            raise ValueError(f"MALA: expected max_r_hat > 1, got {self.max_r_hat}")

    def complaints(self) -> dict[str, float]:
        """See ``SamplingMethod``."""
        return {"r_hat": self.max_r_hat}

    def draw(self, model: Model, modes: Modes, streams: Streams) -> tuple[Weighted, Modes]:
        """See ``SamplingMethod``."""
        z, scale = self._begun(modes, streams)
        walk, warm, kept = Walk(model, z, scale), self.steps // 2, []
        for begin in range(0, self.steps, _AT_A_TIME):
            size = min(_AT_A_TIME, self.steps - begin)
            noise = streams.normal(f"mala {begin}", (size, *z.shape[1:]))
            log_u = streams.uniform(f"mala {begin}?", (size, self.chains)).log()
            for i in range(size):
                number = begin + i
                walk.move(noise[:, i], log_u[:, i], number + 1 if number < warm else None)
                if number >= warm:
                    kept.append(walk.z.clone())
        return self._told(torch.stack(kept, dim=2)), modes

    def _begun(self, modes: Modes, streams: Streams) -> tuple[Tensor, Tensor]:
        """Where chains begin [B, chains, k], and L of each [B, chains, k, k]."""
        k = modes.z.shape[2]
        mixture = modes.mixture(self.degrees_for(k), 0.0)
        edges = mixture.log_weight.exp().cumsum(dim=1)
        place = (torch.arange(self.chains, device=edges.device) + 0.5) / self.chains
        chosen = (place[None, :, None] > edges[:, None]).sum(dim=-1)
        chosen = torch.minimum(chosen, modes.there.sum(dim=1, keepdim=True) - 1)
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        scale = modes.scale[rows, chosen]
        noise = streams.normal("mala", (self.chains, k))
        return modes.z[rows, chosen] + times(scale, noise), scale

    def _told(self, chains: Tensor) -> Weighted:
        batch, number, length, k = chains.shape
        r_hat, ess = r_hat_and_ess(chains)
        thin = max(1, number * length // _KEPT)
        z = chains[:, :, thin - 1 :: thin].flatten(1, 2)
        size = torch.full((batch,), z.shape[1], device=z.device)
        none = torch.full_like(ess, torch.nan)
        return Weighted(
            z=z,
            weights=torch.full_like(z[..., 0], 1 / z.shape[1]),
            ess=ess,
            pareto_k=none,
            r_hat=r_hat,
            log_evidence=none,
            evaluations=torch.full_like(size, 2 * number * self.steps),
            size=size,
            sampler=torch.full_like(size, MALA_DRAWS),
        )
