"""Draws at a fixed shape, with everything that can be prepared prepared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jpmap_fast._capture import Recorded
from jpmap_fast._prepared import prior_of
from jpmap_fast._restorer import Restorer
from jpmap_fast._surroundings import full_precision, steady
from jpmap_fast._validate import count
from jpmap_fast.algorithms import Problem
from jpmap_fast.kernels.mixtures import MAX_LATENT
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.residuals import Residual
from jpmap_fast.sampling._sample import as_method, with_codes
from jpmap_fast.sampling.amis import AMIS
from jpmap_fast.sampling.assembly import part_of, posterior_of_all
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import fixed_modes
from jpmap_fast.sampling.moments import drawn_images, moments
from jpmap_fast.sampling.posterior import Posterior
from jpmap_fast.sampling.random_numbers import Streams, drawn_seed


class Sampler:
    r"""``sample`` for pipelines: one operator, noise level, prior and batch size.

    An amount of work that is known before: the modes that ``AMIS.starts`` descents and JPMAP's end
    find, and ``AMIS.rounds`` of draws about them. What ``sample`` does besides where an image asks
    for it is left out: ``more_starts``, modes looked for from the heaviest draws, ``extra_rounds``
    and a ``fallback``. ``status`` says of which images the draws cannot be trusted then; give those
    to ``sample``. Of all others the results are its own: with the same bits on a CPU, to rounding
    on a GPU and for operators that iterate.

    On a GPU a call is CUDA graphs, of the restoration and of the draws: it allocates nothing, and
    waits for the device no more than a ``Restorer`` does. What it returns is overwritten by the
    next call; see ``Posterior.clone``.

    Args:
        operator, prior, sigma, residual: as in ``sample``; read once.
        batch_size: B >= 1.
        draws: of x an image, >= 0.
        method: an ``AMIS``; None for ``AMIS()``.

    Attributes:
        captured: whether calls replay CUDA graphs. False on the CPU, for operators that iterate on
            the host (``LinearOperator``), decoders that are functions of somebody's, and codes of
            more than 64 entries.

    Raises:
        ValueError, TypeError: as ``sample``; a method that is no ``AMIS``.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> sampler = jf.Sampler(jf.Denoising(), "mnist", 0.4, batch_size=1, draws=20)
        >>> sampler(torch.zeros(1, 1, 28, 28), torch.Generator().manual_seed(0)).x.shape
        torch.Size([1, 20, 1, 28, 28])
    """

    @steady
    @torch.no_grad()
    def __init__(
        self,
        operator: Operator | Any,
        prior: Prior | str,
        sigma: Any = None,
        *,
        batch_size: int,
        draws: int = 100,
        method: str | AMIS | None = None,
        residual: str | Residual | None = None,
    ) -> None:
        prior = with_codes(prior_of(prior, shared=True))
        way = as_method(method)
        if not isinstance(way, AMIS):
            raise TypeError(f"method: expected an AMIS, whose work is known before, got {way!r}")
        self._method, self._draws = way, count("draws", draws, 0)
        self._restorer = Restorer(operator, prior, sigma, batch_size=batch_size, residual=residual)
        problem = self._restorer.problem
        self._seed = torch.zeros((), dtype=torch.int64, device=problem.y.device)
        held = Model(problem).stays_on_device and problem.decoder.latent_dim <= MAX_LATENT
        self.captured = self._restorer.captured and held
        self._recorded: Recorded[Posterior] | None = None
        if self.captured:
            # Both are written anew, in the same places, by every restoration.
            y, z = problem.y, self._restorer(problem.y).z
            with full_precision():
                self._recorded = Recorded(y.device, lambda: self._drawn(problem, z))

    @steady
    @torch.no_grad()
    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Posterior:
        """Draw of measurements y, [B, ...] as the operator gives them.

        Args:
            y: as a ``Restorer`` takes them, fewer than ``batch_size`` as well.
            generator: of the one seed that is drawn; on a GPU one of the CPU waits for nothing.

        Raises:
            ValueError, TypeError: as a ``Restorer``.
        """
        seed = drawn_seed(generator)
        z = self._restorer(y).z
        self._seed.fill_(seed)
        with full_precision():
            if self._recorded is not None:
                return self._recorded().first(len(y))
            problem = self._restorer.problem
            if len(y) < problem.batch:
                problem = problem.select(torch.arange(len(y), device=y.device))
            return self._drawn(problem.at(y), z)

    def _drawn(self, problem: Problem, z: Tensor) -> Posterior:
        """The posterior of all images, where restorations ended at z [B, ...]."""
        method, y = self._method, problem.y
        good = torch.isfinite(y.flatten(1)).all(dim=1)
        problem = problem.at(torch.where(good.reshape(-1, *[1] * (y.dim() - 1)), y, 0.0))
        model = Model(problem)
        streams = Streams.of(self._seed, problem.y, problem.sigma[:, None])
        modes = fixed_modes(model, z.flatten(1), method.starts, method.screen)
        found = method.fixed_draw(model, modes, streams)
        assert found.sums is not None
        codes = found.resampled(self._draws, streams)
        x = drawn_images(model, codes, streams) if self._draws else None
        images = moments(model, found.sums, streams)
        part = part_of(model, modes, found, codes, x, images, method)
        return posterior_of_all(problem, part, good)
