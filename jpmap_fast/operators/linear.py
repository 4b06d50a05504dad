"""Any linear operator, given as a pair of functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jpmap_fast.operators.matrix_free import MatrixFree


class LinearOperator(MatrixFree):
    r"""y = A x + noise, with A and A^T given as functions.

    Systems with sigma^2 I + A A^T / beta are solved by batched conjugate gradients, every image to
    its own tolerance. Where A differs from image to image, subclass ``MatrixFree`` instead.

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
        super().__init__(tolerance=tolerance, max_iterations=max_iterations)
        self._forward = A
        self._adjoint = A_adjoint

    def A(self, x: Tensor) -> Tensor:
        return self._forward(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._adjoint(y)

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        self.check_adjoint(image_shape, like)
        return tuple(self._forward(like.new_zeros(1, *image_shape)).shape[1:])

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

    def __repr__(self) -> str:
        return f"LinearOperator(A={self._forward!r})"
