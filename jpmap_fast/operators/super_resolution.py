"""Super-resolution: blur, then every factor-th pixel."""

from __future__ import annotations

from typing import Any

from jpmap_fast._validate import count
from jpmap_fast.operators.blur_kernels import box_kernel
from jpmap_fast.operators.convolution import Convolution, as_kernel


class SuperResolution(Convolution):
    r"""y = every f-th pixel of (kernel * x), from pixel (0, 0) on, + noise.

    The convolution is true and circular, the kernel's centre at (kh // 2, kw // 2). A A^T is
    diagonal in the Fourier space of the small images, with the mean of |h|^2 over the f^2 aliases:
    the x-update is exact, at three real transforms.

    Args:
        factor: f >= 1; must divide the sides of the images.
        kernel: [kh, kw], [C, kh, kw], or [B, C or 1, kh, kw] for one an image, floating point; None
            for the mean of f x f pixels. That box lies about pixel f i, so for an even f the mean
            is over pixels f i - f/2 to f i + f/2 - 1.

    Measurements y are [B, C, H / f, W / f].

    Raises:
        ValueError: a factor < 1, a kernel that is no kernel; on binding, image sides that f does
            not divide or a kernel larger than the images. TypeError: wrong kinds.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> jf.SuperResolution(2).A(torch.ones(1, 1, 28, 28)).shape
        torch.Size([1, 1, 14, 14])

    Source: N. Zhao et al., "Fast single image super-resolution using a new analytical solution for
    l2-l2 problems", IEEE Trans. Image Processing 25, 2016.
    """

    def __init__(self, factor: int, kernel: Any = None) -> None:
        count("factor", factor, 1)
        super().__init__(as_kernel(box_kernel(factor) if kernel is None else kernel), factor)

    def __repr__(self) -> str:
        return f"SuperResolution(factor={self.factor}, kernel {list(self.kernel.shape)})"
