"""Any linear operator, given as a pair of functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._validate import count, positive
from jpmap_fast.conjugate_gradient import conjugate_gradient
from jpmap_fast.objective import LatentObjective, MatrixFreeLeastSquares
from jpmap_fast.operators.base import Operator, Projection
from jpmap_fast.priors.decoder import Decoder


class LinearOperator(Operator):
    r"""y = A x + noise, with A and A^T given as functions.

    Systems with sigma^2 I + A A^T / beta are solved by batched conjugate gradients, every image to
    its own tolerance.

    Args:
        A: maps images [R, C, H, W] to measurements [R, ...]. Any number of rows R may come, in any
            order: every row must be treated alike.
        A_adjoint: the transpose, [R, ...] to [R, C, H, W].
        tolerance: relative residual of each solve, > 0; None for 1e-6 in float32 and 1e-12 in
            float64.
        max_iterations: conjugate-gradient iterations at most, >= 1.

    Raises:
        TypeError: A or A_adjoint is not callable.
        ValueError: a setting is out of range; on binding to a prior, A and A_adjoint are not
            transposes of each other (<A u, v> and <u, A^T v> differ for random u and v).
    """

    def __init__(
        self,
        A: Callable[[Tensor], Tensor],
        A_adjoint: Callable[[Tensor], Tensor],
        *,
        tolerance: float | None = None,
        max_iterations: int = 500,
    ) -> None:
        for name, function in (("A", A), ("A_adjoint", A_adjoint)):
            if not callable(function):
                raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
        if tolerance is not None:
            positive("tolerance", tolerance)
        count("max_iterations", max_iterations, 1)
        self._forward = A
        self._adjoint = A_adjoint
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self._image_shape: tuple[int, ...] | None = None

    def A(self, x: Tensor) -> Tensor:
        return self._forward(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._adjoint(y)

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        self.check_adjoint(image_shape, like)
        return tuple(self._forward(like.new_zeros(1, *image_shape)).shape[1:])

    def bind(self, image_shape: Sequence[int], batch: int | None = None) -> LinearOperator:
        new = LinearOperator(
            self._forward,
            self._adjoint,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        new._image_shape = tuple(image_shape)
        return new

    def check_adjoint(self, image_shape: Sequence[int], like: Tensor) -> None:
        """Raise ValueError unless <A u, v> = <u, A^T v> for random u and v.

        The types and device are those of ``like``.
        """
        generator = torch.Generator(device=like.device).manual_seed(0)
        options = {"dtype": like.dtype, "device": like.device, "generator": generator}
        u = torch.randn(2, *image_shape, **options)  # type: ignore[call-overload]
        image = self._forward(u)
        v = torch.randn(image.shape, **options)  # type: ignore[call-overload]
        back = self._adjoint(v)
        if back.shape != u.shape:
            raise ValueError(
                f"A_adjoint: expected images of shape {list(u.shape)}, got {list(back.shape)}"
            )
        left, right = (image * v).double().sum(), (u * back).double().sum()
        scale = (image.double().norm() * v.double().norm()).clamp_min(1e-300)
        if abs(float(left - right)) > 1e4 * torch.finfo(like.dtype).eps * float(scale):
            raise ValueError(
                "A_adjoint: expected the transpose of A, got <A u, v> = "
                f"{float(left):.6g} and <u, A_adjoint v> = {float(right):.6g} for random u and v"
            )

    def _rows(self, flat: Tensor) -> Tensor:
        """A on flat images [R, n]: flat measurements [R, m]."""
        assert self._image_shape is not None
        return self._forward(flat.reshape(-1, *self._image_shape)).flatten(1)

    def _adjoint_rows(self, shape: Sequence[int], flat: Tensor) -> Tensor:
        return self._adjoint(flat.reshape(-1, *shape)).flatten(1)

    def _solve(
        self, shape: Sequence[int], rhs: Tensor, variance: Tensor, inverse_beta: Tensor
    ) -> Tensor:
        """(variance I + inverse_beta A A^T)^{-1} on rows [R, m], a system of its own for each."""

        def apply(v: Tensor) -> Tensor:
            image = self._rows(self._adjoint_rows(shape, v))
            return variance[:, None] * v + inverse_beta[:, None] * image

        default = 1e-6 if rhs.dtype == torch.float32 else 1e-12
        return conjugate_gradient(
            apply,
            rhs,
            tolerance=default if self.tolerance is None else self.tolerance,
            max_iterations=self.max_iterations,
        ).x

    def x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        bound = self.bind(decoded.shape[1:])
        shape = y.shape[1:]
        flat = decoded.flatten(1)
        innovation = y.flatten(1) - bound._rows(flat)
        solved = bound._solve(shape, innovation, sigma.square(), 1 / beta)
        x = flat + bound._adjoint_rows(shape, solved) / beta[:, None]
        residual = y.flatten(1) - bound._rows(x)
        objective, gap = kernels.objective(x, flat, residual, z, beta, sigma)
        return x.reshape(decoded.shape), objective, gap

    def projection(self, decoder: Decoder, beta: Tensor, sigma: Tensor) -> Projection:
        variance, inverse_beta = sigma.square(), 1 / beta

        def at(y: Tensor) -> LatentObjective:
            shape = y.shape[1:]

            def solve(rhs: Tensor, index: Tensor) -> Tensor:
                owner = index.repeat_interleave(rhs.shape[1])
                flat = rhs.reshape(-1, rhs.shape[-1])
                out = self._solve(shape, flat, variance[owner], inverse_beta[owner])
                return out.reshape(rhs.shape)

            return MatrixFreeLeastSquares(
                decoder=decoder,
                measure=self._rows,
                measure_adjoint=lambda flat: self._adjoint_rows(shape, flat),
                solve=solve,
                target=y.flatten(1),
                index=torch.arange(y.shape[0], device=y.device),
            )

        return at

    @property
    def stays_on_device(self) -> bool:
        # Conjugate gradients ask the device whether every image has converged.
        return False

    def __repr__(self) -> str:
        return f"LinearOperator(A={self._forward!r})"
