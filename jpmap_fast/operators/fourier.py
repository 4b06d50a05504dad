r"""Circular convolution, and every f-th pixel of it, in real coordinates of Fourier space.

With F the orthonormal transform, h the spectrum of the kernel and D the choice of every f-th pixel,
the measurement y = D F^T h F x has the small spectrum

    F y = 1/f sum over the f^2 aliases of (h F x),      A A^T = F^T (mean over the aliases |h|^2) F.

The half spectrum of a real image, its doubly counted columns times sqrt(2), is an isometry into
real coordinates: norms, J1 and the coupling gap may be taken there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from jpmap_fast.kernels.products import RowProduct

# Beyond so many entries a matrix of H in the fused solvers costs more than Fourier transforms.
DENSE_ENTRIES = 1_500_000


def kernel_spectrum(
    kernel: Tensor, height: int, width: int, centre: tuple[int, int] | None = None
) -> Tensor:
    """The half spectrum [..., H, W // 2 + 1] of a kernel [..., kh, kw] about its ``centre``.

    The centre is (kh // 2, kw // 2) if None.

    Computed in float64, returned in the precision of the kernel.
    """
    kh, kw = kernel.shape[-2:]
    padded = torch.nn.functional.pad(kernel.double(), (0, width - kw, 0, height - kh))
    row, column = (kh // 2, kw // 2) if centre is None else centre
    centred = padded.roll((-row, -column), dims=(-2, -1))
    kind = torch.complex64 if kernel.dtype == torch.float32 else torch.complex128
    parts = torch.view_as_real(rfft2(centred, norm="backward"))
    # Where rounding leaves crumbs of a zero, their squares would be denormal, and slow.
    crumbs = parts.abs() <= 4e-16 * centred.abs().sum(dim=(-2, -1))[..., None, None, None]
    return torch.view_as_complex(parts.masked_fill(crumbs, 0)).to(kind)


def mirrored(half: Tensor, columns: int) -> Tensor:
    """Columns ``columns`` down to 1 of a half spectrum, conjugated, at the negative rows."""
    return half[..., 1 : columns + 1].flip(-1, -2).roll(1, -2).conj()


def _column_weights(width: int, like: Tensor) -> Tensor:
    """Sqrt(2) for columns of a half spectrum that stand for two, else 1: [W // 2 + 1, 1]."""
    shape = (width // 2 + 1, 1)
    weights = torch.full(shape, math.sqrt(2), dtype=torch.float64, device=like.device)
    weights[0] = 1
    if width % 2 == 0:
        weights[-1] = 1
    return weights.to(like.dtype)


@lru_cache(maxsize=8)
def _fourier_matrix(
    image_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> RowProduct:
    """F [p, n] of images of a shape; one serves all kernels."""
    n = math.prod(image_shape)
    images = torch.eye(n, dtype=dtype, device=device).reshape(n, *image_shape)
    columns = torch.view_as_real(rfft2(images)) * _column_weights(image_shape[-1], images)
    return RowProduct(columns.flatten(1).T)


class FourierMap:
    """H on flat images, [.., n] to [.., p], in the real coordinates above.

    Of a blur, the coordinates of y are turned by the phase of h, which leaves H = |h| F: all
    kernels have F in common. Of every f-th pixel H is F A.

    Args:
        spectrum: h [C or 1, H, W // 2 + 1], or with a leading [B] for one an image.
        image_shape: (C, H, W), H and W multiples of the factor.
        factor: f >= 1.
    """

    def __init__(self, spectrum: Tensor, image_shape: tuple[int, ...], factor: int = 1) -> None:
        self.spectrum = spectrum
        self.image_shape = image_shape
        self.factor = factor
        channels, self.height, self.width = image_shape
        self.low_height, self.low_width = self.height // factor, self.width // factor
        self.low_shape = (channels, self.low_height, self.low_width)
        self._weights = _column_weights(self.low_width, spectrum.real)

    @property
    def per_image(self) -> bool:
        """Whether every image has a spectrum of its own."""
        return self.spectrum.dim() == 4

    @cached_property
    def real_spectrum(self) -> Tensor:
        """H with real and imaginary parts last."""
        return torch.view_as_real(self.spectrum).contiguous()

    def values(self) -> Tensor:
        """The eigenvalues of A A^T in the coordinates, [p] or [B, p]."""
        power = self.spectrum.abs().square()
        full = torch.cat((power, mirrored(power, (self.width - 1) // 2)), dim=-1)
        lead = full.shape[:-2]
        f, u, v = self.factor, self.low_height, self.low_width
        mean = full.reshape(*lead, f, u, f, v).mean(dim=(-4, -2))[..., : v // 2 + 1]
        mean = mean.expand(*lead[:-1], self.image_shape[0], -1, -1)
        return mean[..., None].expand(*mean.shape, 2).flatten(-4)

    @cached_property
    def multiplicity(self) -> Tensor:
        """How many measurements each coordinate stands for, [p].

        One; but a half where a half spectrum holds a number and its conjugate, and none for the
        imaginary part of a number that is its own conjugate.
        """
        height, width = self.low_height, self.low_width
        number = self._weights.new_ones(height, width // 2 + 1, 2)
        own = [0] if height % 2 else [0, height // 2]
        for column in [0] if width % 2 else [0, width // 2]:
            number[:, column] = 0.5
            number[own, column, 0] = 1
            number[own, column, 1] = 0
        return number.expand(self.low_shape[0], -1, -1, -1).flatten()

    def measure(self, x: Tensor) -> Tensor:
        """A x [..., C, H/f, W/f] of images [..., C, H, W]."""
        low = self._fold(product(self._spectrum_for(x), rfft2(x)))
        return irfft2(low, self.low_height, self.low_width)

    def measure_adjoint(self, y: Tensor) -> Tensor:
        """A^T y [..., C, H, W]."""
        return self._back(rfft2(y))

    def coordinates(self, y: Tensor) -> Tensor:
        """The coordinates [..., p] of measurements [..., C, H/f, W/f]."""
        spectrum = rfft2(y)
        if self.factor == 1:
            spectrum = product(self._phase, spectrum, conjugate=True)
        return self._flatten(spectrum)

    @cached_property
    def _magnitude(self) -> Tensor:
        """|h| for real and imaginary parts, [C or 1, H, W // 2 + 1, 1] or one an image."""
        return self.spectrum.abs()[..., None]

    @cached_property
    def _phase(self) -> Tensor:
        """H over |h|, 1 where h = 0."""
        size = self.spectrum.abs()
        return torch.where(size == 0, 1, self.spectrum / size)

    def __call__(self, x: Tensor) -> Tensor:
        images = x.reshape(*x.shape[:-1], *self.image_shape)
        if self.factor == 1:
            parts, scale = torch.view_as_real(rfft2(images)), self._magnitude * self._weights
            return (parts * _beside(scale, parts, self.per_image)).flatten(-4)
        return self._flatten(self._fold(product(self._spectrum_for(images), rfft2(images))))

    @property
    def adjoint(self) -> Callable[[Tensor], Tensor]:
        """H^T on rows within the range of F, [.., p] to [.., n]."""

        def apply(rows: Tensor) -> Tensor:
            channels, height, width = self.low_shape
            parts = rows.reshape(*rows.shape[:-1], channels, height, width // 2 + 1, 2)
            if self.factor == 1:
                scale = self._magnitude / self._weights
                parts = parts * _beside(scale, parts, self.per_image)
                low = torch.view_as_complex(parts)
                return irfft2(low, self.height, self.width).flatten(-3)
            return self._back(torch.view_as_complex(parts / self._weights)).flatten(-3)

        return apply

    @cached_property
    def dense(self) -> tuple[RowProduct, Tensor | None] | None:
        """H as a matrix and a diagonal in front of it; None if it is large."""
        n = math.prod(self.image_shape)
        p = math.prod(self.low_shape[:2]) * (self.low_width // 2 + 1) * 2
        if n * p > DENSE_ENTRIES:
            return None
        real = self._weights
        if self.factor == 1:
            shape = (*self.spectrum.shape[:-3], *self.image_shape[:2], self.width // 2 + 1, 2)
            scale = self._magnitude.expand(shape).flatten(-4)
            return _fourier_matrix(self.image_shape, real.dtype, real.device), scale
        if self.per_image:
            return None
        return RowProduct(self(torch.eye(n, dtype=real.dtype, device=real.device)).T), None

    def select(self, index: Tensor | slice) -> FourierMap:
        if not self.per_image:
            return self
        return FourierMap(self.spectrum[index], self.image_shape, self.factor)

    def _spectrum_for(self, images: Tensor) -> Tensor:
        """H beside images [B, C, H, W] or [B, k, C, H, W]."""
        return self.spectrum[:, None] if self.per_image and images.dim() == 5 else self.spectrum

    def _flatten(self, spectrum: Tensor) -> Tensor:
        return (torch.view_as_real(spectrum) * self._weights).flatten(-4)

    def _fold(self, half: Tensor) -> Tensor:
        """1/f times the sum over aliases, of half spectra."""
        f, u, v = self.factor, self.low_height, self.low_width
        if f == 1:
            return half
        rows = half.reshape(*half.shape[:-2], f, u, half.shape[-1]).sum(dim=-3)
        full = torch.cat((rows, mirrored(rows, (self.width - 1) // 2)), dim=-1)
        return full.reshape(*full.shape[:-1], f, v).sum(dim=-2)[..., : v // 2 + 1] / f

    def _back(self, low: Tensor) -> Tensor:
        """A^T of small half spectra: their periodic repetition over f, times conj(h)."""
        f = self.factor
        if f > 1:
            full = torch.cat((low, mirrored(low, (self.low_width - 1) // 2)), dim=-1) / f
            columns = torch.arange(self.width // 2 + 1, device=low.device) % self.low_width
            low = full[..., columns].repeat(*[1] * (low.dim() - 2), f, 1)
        return irfft2(
            product(self._spectrum_for(low), low, conjugate=True), self.height, self.width
        )


def _beside(values: Tensor, parts: Tensor, per_image: bool) -> Tensor:
    """Values, one an image or not, beside [B, C, H, W, 2] or [B, k, C, H, W, 2]."""
    return values[:, None] if per_image and parts.dim() == 6 else values


def product(h: Tensor, spectrum: Tensor, conjugate: bool = False) -> Tensor:
    """H times a spectrum, or conj(h) times it.

    In real arithmetic on the CPU, where torch rounds a complex product differently in the last
    numbers of a tensor: an image would depend on its place in the batch.
    """
    if spectrum.device.type != "cpu":
        return (h.conj() if conjugate else h) * spectrum
    a, b, c, d = h.real, h.imag, spectrum.real, spectrum.imag
    if conjugate:
        return torch.complex(a * c + b * d, a * d - b * c)
    return torch.complex(a * c - b * d, a * d + b * c)


# Pixels up to which transforming an image twice costs nothing to speak of.
SMALL = 1 << 16


def rfft2(x: Tensor, norm: str = "ortho") -> Tensor:
    """The half spectrum [..., H, W // 2 + 1] of [..., H, W]; of nothing, nothing."""
    if x.numel() == 0:  # which some libraries refuse
        shape = (*x.shape[:-1], x.shape[-1] // 2 + 1)
        return torch.complex(x.new_empty(shape), x.new_empty(shape))
    if _alone(x):
        return torch.fft.rfft2(torch.cat((x, x)), norm=norm)[:1]
    return torch.fft.rfft2(x, norm=norm)


def irfft2(spectrum: Tensor, height: int, width: int, norm: str = "ortho") -> Tensor:
    """The inverse of ``rfft2``."""
    if spectrum.numel() == 0:
        return spectrum.real.new_empty(*spectrum.shape[:-2], height, width)
    if _alone(spectrum):
        both = torch.cat((spectrum, spectrum))
        return torch.fft.irfft2(both, s=(height, width), norm=norm)[:1]
    return torch.fft.irfft2(spectrum, s=(height, width), norm=norm)


def _alone(x: Tensor) -> bool:
    """Whether this is one small image, which the CPU's library transforms in another way than two.

    Restored alone it would differ in its last bits from itself in a batch.
    """
    small = x.shape[-2] * x.shape[-1] <= SMALL
    return x.device.type == "cpu" and small and x.shape[:-2].numel() == 1
