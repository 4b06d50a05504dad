"""Super-resolution: blur, then every factor-th pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from jpmap_fast._validate import choice, count
from jpmap_fast.operators.blur_kernels import bicubic_kernel, box_kernel
from jpmap_fast.operators.convolution import Convolution, as_kernel


class SuperResolution(Convolution):
    r"""y = every f-th pixel of (kernel * x), from pixel (0, 0) on, + noise.

    By default the mean of each f x f block, of the pixels f i to f i + f - 1: the reduction of
    ``avg_pool2d``, of Pillow's BOX and of OpenCV's INTER_AREA. A A^T is diagonal in the Fourier
    space of the small images, with the mean of |h|^2 over the f^2 aliases: the x-update is exact,
    at three real transforms.

    Args:
        factor: f >= 1; must divide the sides of the images.
        kernel: "box", the default; "bicubic" for pictures made by a bicubic reduction, see
            ``bicubic_kernel``; or [kh, kw], [C, kh, kw], or [B, C or 1, kh, kw] for one an image,
            floating point.

    A kernel of one's own is used in a true convolution about its entry (kh // 2, kw // 2), which
    lies on pixel f i: ``box_kernel(f)`` is not "box" but a mean over pixels f i - (f - 1) // 2 to
    f i + f // 2, for instance. Every convolution is circular: pictures reduced elsewhere by
    "bicubic" differ within 2 pixels of their border, where other programs renormalise the weights
    or repeat pixels; "box" has no such border.

    Measurements y are [B, C, H / f, W / f].

    Raises:
        ValueError: a factor < 1, an unknown name, a kernel that is no kernel; on binding, image
            sides that f does not divide or a kernel larger than the images. TypeError: wrong kinds.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> jf.SuperResolution(2).A(torch.ones(1, 1, 28, 28)).shape
        torch.Size([1, 1, 14, 14])

    Source: N. Zhao et al., "Fast single image super-resolution using a new analytical solution for
    l2-l2 problems", IEEE Trans. Image Processing 25, 2016.
    """

    def __init__(self, factor: int, kernel: Any = "box") -> None:
        factor = count("factor", factor, 1)
        centre = None
        if kernel is None or isinstance(kernel, str):
            name = "box" if kernel is None else kernel
            choice("kernel", name, tuple(_NAMED))
            kernel, centre = _NAMED[name](factor)
        super().__init__(as_kernel(kernel), factor, centre)

    def __repr__(self) -> str:
        return f"SuperResolution(factor={self.factor}, kernel {list(self.kernel.shape)})"


def _box(factor: int) -> tuple[Tensor, tuple[int, int]]:
    return box_kernel(factor), (factor - 1, factor - 1)


def _bicubic(factor: int) -> tuple[Tensor, tuple[int, int]]:
    # Without the rows and columns that only bring the centre into the middle.
    kernel = bicubic_kernel(factor)
    used = kernel.abs().sum(dim=0).nonzero()[:, 0]
    first, last = int(used[0]), int(used[-1])
    centre = kernel.shape[0] // 2 - first
    return kernel[first : last + 1, first : last + 1].contiguous(), (centre, centre)


# Kernels by name, and the entry that lies on pixel f i.
_NAMED: dict[str, Callable[[int], tuple[Tensor, tuple[int, int]]]] = {
    "box": _box,
    "bicubic": _bicubic,
}
