"""Blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import choice, image_batch
from jpmap_fast.operators.bound import BoundOperator, Place
from jpmap_fast.operators.boundary import BOUNDARIES, extend, extend_adjoint
from jpmap_fast.operators.convolution import Convolution, as_kernel
from jpmap_fast.operators.fourier import irfft2, kernel_spectrum, product, rfft2
from jpmap_fast.operators.matrix_free import MatrixFree
from jpmap_fast.operators.noise_weight import noise_weight


class Blur(Convolution, MatrixFree):
    r"""y = kernel * x + noise, true convolution, y [B, C, H, W].

        (kernel * x)[i, j] = sum over a, b of kernel[a, b] x[i - a + kh // 2, j - b + kw // 2]

    The conventions, those of even kernels included, are DeepInverse's. Circular, A A^T is diagonal
    in Fourier space and the x-update exact, at three real transforms. Any other boundary is solved
    by conjugate gradients.

    Args:
        kernel: [kh, kw] for all channels, [C, kh, kw], or [B, C or 1, kh, kw] for one an image
            (B = 1 serves any number); floating point, finite; no larger than the images.
        boundary: what x is beyond its border: "circular"; "zero"; "reflect" (without repeating the
            border pixel); "replicate"; or "valid", which keeps only the pixels that need nothing
            from beyond it, y [B, C, H - kh + 1, W - kw + 1].
        tolerance, max_iterations: of conjugate gradients, see ``MatrixFree``.

    Raises:
        ValueError: no kernel, an unknown boundary; on binding, a kernel that does not fit the
            images. TypeError: wrong kinds.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> blur = jf.Blur(jf.gaussian_kernel(1.0))
        >>> blur.A(torch.ones(1, 1, 28, 28)).shape
        torch.Size([1, 1, 28, 28])
    """

    def __init__(
        self,
        kernel: Any,
        boundary: str = "circular",
        *,
        tolerance: float | None = None,
        max_iterations: int = 500,
    ) -> None:
        choice("boundary", boundary, BOUNDARIES)
        MatrixFree.__init__(self, tolerance=tolerance, max_iterations=max_iterations)
        Convolution.__init__(self, as_kernel(kernel), 1)
        self.boundary = boundary

    @property
    def _circular(self) -> bool:
        return self.boundary == "circular"

    def _bound(self, image_shape: tuple[int, ...], place: Place | None) -> BoundOperator:
        form = Convolution._bound if self._circular else MatrixFree._bound
        return form(self, image_shape, place)

    def _norm(self) -> float | None:
        return super()._norm() if self._circular else None

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        channels, height, width = image_shape
        if self.boundary != "valid":
            return (channels, height, width)
        kh, kw = self.kernel.shape[-2:]
        return (channels, height - kh + 1, width - kw + 1)

    def image_shape_of(self, measured: Sequence[int]) -> tuple[int, ...] | None:
        if self.boundary != "valid" or len(measured) != 3:
            return super().image_shape_of(measured)
        channels, height, width = measured
        kh, kw = self.kernel.shape[-2:]
        return (channels, height + kh - 1, width + kw - 1)

    def weight_for_noise(self, share: float, last: float) -> Tensor:
        """The coupling weight whose x-update lets so much noise through, see ``noise_weight``.

        Returns:
            lambda [1], or [B] with a kernel for each image, in the type of the kernel.
        """

        def made() -> Tensor:
            kernels = self.kernel.detach().cpu()
            each = kernels if self.batch else kernels[None]
            weights = [noise_weight(kernel, share, last) for kernel in each]
            return torch.tensor(weights, dtype=self.kernel.dtype, device=self.kernel.device)

        return self._keep(("weight", share, last), made)

    def A(self, x: Tensor) -> Tensor:
        if self._circular:
            return super().A(x)
        x = image_batch("x", self._taken("x", x))
        fitted = self.to(dtype=x.dtype)._fitted(x.shape[1:], x.shape[0])
        if self.boundary != "valid":
            for dim, size in ((-2, self.kernel.shape[-2]), (-1, self.kernel.shape[-1])):
                x = extend(x, dim, (size - 1) // 2, size // 2, self.boundary)
        spectrum, (height, width), rows, columns = fitted._padded()
        wide = irfft2(product(spectrum, rfft2(x)), height, width)
        return wide[..., rows, columns]

    def A_adjoint(self, y: Tensor) -> Tensor:
        if self._circular:
            return super().A_adjoint(y)
        y = image_batch("y", self._taken("y", y))
        kh, kw = self.kernel.shape[-2:]
        shape = list(y.shape[1:])
        if self.boundary == "valid":
            shape = [shape[0], shape[1] + kh - 1, shape[2] + kw - 1]
        fitted = self.to(dtype=y.dtype)._fitted(tuple(shape), y.shape[0])
        spectrum, (height, width), rows, columns = fitted._padded()
        margins = (columns.start, width - columns.stop, rows.start, height - rows.stop)
        wide = torch.nn.functional.pad(y, margins)
        x = irfft2(product(spectrum, rfft2(wide), conjugate=True), height, width)
        if self.boundary != "valid":
            for dim, size in ((-1, kw), (-2, kh)):
                x = extend_adjoint(x, dim, (size - 1) // 2, size // 2, self.boundary)
        return x

    def _padded(self) -> tuple[Tensor, tuple[int, int], slice, slice]:
        """The kernel's spectrum at the extended size, that size, and where y lies in it."""
        assert self.image_shape is not None
        kh, kw = self.kernel.shape[-2:]
        height, width = self.image_shape[1:]
        if self.boundary != "valid":
            height, width = height + kh - 1, width + kw - 1
        spectrum = self._keep("padded", lambda: kernel_spectrum(self.kernel, height, width))
        # Pixels that no wrap-around reaches: kh - 1 - kh // 2 rows come off at the top.
        rows = slice((kh - 1) // 2, height - kh // 2)
        columns = slice((kw - 1) // 2, width - kw // 2)
        return spectrum, (height, width), rows, columns

    def __repr__(self) -> str:
        return f"Blur(kernel {list(self.kernel.shape)}, boundary={self.boundary!r})"
