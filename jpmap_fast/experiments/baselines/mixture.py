"""Gaussian mixtures of patches: their likelihood, their fit, their files."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jpmap_fast._validate import count, positive
from jpmap_fast.experiments.baselines._deepinv import deepinv_module
from jpmap_fast.experiments.baselines._files import located, read, write

FORMAT = "jpmap-fast mixture 1"
FLOOR = 1e-5  # added to the variances of a fit: standard deviation 0.8/255


def extract_patches(images: Tensor, size: int) -> Tensor:
    """All patches of ``size`` x ``size`` pixels.

    Args:
        images: [B, C, H, W].
        size: p.

    Returns:
        [B, (H - p + 1)(W - p + 1), C p p], in the order of deepinv's patches.
    """
    return F.unfold(images, size).transpose(1, 2)


def products(patches: Tensor) -> Tensor:
    """p_i p_j for i <= j, of patches [..., d]: [..., d (d + 1) / 2]."""
    size = patches.shape[-1]
    patches = patches.contiguous()
    out = patches.new_empty(*patches.shape[:-1], size * (size + 1) // 2)
    # Row by row of the triangle: five times as fast as gathering both factors.
    for i, part in enumerate(out.split(list(range(size, 0, -1)), dim=-1)):
        torch.mul(patches[..., i:], patches[..., i : i + 1], out=part)
    return out


@dataclass(frozen=True)
class Densities:
    """log w_k + log N(p; 0, C_k) as linear functions of the products of p.

    Attributes:
        linear: [d (d + 1) / 2, K padded], zeros beyond K.
        constant: [K padded].
        precision: C_k^{-1} [K, d, d], in double precision.
    """

    linear: Tensor
    constant: Tensor
    precision: Tensor

    @classmethod
    def of(cls, weights: Tensor, covariances: Tensor, like: Tensor) -> Densities:
        """Those of weights [K] and covariances [K, d, d], in the precision of ``like``."""
        size = covariances.shape[-1]
        factor = torch.linalg.cholesky(covariances.double())
        precision = torch.cholesky_inverse(factor)
        logdet = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        rows, columns = torch.triu_indices(size, size, device=covariances.device)
        # An off-diagonal product stands for two terms of p^T C^{-1} p.
        twice = torch.where(rows == columns, 0.5, 1.0).double()
        linear = -(twice * precision[:, rows, columns]).T
        constant = weights.double().log() - (logdet + size * math.log(2 * math.pi)) / 2
        # Whole vector registers of outputs: a third faster for K = 100.
        pad = (0, -len(constant) % 16)
        return cls(
            F.pad(linear, pad).to(like).contiguous(), F.pad(constant, pad).to(like), precision
        )

    def __call__(self, products_: Tensor) -> Tensor:
        """Of products [B, N, d (d + 1) / 2]: [B, N, K].

        One product of the same shape for each image, so that none depends on its batch.
        """
        if products_.device.type == "cpu":
            rows = [torch.addmm(self.constant, one, self.linear) for one in products_]
            scores = torch.stack(rows)
        else:
            linear = self.linear.expand(len(products_), -1, -1)
            scores = torch.baddbmm(self.constant, products_, linear)
        return scores[..., : len(self.precision)]


@torch.no_grad()
def fit_mixture(
    patches: Tensor,
    components: int,
    *,
    iterations: int = 50,
    seconds: float = math.inf,
    floor: float = FLOOR,
    generator: torch.Generator | None = None,
) -> tuple[Any, float]:
    r"""Fit a mixture of Gaussians with mean 0 by expectation maximisation.

    Means are held at 0, unlike in deepinv's own ``fit``: the Wiener step of EPLL, deepinv's as
    that of Zoran and Weiss, is that of mean 0. Covariances are second moments and say where a
    component lies, so that no mean has to be removed from a patch.

    Args:
        patches: [N, d], values in [0, 1], N > components.
        components: K >= 1.
        iterations: at most, >= 1.
        seconds: stop after the iteration in which so much time has passed.
        floor: added to the diagonals of the covariances, > 0.
        generator: of the first components, on the CPU.

    Returns:
        A ``deepinv.optim.utils.GaussianMixtureModel`` and the mean log likelihood of a patch, in
        nats, before the last iteration.

    Raises:
        ImportError: deepinv is not installed. ValueError, TypeError: a setting is out of range.

    Source: D. Zoran, Y. Weiss, "From learning models of natural image patches to whole image
    restoration", ICCV 2011.
    """
    count("components", components, 1)
    count("iterations", iterations, 1)
    positive("floor", floor)
    if patches.dim() != 2 or len(patches) <= components:
        raise ValueError(f"patches: expected [N, d], N > {components}, got {list(patches.shape)}")
    begin = time.perf_counter()
    number, size = patches.shape
    identity = torch.eye(size, dtype=torch.float64, device=patches.device)
    # A component begins as the line through a patch, widened by a little of the whole.
    chosen = torch.randperm(number, generator=generator)[:components].to(patches.device)
    lines = patches[chosen].double()
    whole = patches.double().T @ patches.double() / number
    covariances = lines[:, :, None] * lines[:, None] + 0.1 * whole + floor * identity
    weights = torch.full_like(covariances[:, 0, 0], 1 / components)
    rows, columns = torch.triu_indices(size, size, device=patches.device)
    likelihood = math.nan
    for _ in range(iterations):
        densities = Densities.of(weights, covariances, patches)
        mass, total = torch.zeros_like(weights), 0.0
        moments = torch.zeros_like(covariances[:, rows, columns])
        for part in patches.split(4096):
            features = products(part)
            scores = densities(features[None])[0]
            evidence = scores.logsumexp(dim=1, keepdim=True)
            total += float(evidence.double().sum())
            shares = (scores - evidence).exp()
            mass += shares.double().sum(dim=0)
            moments += (shares.T @ features).double()
        likelihood = total / number
        mass = mass.clamp(min=1e-3)
        packed = moments / mass[:, None]
        covariances = torch.zeros_like(covariances)
        covariances[:, rows, columns] = packed
        covariances[:, columns, rows] = packed
        covariances += floor * identity
        weights = mass / mass.sum()
        if time.perf_counter() - begin > seconds:
            break
    return _model(weights, covariances.to(patches.dtype)), likelihood


def _model(weights: Tensor, covariances: Tensor) -> Any:
    components, size = covariances.shape[:2]
    kind = deepinv_module("optim.utils", "a mixture").GaussianMixtureModel
    model = kind(components, size, device=covariances.device).to(covariances.dtype)
    model.set_weights(weights)
    model.set_cov(covariances)
    return model


def save_mixture(mixture: Any, path: str | Path, recipe: dict[str, Any] | None = None) -> None:
    """Write a mixture of mean 0, its Cholesky factors in half precision.

    The product of a rounded factor and its transpose is a covariance whatever the rounding.

    Raises:
        ValueError: half precision cannot hold a factor, or a mean is not 0.
    """
    if bool((mixture.mu != 0).any()):
        raise ValueError("mixture: expected means of 0")
    factors = torch.linalg.cholesky(mixture.get_cov().double())
    rows, columns = torch.tril_indices(factors.shape[1], factors.shape[1])
    packed = factors[:, rows, columns].half()
    if not bool((packed[:, rows == columns] > 0).all() & torch.isfinite(packed).all()):
        raise ValueError("mixture: expected Cholesky factors in the range of half precision")
    tensors = {"factors": packed, "weights": mixture.get_weights().float()}
    write(path, FORMAT, tensors, recipe=recipe or {})


@torch.inference_mode(False)
@torch.no_grad()
def load_mixture(name_or_path: str | Path, device: torch.device | str | None = None) -> Any:
    """A fitted ``deepinv.optim.utils.GaussianMixtureModel``, float32.

    Args:
        name_or_path: "mnist" (6 x 6 pixels) or "faces" (6 x 6 pixels in colour), or a file of
            ``save_mixture``.
        device: where to; the CPU by default.

    Raises:
        ImportError: deepinv is not installed. FileNotFoundError: no such file.
        ValueError: an unknown name, or a damaged or foreign file.
    """
    path = located("mixture", name_or_path)
    tensors, _ = read(path, FORMAT)
    if {name: value.dim() for name, value in tensors.items()} != {"factors": 2, "weights": 1}:
        raise ValueError(f"{path}: expected factors [K, d (d + 1) / 2] and weights [K]")
    packed, weights = tensors["factors"].double(), tensors["weights"]
    size = math.isqrt(2 * packed.shape[1])
    if packed.shape != (len(weights), size * (size + 1) // 2):
        raise ValueError(f"{path}: expected triangles of {len(weights)} factors")
    rows, columns = torch.tril_indices(size, size)
    # A comparison with NaN is false.
    if not bool((packed[:, rows == columns] > 0).all() & (packed.abs() < math.inf).all()):
        raise ValueError(f"{path}: expected finite factors with positive diagonals")
    if not bool((weights > 0).all() & (weights < math.inf).all()):
        raise ValueError(f"{path}: expected finite weights > 0")
    factors = packed.new_zeros(len(weights), size, size)
    factors[:, rows, columns] = packed
    return _model(weights.to(device), (factors @ factors.mT).float().to(device))
