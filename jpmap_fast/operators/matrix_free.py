"""Operators known by their action alone: conjugate gradients instead of a closed form."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._conjugate_gradient import conjugate_gradient
from jpmap_fast._validate import count, positive
from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.bound import BoundOperator, Place
from jpmap_fast.operators.data_term import Action
from jpmap_fast.residuals import Covariance


class MatrixFree(Operator):
    r"""A and A^T as code, the systems sigma^2 I + A A^T / beta by batched conjugate gradients.

    Every image has a system, an accuracy and a stop of its own. A subclass writes ``A``,
    ``A_adjoint`` and ``measurement_shape``; one that holds something for each image (``batch``)
    writes ``select`` too, which is asked with repeated indices: a solve may carry several
    right-hand sides an image.

    Attributes:
        image_shape: (C, H, W) once bound, None before.

    Args:
        tolerance: relative residual of each solve, > 0; None for 1e-6 in float32 and 1e-12 in
            float64.
        max_iterations: conjugate-gradient iterations at most, >= 1.

    Raises:
        ValueError, TypeError: a setting is out of range.

    Example:
        >>> import jpmap_fast as jf
        >>> class FirstRow(jf.MatrixFree):
        ...     def A(self, x):
        ...         return x[..., 0, :]
        ...     def A_adjoint(self, y):
        ...         return torch.nn.functional.pad(y[..., None, :], (0, 0, 0, 27))
        ...     def measurement_shape(self, image_shape, like):
        ...         return (image_shape[0], image_shape[2])
        >>> FirstRow().A(torch.ones(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28])
    """

    def __init__(self, *, tolerance: float | None = None, max_iterations: int = 500) -> None:
        self.tolerance = None if tolerance is None else positive("tolerance", tolerance)
        self.max_iterations = count("max_iterations", max_iterations, 1)

    image_shape: tuple[int, ...] | None = None

    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> Operator:
        if self.batch is not None and batch is not None and self.batch != batch:
            raise ValueError(f"{self!r}: expected {self.batch} images, got {batch}")
        new = copy.copy(self)
        new.image_shape = image_shape
        return new

    def _bound(self, image_shape: tuple[int, ...], place: Place | None) -> BoundOperator:
        return BoundMatrixFree(self, image_shape, place)


class BoundMatrixFree(BoundOperator):
    """The x-update by one system an image."""

    operator: MatrixFree

    def _x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        system = self._system(tuple(y.shape[1:]), beta, sigma)
        flat = decoded.flatten(1)
        innovation = y.flatten(1) - system.measure(flat)
        solved, left = (rows[:, 0] for rows in system.solve(innovation[:, None], None))
        x = flat + system.measure_adjoint(solved) / beta[:, None]
        # y - A x = S s + left - A A^T s / beta with S = sigma^2 + A A^T / beta: no product more.
        residual = torch.addcmul(left, sigma.square()[:, None], solved)
        objective, gap = kernels.objective(x, flat, residual, z, beta, sigma)
        return x.reshape(decoded.shape), objective, gap

    def _data_term(self) -> Action:
        return Action(self._system)

    def _system(
        self, measured_shape: tuple[int, ...], beta: Tensor, sigma: Tensor
    ) -> IteratedSystem:
        return IteratedSystem(self.operator, self.image_shape, measured_shape, sigma, beta)

    @property
    def stays_on_device(self) -> bool:
        # Conjugate gradients ask the device whether every image has converged.
        return False


@dataclass(frozen=True)
class IteratedSystem:
    """A ``LinearSystem``: the operator of a batch with its noise levels and couplings.

    Attributes:
        operator: fitted to the images.
        image_shape: (C, H, W).
        measured_shape: of one image's measurements.
        sigma, beta: [B].
        covariance: K, where W is (sigma^2 I + A K A^T / beta)^{-1}; None for K = I.
    """

    operator: Operator
    image_shape: tuple[int, ...]
    measured_shape: tuple[int, ...]
    sigma: Tensor
    beta: Tensor
    covariance: Covariance | None = None
    _repeated: dict[int, Operator] = field(default_factory=dict)

    def measure(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return self.operator.A(x.reshape(-1, *self.image_shape)).flatten(1)
        count = x.shape[1]
        images = x.reshape(-1, *self.image_shape)
        return self._for_each(count).A(images).reshape(x.shape[0], count, -1)

    def measure_adjoint(self, y: Tensor) -> Tensor:
        return self.operator.A_adjoint(y.reshape(-1, *self.measured_shape)).flatten(1)

    def solve(
        self, rhs: Tensor, start: Tensor | None, rough: bool = False
    ) -> tuple[Tensor, Tensor]:
        batch, count, size = rhs.shape
        operator = self._for_each(count)
        variance = self.sigma.square().repeat_interleave(count)[:, None]
        inverse_beta = (1 / self.beta).repeat_interleave(count)[:, None]

        def apply(v: Tensor) -> Tensor:
            back = operator.A_adjoint(v.reshape(-1, *self.measured_shape))
            if self.covariance is not None:
                back = self.covariance.apply(back.flatten(1))
            image = operator.A(back.reshape(-1, *self.image_shape)).flatten(1)
            return torch.addcmul(variance * v, inverse_beta, image)

        tolerance, most = _accuracy(self.operator)
        if tolerance is None:
            tolerance = 1e-6 if rhs.dtype == torch.float32 else 1e-12
        found = conjugate_gradient(
            apply,
            rhs.reshape(-1, size),
            tolerance=tolerance**0.5 if rough else tolerance,
            max_iterations=most,
            x0=None if start is None else start.reshape(-1, size),
        )
        return found.x.reshape(rhs.shape), found.residual.reshape(rhs.shape)

    def select(self, index: Tensor) -> IteratedSystem:
        return IteratedSystem(
            self.operator.select(index),
            self.image_shape,
            self.measured_shape,
            self.sigma[index],
            self.beta[index],
            self.covariance,
        )

    def _for_each(self, count: int) -> Operator:
        """The operator with every image ``count`` times in a row."""
        if count == 1 or self.operator.batch is None:
            return self.operator
        if count not in self._repeated:
            image = torch.arange(self.sigma.shape[0], device=self.sigma.device)
            self._repeated[count] = self.operator.select(image.repeat_interleave(count))
        return self._repeated[count]


def _accuracy(operator: Operator) -> tuple[float | None, int]:
    """Tolerance and iterations; the defaults of an operator with a closed form for K = I."""
    if isinstance(operator, MatrixFree):
        return operator.tolerance, operator.max_iterations
    return None, 500
