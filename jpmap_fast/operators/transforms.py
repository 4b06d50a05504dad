"""Fast orthonormal transforms of images: the cosine transform and Hadamard matrices."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.operators.fourier import product


class Transform(ABC):
    """An orthonormal T on the last dimension, [..., n] to [..., n]."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """T x."""

    @abstractmethod
    def adjoint(self, x: Tensor) -> Tensor:
        """T^T x, which is T^{-1} x."""


class CosineTransform(Transform):
    """The orthonormal DCT-II over rows, columns and channels of images in row-major order.

    Each dimension takes one real Fourier transform of the even entries followed by the odd ones in
    reverse order.

    Args:
        image_shape: (C, H, W).
        like: whose type and device the factors take.

    Source: J. Makhoul, "A fast cosine transform in one and two dimensions", IEEE Trans. Acoustics,
    Speech and Signal Processing 28, 1980.
    """

    def __init__(self, image_shape: tuple[int, ...], like: Tensor) -> None:
        self.image_shape = image_shape
        self._factors = {n: _cosine_factors(n, like) for n in image_shape if n > 1}
        self._inverses = {n: 1 / factor for n, factor in self._factors.items()}
        self._orders = {n: _makhoul_order(n, like.device) for n in image_shape if n > 1}

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x
        images = x.reshape(*x.shape[:-1], *self.image_shape)
        for dim, size in zip((-1, -2, -3), reversed(self.image_shape), strict=True):
            if size > 1:
                images = self._forward(images.movedim(dim, -1)).movedim(-1, dim)
        return images.flatten(-3)

    def adjoint(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x
        images = x.reshape(*x.shape[:-1], *self.image_shape)
        for dim, size in zip((-3, -2, -1), self.image_shape, strict=True):
            if size > 1:
                images = self._backward(images.movedim(dim, -1)).movedim(-1, dim)
        return images.flatten(-3)

    def _forward(self, x: Tensor) -> Tensor:
        n = x.shape[-1]
        turned = product(self._factors[n], torch.fft.rfft(x[..., self._orders[n][0]]))
        rest = turned[..., 1 : (n - 1) // 2 + 1].imag.flip(-1)
        return torch.cat((turned.real, -rest), dim=-1)

    def _backward(self, x: Tensor) -> Tensor:
        n = x.shape[-1]
        half = n // 2 + 1
        imaginary = torch.zeros_like(x[..., :half])
        imaginary[..., 1:] = -x[..., n - half + 1 :].flip(-1)
        turned = torch.complex(x[..., :half].contiguous(), imaginary)
        turned = product(self._inverses[n], turned)
        return torch.fft.irfft(turned, n)[..., self._orders[n][1]]


def _cosine_factors(n: int, like: Tensor) -> Tensor:
    """exp(-i pi k / 2n) times the orthonormal scale, k = 0 to n // 2."""
    k = torch.arange(n // 2 + 1, dtype=torch.float64)
    scale = torch.full_like(k, math.sqrt(2 / n))
    scale[0] = math.sqrt(1 / n)
    kind = torch.complex64 if like.dtype == torch.float32 else torch.complex128
    return torch.polar(scale, -math.pi * k / (2 * n)).to(like.device, kind)


def _makhoul_order(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Even entries, then odd ones backwards; and the order that undoes it."""
    position = torch.arange(n, device=device)
    order = torch.cat((position[::2], position[1::2].flip(0)))
    return order, torch.argsort(order)


class HadamardTransform(Transform):
    """A Hadamard matrix of order n over sqrt(n), as a Kronecker product of small ones.

    Args:
        n: 2^a 12^b 20^c 28^d.
        like: whose type and device the factors take.

    Raises:
        ValueError: n is not of that kind.
    """

    def __init__(self, n: int, like: Tensor) -> None:
        self.sizes = hadamard_sizes(n)
        self._products = {
            size: RowProduct((hadamard(size) / math.sqrt(size)).to(like))
            for size in set(self.sizes)
        }

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x, transposed=False)

    def adjoint(self, x: Tensor) -> Tensor:
        return self._apply(x, transposed=True)

    def _apply(self, x: Tensor, transposed: bool) -> Tensor:
        # Each product takes the last axis and puts it in front: after all, the order is restored.
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        for size in reversed(self.sizes):
            matrix = self._products[size].adjoint if transposed else self._products[size]
            x = matrix(x.reshape(x.shape[0], shape[-1] // size, size)).mT.flatten(1)
        return x.reshape(shape)


def hadamard_sizes(n: int) -> list[int]:
    """Orders of small Hadamard matrices whose product is n.

    Raises:
        ValueError: n is not 2^a 12^b 20^c 28^d.
    """
    sizes, rest = [], n
    for prime, order in ((3, 12), (5, 20), (7, 28)):
        while rest % prime == 0:
            if rest % order:
                break
            sizes.append(order)
            rest //= order
    if n < 1 or rest & (rest - 1):
        raise ValueError(
            f"hadamard: expected images of 2^a 12^b 20^c 28^d pixels in all, got {n}; "
            "use StructuredSensing.dct, which takes any size"
        )
    while rest > 1:
        sizes.append(min(rest, 32))
        rest //= sizes[-1]
    return sizes or [1]


def hadamard(order: int) -> Tensor:
    """A Hadamard matrix, float64 [order, order], of a power of two (Sylvester), 12, 20 or 28.

    Orders 12 and 20 are Paley's first construction with q = 11 and 19, 28 his second with q = 13.

    Source: R. E. A. C. Paley, "On orthogonal matrices", J. Math. Phys. 12, 1933.
    """
    if order in (12, 20):
        matrix = _conference(order - 1)
        matrix[1:, 0] = -1
        return matrix + torch.eye(order, dtype=torch.float64)
    if order == 28:
        one = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        zero = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        identity = torch.eye(14, dtype=torch.float64)
        return torch.kron(_conference(13), one) + torch.kron(identity, zero)
    matrix = torch.ones(1, 1, dtype=torch.float64)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while matrix.shape[0] < order:
        matrix = torch.kron(pair, matrix)
    return matrix


def _conference(q: int) -> Tensor:
    """Zero diagonal, a border of ones, and the quadratic characters of j - i modulo a prime q."""
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)])
    position = torch.arange(q)
    matrix = torch.ones(q + 1, q + 1, dtype=torch.float64)
    matrix[0, 0] = 0
    matrix[1:, 1:] = character.double()[(position[None] - position[:, None]) % q]
    return matrix
