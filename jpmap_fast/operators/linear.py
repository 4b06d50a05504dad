"""Any linear operator, given as a pair of functions."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.operators.matrix_free import MatrixFree


class LinearOperator(MatrixFree):
    r"""y = A x + noise, with A and A^T given as functions.

    Systems with sigma^2 I + A A^T / beta are solved by batched conjugate gradients, every image to
    its own tolerance. Where A differs from image to image, subclass ``MatrixFree`` instead. To be
    pickled, the functions must be found by name: defined at the top of a module.

    Args:
        A: maps images [R, C, H, W] to measurements [R, ...]. Any number of rows R may come, in any
            order: every row must be treated alike. It is asked in the precision of the images.
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
        self._forward = _Function("A", A)
        self._adjoint = _Function("A_adjoint", A_adjoint)

    def A(self, x: Tensor) -> Tensor:
        return self._forward(self._taken("x", x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._adjoint(self._taken("y", y))

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        shape = tuple(image_shape)
        # Copies share what was seen of the functions: bound to a shape or not, they are the same.
        key = ("measured", shape, like.dtype, like.device)
        return self._kept.get(key, lambda: self._probe(shape, like))

    def check_adjoint(self, image_shape: Sequence[int], like: Tensor) -> None:
        """Raise ValueError unless <A u, v> = <u, A^T v> for random u and v.

        The types and device are those of ``like``.
        """
        self._probe(tuple(image_shape), like)

    def _probe(self, image_shape: tuple[int, ...], like: Tensor) -> tuple[int, ...]:
        """``check_adjoint``, and the shape of one image's measurements."""
        generator = torch.Generator(device=like.device).manual_seed(0)
        options = {"dtype": like.dtype, "device": like.device, "generator": generator}
        u = torch.randn(2, *image_shape, **options)  # type: ignore[call-overload]
        image = self._forward(u)
        if image.dim() < 2 or image.shape[0] != 2:
            raise ValueError(
                f"A: expected measurements [R, ...] of images [R, C, H, W], got shape "
                f"{list(image.shape)} of two images"
            )
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
        return tuple(image.shape[1:])

    def __repr__(self) -> str:
        return f"LinearOperator(A={self._forward.function!r})"


class _Function:
    """A function of the user: what comes out of it, and its pickle, are looked at."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        self.name = name
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        try:
            out = self.function(x)
        except RuntimeError as error:
            if "dtype" not in str(error) and "scalar type" not in str(error):
                raise
            raise ValueError(
                f"{self.name}: expected a function that takes {x.dtype}, got {error}; hold its "
                "tensors in that type, or convert what it is applied to"
            ) from error
        if not isinstance(out, Tensor) or not out.is_floating_point():
            found = out.dtype if isinstance(out, Tensor) else type(out).__name__
            raise TypeError(
                f"{self.name}: expected a function that returns a tensor of real floats, got "
                f"{found}; complex measurements become real by torch.view_as_real"
            )
        return out.to(x.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Function:
        return _Function(self.name, copy.deepcopy(self.function, memo))

    def __reduce__(self) -> tuple[type[_Function], tuple[str, Callable[[Tensor], Tensor]]]:
        if not _functions_travel_by_value():
            try:
                pickle.dumps(self.function)
            except Exception as error:  # of any kind: the function may hold anything
                raise pickle.PicklingError(
                    f"LinearOperator: {self.name} = {self.function!r} cannot be pickled; give a "
                    "function defined at the top of a module, or an object of a class there with "
                    f"__call__, instead of a lambda or an inner function ({error})"
                ) from error
        return _Function, (self.name, self.function)


def _functions_travel_by_value() -> bool:
    """Whether a pickler is at work that carries lambdas: cloudpickle, as of Ray, or dill."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        module = str(frame.f_globals.get("__name__", ""))
        if "cloudpickle" in module or module.split(".")[0] == "dill":
            return True
    return False
