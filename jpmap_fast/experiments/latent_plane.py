"""The posterior p(z | x0) of an autoencoding prior, and planes of the latent space to see it on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jpmap_fast._restore import restore
from jpmap_fast.algorithms import CSGM
from jpmap_fast.objective import WeightedLeastSquares
from jpmap_fast.operators import Denoising
from jpmap_fast.priors import Prior
from jpmap_fast.priors.protocol import make_decoder


@dataclass(frozen=True)
class Ends:
    """Where descents from S starts an image have come to.

    Attributes:
        z: [S, B, k].
        energy: J1(x0, z) [S, B], float64.
        steps: taken until the solver's own stopping test [S, B].
    """

    z: Tensor
    energy: Tensor
    steps: Tensor

    def best(self) -> tuple[Tensor, Tensor]:
        """The code [B, k] of the least energy of each image, and that energy [B]."""
        energy, start = self.energy.min(dim=0)
        return self.z[start, torch.arange(len(start), device=start.device)], energy


class LatentPosterior:
    r"""p(z | x0), proportional to exp(-J1(x0, z)) with x0 held fixed:

        J1(x0, z) = beta/2 ||x0 - G(z)||^2 + 1/2 ||z||^2,     beta = 1 / gamma^2.

    Args:
        prior: G, gamma and the encoder.
        x0: images [B, C, H, W] on the prior's device.

    Source: arXiv 2103.01648, section 2 (the z-step of joint posterior maximisation).
    """

    def __init__(self, prior: Prior, x0: Tensor) -> None:
        self.prior = prior
        self.x0 = x0
        self.beta = prior.gamma**-2

    @cached_property
    def objective(self) -> WeightedLeastSquares:
        """J1(x0, .), image by image."""
        weight = self.x0.new_full((len(self.x0), 1), self.beta)
        return WeightedLeastSquares(make_decoder(self.prior), self.x0.flatten(1), weight)

    def repeated(self, number: int) -> LatentPosterior:
        """``number`` copies of the batch, one after the other: row s * B + b is image b."""
        return LatentPosterior(self.prior, self.x0.repeat(number, 1, 1, 1))

    @torch.no_grad()
    def encoder(self) -> tuple[Tensor, Tensor]:
        """mu_phi(x0) and the standard deviations Sigma_phi(x0)^(1/2), [B, k] each."""
        mean, log_std = self.prior.encode(self.x0)
        return mean, log_std.exp()

    @torch.no_grad()
    def energy(self, z: Tensor) -> Tensor:
        """J1(x0, z) [B], float64, of z [B, k]."""
        return self.objective.value(z)

    def descend(self, starts: Tensor) -> Ends:
        """Damped Gauss-Newton on J1(x0, .) from the codes ``starts`` [S, B, k].

        Denoising with sigma = gamma has this very objective in the latent space.
        """
        number, batch, k = starts.shape
        result = restore(
            self.x0.repeat(number, 1, 1, 1),
            Denoising(),
            self.prior,
            sigma=self.prior.gamma,
            method=CSGM(),
            z0=starts.reshape(-1, k),
        )
        # The result's own objective has the precision of the images.
        energy = self.repeated(number).energy(result.z)
        return Ends(
            result.z.reshape(number, batch, k),
            energy.reshape(number, batch),
            result.iterations.reshape(number, batch),
        )

    @torch.no_grad()
    def hessian(self, z: Tensor) -> Tensor:
        """The second derivatives of J1(x0, .) at z, [B, k, k]: the precision of Laplace.

        Where they are not positive definite (z is no minimum) or the decoder does not offer them,
        the Gauss-Newton matrix stands in.
        """
        _, _, matrix, hessian = self.objective.newton_system(z)
        if hessian is None:
            return matrix
        minimum = torch.linalg.eigvalsh(hessian)[:, 0] > 0
        return torch.where(minimum[:, None, None], hessian, matrix)


@dataclass(frozen=True)
class Plane:
    """The points origin + u basis[0] + v basis[1].

    Attributes:
        origin: [k].
        basis: two orthonormal rows [2, k].
    """

    origin: Tensor
    basis: Tensor

    def points(self, coordinates: Tensor) -> Tensor:
        """Codes [..., k] of coordinates (u, v) [..., 2]."""
        return self.origin + coordinates @ self.basis

    def coordinates(self, codes: Tensor) -> Tensor:
        """(u, v) [..., 2] of the orthogonal projections of codes [..., k]."""
        return (codes - self.origin) @ self.basis.T

    def distance(self, codes: Tensor) -> Tensor:
        """How far from the plane codes [..., k] are, [...]."""
        return torch.linalg.vector_norm(codes - self.points(self.coordinates(codes)), dim=-1)


def random_plane(origin: Tensor, generator: torch.Generator) -> Plane:
    """A plane through ``origin`` [k] in a direction uniform among all, drawn on the CPU."""
    draws = torch.randn(len(origin), 2, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(draws).Q.T
    return Plane(origin, basis.to(origin.device, origin.dtype))


def plane_through(origin: Tensor, other: Tensor, generator: torch.Generator) -> Plane:
    """A plane that holds both points [k], ``other`` on its first axis; otherwise random."""
    draws = torch.randn(len(origin), 2, generator=generator, dtype=torch.float64)
    toward = (other - origin).double().cpu()
    if bool(toward.any()):
        draws[:, 0] = toward
    first = draws[:, 0] / draws[:, 0].norm()
    second = draws[:, 1] - (draws[:, 1] @ first) * first
    basis = torch.stack((first, second / second.norm()))
    return Plane(origin, basis.to(origin.device, origin.dtype))


def principal_plane(points: Tensor) -> tuple[Plane, tuple[float, float]]:
    """The plane of the first two principal directions of points [N, k].

    Returns:
        The plane through their mean, and the share of the variance along each direction.
    """
    sample = points.reshape(-1, points.shape[-1]).double()
    mean = sample.mean(dim=0)
    centred = sample - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    shares = values.flip(0)[:2] / values.sum()
    plane = Plane(mean.to(points.dtype), vectors.flip(1)[:, :2].T.to(points.dtype))
    return plane, (float(shares[0]), float(shares[1]))


@dataclass(frozen=True)
class PlanarGaussian:
    """A quadratic -log density on a plane: minimum + 1/2 (u - centre)^T precision (u - centre).

    Attributes:
        centre: [2].
        precision: [2, 2].
        minimum: the value at the centre.
    """

    centre: Tensor
    precision: Tensor
    minimum: float

    def energy(self, coordinates: Tensor) -> Tensor:
        """-log density [...] at (u, v) [..., 2]."""
        away = coordinates - self.centre
        return self.minimum + 0.5 * ((away @ self.precision) * away).sum(dim=-1)

    def ellipse(self, radius: float = 2.0, points: int = 181) -> Tensor:
        """A closed curve [points, 2] at Mahalanobis distance ``radius`` from the centre."""
        angle = torch.linspace(0, 2 * math.pi, points, dtype=self.centre.dtype)
        circle = torch.stack((angle.cos(), angle.sin()), dim=-1).to(self.centre.device)
        # precision = L L^T: L^-T maps the circle of that radius onto the ellipse.
        factor = torch.linalg.cholesky(self.precision)
        return (
            self.centre + radius * torch.linalg.solve_triangular(factor.mT, circle.T, upper=True).mT
        )

    @property
    def widest(self) -> float:
        """The larger of the two standard deviations."""
        return float(torch.linalg.eigvalsh(self.precision)[0].rsqrt())


def restrict(mean: Tensor, precision: Tensor, plane: Plane) -> PlanarGaussian:
    r"""N(mean, precision^-1) restricted to a plane (conditioned on it, not its marginal).

    With z = o + E^T u, d = o - mean and P the precision, 1/2 (z - mean)^T P (z - mean) has

        precision E P E^T,    centre -(E P E^T)^-1 E P d,    minimum 1/2 d^T P d - 1/2 c^T E P E^T c

    Args:
        mean: [k].
        precision: [k, k].
        plane: o and E.
    """
    away = plane.origin - mean
    pushed = plane.basis @ precision
    planar = pushed @ plane.basis.T
    centre = -torch.linalg.solve(planar, pushed @ away)
    minimum = 0.5 * (away @ precision @ away) - 0.5 * (centre @ planar @ centre)
    return PlanarGaussian(centre, planar, float(minimum))
