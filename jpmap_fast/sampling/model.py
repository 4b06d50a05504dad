"""p(z | y) and p(x | z, y) of a batch, as the samplers ask for them.

The operator knows the model of x given z, white noise of the prior's gamma or another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jpmap_fast.algorithms import Problem
from jpmap_fast.algorithms.settings import precision
from jpmap_fast.objective.dependent import DependentLeastSquares
from jpmap_fast.operators.data_term import DataTerm, Dependent, Whitening
from jpmap_fast.priors.chain_decoder import ChainDecoder
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.sampling.likelihood import LogLikelihood
from jpmap_fast.sampling.mixture import log_prior
from jpmap_fast.sampling.random_numbers import Streams

# Draws behind var(x | z, y) where it has no closed form: a deviation to about 6%.
_DRAWS_OF_VARIANCE = 128


@dataclass(frozen=True)
class Model:
    """The posterior of a batch of problems whose measurements are finite."""

    problem: Problem

    @cached_property
    def beta(self) -> Tensor:
        """1 / gamma^2 [B]."""
        return torch.full_like(self.problem.sigma, precision(self.problem))

    @cached_property
    def log_likelihood(self) -> LogLikelihood:
        """Log p(y | z) without the constant."""
        problem = self.problem
        return LogLikelihood(problem.projection(problem.y, self.beta, problem.sigma))

    @cached_property
    def term(self) -> DataTerm:
        """The data term of the operator."""
        return self.problem.operator.data_term()

    @property
    def pixels(self) -> int:
        """N = C H W."""
        return math.prod(self.problem.image_shape)

    @property
    def stays_on_device(self) -> bool:
        """Whether densities and gradients never wait for the device, so that a graph holds them.

        A decoder that is a function of somebody's may do what it likes.
        """
        known = isinstance(self.problem.decoder, MLPDecoder | ChainDecoder)
        return known and self.problem.operator.stays_on_device

    def select(self, index: Tensor) -> Model:
        """That of the images ``index``; an index may repeat."""
        part = Model(self.problem.select(index))
        vars(part)["log_likelihood"] = self.log_likelihood.select(index)
        return part

    def log_joint(self, z: Tensor) -> Tensor:
        """Log p(y | z) + log p(z) [B, N] of z [B, N, k], the likelihood without its constant.

        -inf where it is no number.
        """
        return self.joint_of(self.log_likelihood(z.to(self.problem.y.dtype)), z)

    def joint_of(self, log_likelihood: Tensor, z: Tensor) -> Tensor:
        """The same of likelihoods [B, N] that are known."""
        found = log_likelihood + log_prior(z)
        return torch.where(torch.isfinite(found), found, -torch.inf)

    def log_joint_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same and its gradient [B, N, k]."""
        value, gradient = self.log_likelihood.with_gradient(z.to(self.problem.y.dtype))
        return value + log_prior(z), gradient - z

    @cached_property
    def _unseen(self) -> tuple[Tensor, Tensor]:
        """Measurements seen, and 1/2 ||y||^2 / sigma^2 of the others, which says nothing, [B]."""
        y, seen = self.problem.y, self.problem.operator.seen
        count = torch.full_like(y.flatten(1)[:, :1], y[0].numel(), dtype=torch.float64)[:, 0]
        if seen is None:
            return count, torch.zeros_like(count)
        seen = seen.expand(y.shape).flatten(1)
        energy = (y.flatten(1).double() * ~seen).square().sum(dim=1)
        return seen.double().sum(dim=1), energy / (2 * self.problem.sigma.double().square())

    def misfit(self, log_joint: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """chi^2 / m at codes z [B, k], and how probable a larger one is, float64 [B].

        chi^2 = (y - A G)^T S^{-1} (y - A G), S the covariance of y given z, has m degrees of
        freedom at the true code of an image of the prior, and k fewer at the best one.

        Args:
            log_joint: of the codes [B].
            z: [B, k] float64.
        """
        count, unseen = self._unseen
        chi = -2 * (log_joint - log_prior(z[:, None])[:, 0] + unseen)
        objective = self.log_likelihood.objective
        if isinstance(objective, DependentLeastSquares):  # logarithms are no squares
            chi = chi - objective.logarithms(z.to(self.problem.y.dtype))
        degrees = (count - z.shape[1]).clamp_min(1)
        probable = torch.special.gammaincc(degrees / 2, chi.clamp_min(0) / 2)
        return chi / count.clamp_min(1), probable

    def log_constant(self) -> Tensor:
        """What ``log_joint`` lacks of log p(y, z), float64 [B]; NaN where nobody computes it."""
        count, unseen = self._unseen
        size = self.problem.operator.log_determinant(self.beta, self.problem.sigma)
        if size is None:
            return torch.full_like(count, torch.nan)
        return unseen - 0.5 * (size + count * math.log(2 * math.pi))

    def decode(self, z: Tensor) -> Tensor:
        """G(z) [R, C, H, W] of codes [R, k]."""
        return self.problem.decode(z.to(self.problem.y.dtype))

    def mean_x(self, decoded: Tensor) -> Tensor:
        """E[x | z, y] of G(z) [B, C, H, W]; where it is ``affine``, of E[G | y] it is E[x | y]."""
        return self.problem.nearest(decoded, self.beta)

    def draw_x(self, decoded: Tensor, name: str, streams: Streams) -> Tensor:
        """Draws of x given z and y, of G(z) [B, D, C, H, W]."""
        batch, draws = decoded.shape[:2]
        rows = torch.arange(batch, device=decoded.device).repeat_interleave(draws)
        part = self.problem.select(rows)
        shape = part.y.shape[1:]
        of_y = streams.normal(name + " y", (draws, *shape)).flatten(0, 1).to(decoded.dtype)
        of_x = streams.normal(name + " x", decoded.shape[1:]).flatten(0, 1).to(decoded.dtype)
        found = part.operator.perturbed_x(
            decoded.flatten(0, 1), self.beta[rows], part.sigma, part.y, of_y, of_x
        )
        return found.reshape(decoded.shape)

    @property
    def affine(self) -> bool:
        """Whether E[x | z, y] is affine in G(z), and var(x | z, y) the same for all z."""
        return not isinstance(self.term, Dependent)

    @property
    def kept(self) -> Tensor | None:
        """Where every pixel is measured on its own, the factor of G in E[x | z, y], float64 [B, n].

        None elsewhere.
        """
        if not isinstance(self.term, Whitening) or self.term.map is not None:
            return None
        explained = self.term.explained(self.beta, self.problem.sigma, self.pixels)
        assert explained is not None
        return 1 - explained

    def variance_given(self, decoded: Tensor) -> Tensor | None:
        """var(x | z, y) of G(z) [B, C, H, W], float64 [B, n]; None where it has no closed form."""
        return self.problem.operator.variance_x(decoded, self.beta, self.problem.sigma)

    def variance_x(self, streams: Streams) -> Tensor:
        """var(x | z, y) of an ``affine`` model, which depends on neither z nor y, float64 [B, n].

        Exact where A is diagonal, a matrix, or small enough to be written as one; else of 128 draws
        (standard deviations to about 6%).
        """
        zeros = self.problem.y.new_zeros(self.problem.batch, *self.problem.image_shape)
        exact = self.variance_given(zeros)
        if exact is not None:
            return exact
        total = zeros.double().flatten(1)
        centre = self.mean_x(zeros)[:, None].double()
        for number in range(0, _DRAWS_OF_VARIANCE, 16):
            blank = zeros[:, None].expand(-1, 16, *zeros.shape[1:]).contiguous()
            drawn = self.draw_x(blank, f"variance {number}", streams).double() - centre
            total = total + drawn.square().sum(dim=1).flatten(1)
        return total / _DRAWS_OF_VARIANCE
