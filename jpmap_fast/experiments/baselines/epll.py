"""Expected patch log likelihood, for batches of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jpmap_fast._validate import positive
from jpmap_fast.algorithms.pixel_space import Estimate, PixelSpace
from jpmap_fast.algorithms.problem import Problem
from jpmap_fast.experiments.baselines._deepinv import deepinv_module
from jpmap_fast.priors.mixture import Densities, Spectra, products
from jpmap_fast.priors.overlapping import extract_patches

# deepinv's, after S. Parameswaran, C. Deledalle, L. Denis, T. Nguyen, IEEE TIP 2018.
BETAS = (1.0, 4.0, 8.0, 16.0, 32.0)

# Bytes of patch products at a time: a fifth faster on a CPU where they stay in its caches.
CPU_MEMORY, GPU_MEMORY = 1 << 24, 1 << 31


@dataclass(frozen=True, eq=False)
class EPLL(PixelSpace):
    r"""Half-quadratic splitting with a Gaussian mixture of patches: for beta = beta_1, beta_2, ...

        k_i = argmax_k  w_k N(P_i x; 0, C_k + I / beta)
        z_i = C_{k_i} (C_{k_i} + I / beta)^{-1} P_i x
        x   = argmin_x ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - mean of the z_i at each pixel||^2

    from x = A^T y, P_i x the i-th of all overlapping patches. This is ``deepinv.optim.EPLL``, whose
    forward goes through the images one by one; here they go together, and the last step is the
    exact x-update in place of conjugate gradients. With ``start`` the first x is that of the last
    step at beta_1 with a constant image in place of the mean of the z_i.

    Args:
        mixture: ``deepinv.optim.utils.GaussianMixtureModel`` of mean 0 and dimension C p p, such as
            ``load_mixture("mnist")``.
        betas: beta_k sigma^2 > 0; deepinv's by default.
        noise_levels: 1 / sqrt(beta_k) > 0 in pixel values in [0, 1], whatever sigma, in place of
            betas: the noise that patches are taken to have. Where pixels are missing it is no
            noise of the measurement.
        start: None, or the pixel value of that constant image. Patches of A^T y with few pixels
            observed look like dark ones with noise.
        sigma_scale: sigma is taken to be so many times as large, > 0, in both.

    Every step is one iteration; all are always done, which counts as converged. The objective is
    what the steps lower roughly,

        ||A x - y||^2 / (2 sigma^2) - 1 / p^2 sum_i log p(P_i x),

    with sigma as it was given.

    Raises:
        ValueError: a setting is out of range; means other than 0; patches that do not fit the
            images. TypeError: of the wrong kind.
        ImportError: when made without deepinv.

    Source: D. Zoran, Y. Weiss, "From learning models of natural image patches to whole image
    restoration", ICCV 2011.
    """

    mixture: Any
    betas: tuple[float, ...] = BETAS
    noise_levels: tuple[float, ...] | None = None
    start: float | None = None
    sigma_scale: float = 1.0

    def __post_init__(self) -> None:
        kind = deepinv_module("optim.utils", "EPLL").GaussianMixtureModel
        if not isinstance(self.mixture, kind):
            raise TypeError(f"EPLL: expected a GaussianMixtureModel, got {self.mixture!r}")
        if bool((self.mixture.mu != 0).any()):
            raise ValueError(
                "EPLL: expected a mixture of mean 0, for which its Wiener step is meant; "
                "see fit_mixture"
            )
        positive("EPLL: sigma_scale", self.sigma_scale)
        if self.start is not None:
            number = isinstance(self.start, (int, float)) and not isinstance(self.start, bool)
            if not number or not math.isfinite(self.start):
                raise ValueError(f"EPLL: expected start to be a number or None, got {self.start!r}")
        for name in ("betas", "noise_levels"):
            values = getattr(self, name)
            if values is None and name == "noise_levels":
                continue
            if isinstance(values, str) or not hasattr(values, "__iter__"):
                raise TypeError(f"EPLL: expected {name} to be numbers, got {values!r}")
            object.__setattr__(self, name, tuple(values))
            if not getattr(self, name):
                raise ValueError(f"EPLL: expected at least one value in {name}")
            for value in getattr(self, name):
                positive(f"EPLL: {name}", value)

    def estimate(self, problem: Problem) -> Estimate:
        """Restore every image: all betas in turn."""
        x = problem.operator.A_adjoint(problem.y)
        size = self._patch_size(tuple(x.shape[1:]))
        final, objective = x.clone(), torch.full_like(problem.sigma, torch.nan)
        # Images of one noise level share their regularised covariances.
        for level in problem.sigma.unique() if self.noise_levels is None else (None,):
            index = torch.arange(problem.batch, device=x.device)
            index = index if level is None else index[problem.sigma == level]
            if len(index):
                whole = len(index) == problem.batch
                part = problem if whole else problem.select(index)
                final[index], objective[index] = self._restore(part, x[index], size, level)
        steps = len(self.betas if self.noise_levels is None else self.noise_levels)
        iterations = torch.full((problem.batch,), steps, dtype=torch.int64, device=x.device)
        return Estimate(final, iterations, torch.ones_like(iterations, dtype=torch.bool), objective)

    def _restore(
        self, problem: Problem, x: Tensor, size: int, level: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Images and objectives; ``level`` is the sigma of all where steps are relative to it."""
        sigma = self.sigma_scale * problem.sigma
        if level is None:
            assert self.noise_levels is not None
            variances = [noise**2 for noise in self.noise_levels]
        else:
            variances = [(self.sigma_scale * float(level)) ** 2 / beta for beta in self.betas]
        spectra = self._spectra(x)
        if self.start is not None:
            x = _fitted(problem, torch.full_like(x, self.start), variances[0], sigma)
        for variance in variances:
            noise = torch.full((1,), math.sqrt(variance), dtype=torch.float64, device=x.device)
            densities = spectra.with_noise(noise, x)
            filters = spectra.wiener(noise)[0].to(x.dtype)
            x = _fitted(problem, _filtered(x, size, densities, filters), variance, sigma)
        residual = (problem.operator.A(x) - problem.y).flatten(1)
        fit = residual.square().sum(dim=1) / (2 * problem.sigma.square())
        densities = spectra.with_noise(x.new_zeros(1), x.double())
        return x, fit - _log_likelihood(x.double(), size, densities).to(x.dtype) / size**2

    def log_likelihood(self, x: Tensor) -> Tensor:
        """sum_i log p(P_i x) of images [B, C, H, W], [B] in double precision, in nats.

        Raises:
            ValueError: patches do not fit the images.
        """
        x = x.double()
        densities = self._spectra(x).with_noise(x.new_zeros(1), x)
        return _log_likelihood(x, self._patch_size(tuple(x.shape[1:])), densities)

    def _spectra(self, x: Tensor) -> Spectra:
        weights, covariances = self.mixture.get_weights(), self.mixture.get_cov()
        return Spectra.of(weights.double().log().to(x.device), covariances.to(x.device))

    def _patch_size(self, image_shape: tuple[int, ...]) -> int:
        channels, height, width = image_shape
        size = math.isqrt(self.mixture.dimension // channels)
        if channels * size**2 != self.mixture.dimension or size > min(height, width):
            raise ValueError(
                f"EPLL: expected a mixture of square patches of images of shape "
                f"{list(image_shape)}, got one of dimension {self.mixture.dimension}"
            )
        return size


def _fitted(problem: Problem, target: Tensor, variance: float, sigma: Tensor) -> Tensor:
    """The x-update of ``target`` at beta = 1 / variance."""
    beta = torch.full_like(sigma, 1 / variance)
    z = target.new_zeros(len(target), 1)
    x, _, _ = problem.operator.x_update(target, problem.y, z, beta, sigma)
    return x


def _chunks(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """So many images at a time that the products of their patches fit."""
    entries = x.shape[1] * size**2
    patches = (x.shape[2] - size + 1) * (x.shape[3] - size + 1)
    # Filters gathered for each patch take twice as much as its products.
    each = patches * entries * (3 * entries + 1) // 2 * x.element_size()
    return x.split(max(1, (CPU_MEMORY if x.device.type == "cpu" else GPU_MEMORY) // each))


def _filtered(x: Tensor, size: int, densities: Densities, filters: Tensor) -> Tensor:
    """The mean at each pixel of the filtered patches over it [B, C, H, W]."""
    shape = tuple(x.shape[2:])
    parts = []
    for images in _chunks(x, size):
        patches = extract_patches(images, size)  # [B, d, N]
        chosen = densities(products(patches)).argmax(dim=1)  # [B, N]
        rows = patches.mT.reshape(-1, 1, patches.shape[1])
        # Filters are symmetric: a row times one is a column's product.
        estimates = torch.bmm(rows, filters[chosen.flatten()]).reshape(patches.mT.shape)
        parts.append(F.fold(estimates.mT, shape, size))
    one = x.new_ones(1, 1, *shape)
    cover = F.fold(F.unfold(one, size), shape, size)
    return (torch.cat(parts) / cover).contiguous()


def _log_likelihood(x: Tensor, size: int, densities: Densities) -> Tensor:
    parts = [
        densities(products(extract_patches(images, size))).logsumexp(dim=1).sum(dim=1)
        for images in _chunks(x, size)
    ]
    return torch.cat(parts)
