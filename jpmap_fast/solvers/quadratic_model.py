"""The quadratic model of f that a damped step minimises, by its matrix or by its action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._conjugate_gradient import conjugate_gradient
from jpmap_fast.kernels import reference
from jpmap_fast.kernels.damped_systems import leads_back, longest_last_step, with_share
from jpmap_fast.objective import LatentObjective


@dataclass(frozen=True)
class Step:
    """A damped step d = -(H + mu I)^{-1} g of each image, and what the model says of it.

    Attributes:
        d: [B, k] float64.
        promised: decrease of f that the model expects [B].
        size: root mean square of the undamped step -H^{-1} g, or a bound on it [B].
        decrement: g^T H^{-1} g, or a bound on it [B].
        newton: the undamped step [B, k] float64, where it is known.
        exact: whether H is the Hessian of f itself [B] bool, likewise.
    """

    d: Tensor
    promised: Tensor
    size: Tensor
    decrement: Tensor
    newton: Tensor | None = None
    exact: Tensor | None = None

    def or_last(self, moved: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """The steps to try [B, k], and which of them end a descent if f falls [B] bool.

        Of the images ``moved``, whose models are new: where H is the Hessian and the undamped step
        no longer than ``longest_last_step``, it is tried.
        """
        if self.newton is None or self.exact is None:
            return self.d, torch.zeros_like(moved)
        last = moved & self.exact & (self.size <= longest_last_step(tolerance))
        return torch.where(last[:, None], self.newton, self.d), last

    def leads_back(self, moved: Tensor, z: Tensor, known: Tensor | None) -> Tensor:
        """Of which of the images ``moved`` the step from z leads back to ``known`` [B] bool.

        See ``kernels.damped_systems.leads_back``; None: of none.
        """
        if known is None or self.newton is None or self.exact is None:
            return torch.zeros_like(moved)
        return moved & leads_back(self.newton, self.exact, z, known)


class QuadraticModel(Protocol):
    """f about z, per image."""

    @property
    def gradient(self) -> Tensor:
        """Of f [B, k]."""
        ...

    @property
    def largest(self) -> Tensor:
        """The largest diagonal entry of H, or an estimate of it [B] float64."""
        ...

    def step(self, mu: Tensor) -> Step:
        """The step at the damping mu [B]."""
        ...

    def select(self, index: Tensor) -> QuadraticModel:
        """The models of the images ``index``."""
        ...

    def renewed(self, rows: Tensor, z: Tensor, objective: LatentObjective) -> QuadraticModel:
        """The same with the images ``rows`` expanded again at their z; ``objective`` is all's."""
        ...


def ended(
    f: Tensor, mu: Tensor, model: QuadraticModel, step: Step, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Of which images the descent has ended, and of which there is a step at all [B] bool.

    Args:
        f: where the models are [B] float64.
        mu: dampings of the steps [B].
        model, step: about there, and what the models say.
        tolerance: of ``GaussNewton``.
    """
    resolution = 8 * torch.finfo(model.gradient.dtype).eps
    finite = torch.isfinite(f) & torch.isfinite(step.size)
    done = step.size <= tolerance
    done |= step.decrement <= resolution * f.abs()
    # A damping this large moves z by less than its last digit: no descent is left.
    done |= mu > model.largest / resolution
    return done & finite, finite


def next_damping(mu: Tensor, growth: Tensor, gain: Tensor, accept: Tensor) -> tuple[Tensor, Tensor]:
    """Nielsen's rule: the next mu and what it grows by if the next step is refused too, [B]."""
    shrink = (1 - (2 * gain - 1) ** 3).clamp(1 / 3, 2)
    return torch.where(accept, mu * shrink, mu * growth), torch.where(accept, 2.0, 2 * growth)


@dataclass(frozen=True)
class DirectModel:
    """H as a k x k matrix of each image, from the k columns of the Jacobian; solved in float64."""

    gradient: Tensor  # [B, k]
    matrix: Tensor  # [B, k, k]
    newton: Tensor  # H^{-1} g [B, k] float64
    share: Tensor  # of the Hessian in H [B]
    second_order: bool

    @classmethod
    def at(
        cls, objective: LatentObjective, z: Tensor, second_order: bool
    ) -> tuple[Tensor, DirectModel]:
        """f(z) [B] and the model about z, with the Hessian's share that ``damped_solve`` takes."""
        f, gradient, matrix, hessian = objective.newton_system(z, second_order)
        newton, share = _solve(matrix, hessian, gradient, None)
        if hessian is not None:
            matrix = with_share(matrix, hessian, share)
        return f, cls(gradient, matrix, newton, share, second_order)

    @property
    def largest(self) -> Tensor:
        """See ``QuadraticModel``."""
        return self.matrix.diagonal(dim1=-2, dim2=-1).amax(dim=-1).double()

    def step(self, mu: Tensor) -> Step:
        """See ``QuadraticModel``."""
        d, g = -_solve(self.matrix, None, self.gradient, mu)[0], self.gradient.double()
        return Step(
            d,
            0.5 * (d * (mu[:, None] * d - g)).sum(dim=-1),
            self.newton.square().mean(dim=-1).sqrt(),
            (g * self.newton).sum(dim=-1),
            -self.newton,
            self.share == 1,
        )

    def select(self, index: Tensor) -> DirectModel:
        """See ``QuadraticModel``."""
        return replace(
            self,
            gradient=self.gradient[index],
            matrix=self.matrix[index],
            newton=self.newton[index],
            share=self.share[index],
        )

    def where(self, condition: Tensor, other: DirectModel) -> DirectModel:
        """These models where ``condition`` [B] holds, ``other`` elsewhere."""
        return replace(
            self,
            gradient=torch.where(condition[:, None], self.gradient, other.gradient),
            matrix=torch.where(condition[:, None, None], self.matrix, other.matrix),
            newton=torch.where(condition[:, None], self.newton, other.newton),
            share=torch.where(condition, self.share, other.share),
        )

    def renewed(self, rows: Tensor, z: Tensor, objective: LatentObjective) -> DirectModel:
        """See ``QuadraticModel``."""
        if rows.numel() == z.shape[0]:
            return self.at(objective, z, self.second_order)[1]
        fresh = self.at(objective.select(rows), z[rows], self.second_order)[1]
        return replace(
            self,
            gradient=self.gradient.index_copy(0, rows, fresh.gradient),
            matrix=self.matrix.index_copy(0, rows, fresh.matrix),
            newton=self.newton.index_copy(0, rows, fresh.newton),
            share=self.share.index_copy(0, rows, fresh.share),
        )


@dataclass(frozen=True)
class ImplicitModel:
    """The Gauss-Newton matrix by its action, two products by the Jacobian an iteration.

    Conjugate gradients from zero keep d orthogonal to their residual r, so the decrease promised
    has the formula of an exact solve. H is at least I, hence H^{-1} <= (1 + mu) (H + mu I)^{-1} and
    (H + mu I)^{-1} <= I / (1 + mu): bounds on the undamped step come from d and r,

        ||H^{-1} g|| <= (1 + mu) ||d|| + ||r||,    g^T H^{-1} g <= -(1 + mu) g^T d + ||r||^2.

    Attributes:
        objective: f.
        z: where the model holds [B, k].
        gradient: [B, k], in working precision.
        rayleigh: g^T H g / g^T g [B] float64.
        forcing: relative residual at which a solve ends.
    """

    objective: LatentObjective
    z: Tensor
    gradient: Tensor
    rayleigh: Tensor
    product: Callable[[Tensor], Tensor]
    forcing: float

    @classmethod
    def at(
        cls, objective: LatentObjective, z: Tensor, forcing: float
    ) -> tuple[Tensor, ImplicitModel]:
        """f(z) [B] and the model about z."""
        f, gradient = objective.gradient(z)
        product = objective.gauss_newton_product(z)
        square = gradient.double().square().sum(dim=-1)
        rayleigh = (gradient.double() * product(gradient)).sum(dim=-1) / square.clamp_min(1e-300)
        return f, cls(objective, z, gradient, rayleigh.clamp_min(1), product, forcing)

    @property
    def largest(self) -> Tensor:
        """See ``QuadraticModel``."""
        return self.rayleigh

    def step(self, mu: Tensor) -> Step:
        """See ``QuadraticModel``."""
        damping = mu.to(self.z.dtype)[:, None]
        found = conjugate_gradient(
            lambda v: self.product(v) + damping * v,
            -self.gradient,
            tolerance=self.forcing,
            max_iterations=2 * self.z.shape[1],
        )
        d, g, r = found.x.double(), self.gradient.double(), found.residual.double()
        left = r.square().sum(dim=-1).sqrt()
        return Step(
            d,
            0.5 * (d * (mu[:, None] * d - g)).sum(dim=-1),
            (1 + mu) * d.square().mean(dim=-1).sqrt() + left / d.shape[1] ** 0.5,
            -(1 + mu) * (g * d).sum(dim=-1) + left.square(),
        )

    def select(self, index: Tensor) -> ImplicitModel:
        """See ``QuadraticModel``."""
        objective, z = self.objective.select(index), self.z[index]
        return ImplicitModel(
            objective,
            z,
            self.gradient[index],
            self.rayleigh[index],
            objective.gauss_newton_product(z),
            self.forcing,
        )

    def renewed(self, rows: Tensor, z: Tensor, objective: LatentObjective) -> ImplicitModel:
        """See ``QuadraticModel``."""
        return self.at(objective, z, self.forcing)[1]


def _solve(
    matrix: Tensor, hessian: Tensor | None, gradient: Tensor, mu: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``damped_solve``, compiled up to the size that it is made for."""
    small = gradient.shape[1] <= kernels.MAX_DAMPED_SYSTEM
    return (kernels if small else reference).damped_solve(matrix, hessian, gradient, mu)
