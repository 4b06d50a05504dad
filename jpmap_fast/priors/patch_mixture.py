"""A mixture of Gaussians with mean 0 as a prior of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jpmap_fast._made_of_weights import made_of_weights
from jpmap_fast._validate import count, counts
from jpmap_fast.priors.mixture import Densities, Spectra, posterior_mean, products


class PatchMixture(nn.Module):
    r"""p(u) = sum_k w_k N(u; 0, C_k) of patches u, full covariances C_k = L_k L_k^T.

    Args:
        image_shape: (C, p, p) of a patch, d = C p p.
        components: K >= 1.
        best: whether a patch is estimated by its likeliest component alone, as in EPLL, in place of
            the posterior mean over all. The mean is the better estimate of one patch; of averages
            of overlapping ones over several steps this is, by 0.02 dB at noise 25/255 and 0.1 at
            50/255, and quicker.

    Attributes:
        log_weights: log w_k, up to a constant [K].
        factors: the lower triangles L_k, row by row [K, d (d + 1) / 2].

    Raises:
        ValueError, TypeError: a setting is out of range or of the wrong kind.
    """

    def __init__(
        self, image_shape: Sequence[int] = (1, 8, 8), components: int = 200, best: bool = True
    ) -> None:
        super().__init__()
        counts("image_shape", image_shape, 1)
        count("components", components, 1)
        if len(image_shape) != 3 or image_shape[1] != image_shape[2]:
            raise ValueError(f"image_shape: expected (C, p, p), got {tuple(image_shape)}")
        if not isinstance(best, bool):
            raise TypeError(f"best: expected True or False, got {best!r}")
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.best = best
        size = math.prod(image_shape)
        self.log_weights = nn.Parameter(torch.zeros(components), requires_grad=False)
        triangles = torch.zeros(components, size * (size + 1) // 2)
        self.factors = nn.Parameter(triangles, requires_grad=False)
        if not triangles.is_meta:  # identities: 1 at the end of row i of a triangle
            self.factors[:, [i * (i + 3) // 2 for i in range(size)]] = 1

    @classmethod
    def of(
        cls, weights: Tensor, covariances: Tensor, image_shape: Sequence[int], best: bool = True
    ) -> PatchMixture:
        """That of weights [K] and covariances [K, d, d], in float32.

        Raises:
            ValueError: shapes that do not fit; weights or covariances that are not positive.
        """
        size = math.prod(image_shape)
        if covariances.shape != (len(weights), size, size):
            raise ValueError(
                f"covariances: expected shape {[len(weights), size, size]} for patches of shape "
                f"{tuple(image_shape)}, got {list(covariances.shape)}"
            )
        factors, failed = torch.linalg.cholesky_ex(covariances.double())
        if bool(failed.any()) or not bool((weights > 0).all()):
            raise ValueError("weights, covariances: expected positive ones")
        made = cls(image_shape, len(weights), best)
        rows, columns = torch.tril_indices(size, size)
        made.factors.data = factors[:, rows, columns].float()
        made.log_weights.data = weights.double().log().float()
        return made.eval()

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments it was made with."""
        components = len(self.log_weights)
        return {"image_shape": list(self.image_shape), "components": components, "best": self.best}

    @property
    def covariances(self) -> Tensor:
        """C_k [K, d, d], in double precision."""
        size = math.prod(self.image_shape)
        rows, columns = torch.tril_indices(size, size, device=self.factors.device)
        factors = self.factors.new_zeros(len(self.factors), size, size, dtype=torch.float64)
        factors[:, rows, columns] = self.factors.detach().double()
        return factors @ factors.mT

    def densities(self, s: Tensor, like: Tensor) -> Densities:
        """Of patches with noise of level s [B], in the type of ``like``."""
        return self._spectra().with_noise(s, like)

    def log_density(self, patches: Tensor, s: Tensor) -> Tensor:
        """Log p(q) of patches q = u + s n [B, d, N], s [B]: [B, N], in nats."""
        return self.densities(s, patches)(products(patches)).logsumexp(dim=1)

    def estimator(self, s: Tensor, like: Tensor) -> Any:
        """Patches q = u + s n [B, d, N] to E[u | q], for noise of level s [B]."""
        densities = self.densities(s, like)
        return lambda patches: posterior_mean(patches, densities, s, best=self.best)

    def _spectra(self) -> Spectra:
        """Eigenvectors of the covariances, kept while the weights stay."""

        def make() -> Spectra:
            return Spectra.of(self.log_weights.detach().clone(), self.covariances)

        kept = made_of_weights(self, "spectra")
        spectra: Spectra = kept.get((self.factors, self.log_weights), make)
        return spectra
