"""Posterior sampling as a sampler of DeepInverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._prepared import prior_of
from jpmap_fast._validate import as_float_tensor, count
from jpmap_fast.deepinv.known import KnowsPhysics, base_class
from jpmap_fast.priors.base import Prior
from jpmap_fast.residuals import Residual
from jpmap_fast.sampling import Posterior, SamplingMethod, as_method, sample, with_codes

_Base: Any = base_class("deepinv.sampling", "BaseSampling")

Statistic = Callable[[dict[str, Tensor]], Tensor]


class Sampler(_Base, KnowsPhysics):  # type: ignore[misc]
    """``jpmap_fast.sample`` as a ``deepinv.sampling.BaseSampling``.

    It goes where DeepInverse takes a sampler or a model, which then gives the mean. There is no
    chain to burn in: ``method`` says how codes are drawn. What is made from a physics is kept until
    the physics is gone or holds other values. Without deepinv it is a plain ``torch.nn.Module`` for
    operators of this package.

    Args:
        prior: with latent codes: from ``load_prior``, its name, or any ``Prior``.
        method: as in ``jpmap_fast.sample``.
        sigma: standard deviation of the noise > 0, a number or one an image; None reads
            ``physics.noise_model.sigma`` at each call.
        draws: images kept for ``get_chain`` and for statistics other than x, >= 0; mean and
            variance of x need none.
        residual: the model of x - G(z), as in ``restore``.
        generator: of the draws where no ``seed`` is given; torch's default generator if None.
        chunk_size: as in ``restore``.

    Attributes:
        mean_has_converged, var_has_converged: whether all draws of the last call can be trusted.

    Raises:
        ValueError, TypeError: as ``jpmap_fast.sample``.

    Example:
        >>> import deepinv, jpmap_fast as jf
        >>> digits, _ = jf.mnist_test_digits(2)
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.4))
        >>> sampler = jf.deepinv.Sampler("mnist")
        >>> mean, var = sampler.sample(physics(digits), physics, seed=0)
        >>> mean.shape, var.shape
        (torch.Size([2, 1, 28, 28]), torch.Size([2, 1, 28, 28]))
    """

    __getstate__ = KnowsPhysics.__getstate__  # in place of that of nn.Module

    def __init__(
        self,
        prior: Prior | str,
        method: str | SamplingMethod | None = None,
        sigma: Any = None,
        *,
        draws: int = 0,
        residual: str | Residual | None = None,
        generator: torch.Generator | None = None,
        chunk_size: int | None = None,
    ) -> None:
        # Not BaseSampling's own, which wants the parts of a Markov chain.
        torch.nn.Module.__init__(self)
        self.prior = with_codes(prior_of(prior))
        self.method = as_method(method)
        self.sigma = sigma
        self.draws = count("draws", draws, 0)
        self.residual = residual
        self.generator = generator
        self.chunk_size = chunk_size
        self.history: Any = [] if draws else False  # as BaseSampling.get_chain reads it
        self.mean_convergence = self.var_convergence = False

    def forward(
        self, y: Any, physics: Any, x_init: Any = None, seed: int | None = None, **kwargs: Any
    ) -> Any:
        """The mean alone, see ``sample``."""
        return self.sample(y, physics, x_init=x_init, seed=seed, **kwargs)[0]

    def sample(
        self,
        y: Any,
        physics: Any,
        x_init: Any = None,
        seed: int | None = None,
        g_statistics: Statistic | Sequence[Statistic] | None = None,
        *,
        sigma: Any = None,
    ) -> tuple[Any, Any]:
        """Mean and variance of each pixel of x given y.

        Args:
            y: measurements of the physics: [B, ...], or a ``TensorList`` of a stacked one.
            physics: a linear deepinv physics, or an operator of this package.
            x_init: images [B, C, H, W] whose codes modes are looked for from as well, or
                {"z": codes [B, k]}; None for the end of a restoration.
            seed: of this call; None goes on with ``generator``.
            g_statistics: functions of a draw {"x": [B, C, H, W], "z": [B, k]}, whose mean and
                variance over ``draws`` draws are wanted; None for x, by all weighted draws.
            sigma: in place of the sampler's for this call.

        Returns:
            mean and variance [B, C, H, W]; of several statistics a list each.

        Raises:
            TypeError, ValueError: as ``jpmap_fast.sample`` and ``as_operator``; statistics with
                fewer than two draws.
        """
        posterior = self.posterior(y, physics, x_init=x_init, seed=seed, sigma=sigma)
        if g_statistics is None:
            return posterior.mean, posterior.var
        if self.draws < 2:
            raise ValueError(
                f"draws: expected 2 or more for statistics of draws, got {self.draws}; "
                "Sampler(..., draws=100)"
            )
        asked = [g_statistics] if callable(g_statistics) else list(g_statistics)
        values = [torch.stack([g(state) for state in self.history]) for g in asked]
        means, variances = [v.mean(dim=0) for v in values], [v.var(dim=0) for v in values]
        return (means[0], variances[0]) if len(asked) == 1 else (means, variances)

    @torch.no_grad()
    def posterior(
        self,
        y: Any,
        physics: Any,
        *,
        x_init: Any = None,
        seed: int | None = None,
        sigma: Any = None,
    ) -> Posterior:
        """The whole ``Posterior``: draws, codes, evidence and how far they can be trusted.

        Args:
            y, physics, x_init, seed, sigma: as in ``sample``.
        """
        y, operator, sigma = self._problem(y, physics, self.sigma if sigma is None else sigma)
        generator = self.generator
        if seed is not None:
            generator = torch.Generator().manual_seed(count("seed", seed, 0))
        found = sample(
            y,
            operator,
            self.prior,
            sigma,
            draws=self.draws,
            method=self.method,
            residual=self.residual,
            z0=self._codes(x_init),
            generator=generator,
            chunk_size=self.chunk_size,
        )
        self.mean_convergence = self.var_convergence = bool(found.converged.all())
        if found.x is not None:
            place = 1 if found.batched else 0
            pairs = zip(found.x.unbind(place), found.z.unbind(place), strict=True)
            self.history = [{"x": x, "z": z} for x, z in pairs]
        return found

    def _codes(self, x_init: Any) -> Any:
        """Codes to look for modes from."""
        if isinstance(x_init, dict) and "z" in x_init:
            return x_init["z"]
        if isinstance(x_init, dict):
            x_init = x_init.get("x")
        if x_init is None:
            return None
        return self.prior.encode(as_float_tensor("x_init", x_init))[0]
