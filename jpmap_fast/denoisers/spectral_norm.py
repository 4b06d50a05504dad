"""Spectral norms of convolutions as what they are: linear maps of images, border included."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jpmap_fast._validate import count, positive

# An increment below this, relatively, is rounding: the basis spans all that the start can reach.
_BREAKDOWN = 1e-13


def convolution_norm(
    weight: Tensor, height: int, width: int, *, tolerance: float = 1e-9, steps: int = 200
) -> float:
    r"""Spectral norm of x -> W * x, zero beyond the border, on images of height x width:

        ||W|| = max over x of ||W * x|| / ||x||,    x in R^{I x height x width}.

    It is not the norm of the weights reshaped to a matrix, which may be off by a factor of the
    kernel's size either way. It grows with the images, towards the largest singular value of the
    kernel's Fourier transform: a bound for some size holds for all smaller ones.

    Computed in float64 by Lanczos' method on W^T W with full reorthogonalisation, which is power
    iteration that forgets none of its iterates. The value approaches the norm from below; it stops
    once it has grown by less than ``tolerance``, relatively, in ten steps. Training makes many
    singular values nearly equal; some 1e-6 may then be missing. ``convolution_norm_bound`` is from
    above.

    Args:
        weight: kernel [O, I, h, w], h and w odd.
        height: of the images, >= 1.
        width: of the images, >= 1.
        tolerance: > 0.
        steps: of Lanczos' method at most, >= 1.

    Raises:
        ValueError: a kernel of even sides, or one that contains NaN or infinity.

    Source: E. Ryu et al., "Plug-and-play methods provably converge with properly trained
    denoisers", ICML 2019, section 4.1 (power iteration by convolutions); G. Golub, C. Van Loan,
    "Matrix computations", 2013, section 10.4.
    """
    count("height", height, 1)
    count("width", width, 1)
    count("steps", steps, 1)
    positive("tolerance", tolerance)
    if weight.dim() != 4 or weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
        raise ValueError(f"weight: expected [O, I, h, w] with odd h, w, got {list(weight.shape)}")
    kernel = weight.detach().double()
    if not bool(torch.isfinite(kernel).all()):
        raise ValueError("weight: expected finite values, got NaN or infinity")
    padding = (kernel.shape[2] // 2, kernel.shape[3] // 2)
    shape = (1, kernel.shape[1], height, width)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
    steps = min(steps, start.numel())
    basis = start.new_empty(steps, start.numel(), device=kernel.device)
    basis[0] = (start / start.norm()).flatten()
    diagonal: list[float] = []
    beside: list[float] = []
    values: list[float] = []
    for step in range(steps):
        image = functional.conv2d(basis[step].reshape(shape), kernel, padding=padding)
        back = functional.conv_transpose2d(image, kernel, padding=padding).flatten()
        diagonal.append(float(back @ basis[step]))
        known = basis[: step + 1]
        for _ in range(2):  # once leaves rounding errors along what is already well resolved
            back = back - known.T @ (known @ back)
        beside.append(float(back.norm()))
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        for row, value in enumerate(beside[:-1]):
            tridiagonal[row, row + 1] = tridiagonal[row + 1, row] = value
        values.append(float(torch.linalg.eigvalsh(tridiagonal)[-1]))
        settled = len(values) > 10 and values[-1] - values[-11] <= 2 * tolerance * values[-1]
        if settled or step + 1 == steps or beside[-1] <= _BREAKDOWN * values[-1]:
            break
        basis[step + 1] = back / beside[-1]
    return max(values[-1], 0.0) ** 0.5


def convolution_norm_bound(weight: Tensor, height: int, width: int) -> float:
    r"""An upper bound of ``convolution_norm``, nothing iterated:

        max over frequencies w of the largest singular value of W^(w) [O, I],

    with W^ the discrete Fourier transform on a torus of (height + h//2) x (width + w//2). There an
    image has all the zeros that the kernel sees beyond the border, so that the convolution is a
    part of the circular one. The larger the images, the closer it is to the norm.

    Args:
        weight: kernel [O, I, h, w], h and w odd.
        height: of the images, >= 1.
        width: of the images, >= 1.

    Source: H. Sedghi, V. Gupta, P. Long, "The singular values of convolutional layers", ICLR 2019.
    """
    count("height", height, 1)
    count("width", width, 1)
    sides = (height + weight.shape[2] // 2, width + weight.shape[3] // 2)
    # A kernel larger than the torus wraps around; a larger torus is a bound as well.
    sides = (max(sides[0], weight.shape[2]), max(sides[1], weight.shape[3]))
    transform = torch.fft.rfft2(weight.detach().double(), s=sides).permute(2, 3, 0, 1)
    return float(torch.linalg.matrix_norm(transform, 2).max())


class PowerIteration:
    r"""Spectral norms of a stack of convolutions while they are trained.

    One call does one step for all of them at once, from where the last call ended,

        u = W * v / ||W * v||,    v = W^T * u / ||W^T * u||,

    and returns sigma = <u, W * v>, whose gradient with respect to W has u and v held fixed.

    Args:
        kernels: how many, G.
        outputs: channels O of each.
        inputs: channels I of each.
        height: of the images.
        width: of the images.
        device: where the kernels are.
        generator: of the first v, on the CPU.

    Source: T. Miyato et al., "Spectral normalization for generative adversarial networks", ICLR
    2018; Ryu et al., ICML 2019.
    """

    def __init__(
        self,
        kernels: int,
        outputs: int,
        inputs: int,
        height: int,
        width: int,
        *,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self._groups = kernels
        # The kernels are the groups of one convolution: as many launches as for a single one.
        start = torch.randn(1, kernels * inputs, height, width, generator=generator).to(device)
        self.v = self._unit(start)
        self._shape = (kernels * outputs, inputs)

    def __call__(self, weight: Tensor) -> Tensor:
        """Sigma [G] of weights [G, O, I, h, w], a step nearer to the norms."""
        kernel = weight.reshape(*self._shape, *weight.shape[-2:])
        padding = (kernel.shape[2] // 2, kernel.shape[3] // 2)
        with torch.no_grad():
            image = functional.conv2d(self.v, kernel, padding=padding, groups=self._groups)
            u = self._unit(image)
            back = functional.conv_transpose2d(u, kernel, padding=padding, groups=self._groups)
            self.v.copy_(self._unit(back))  # in place: a captured graph reads this very tensor
        image = functional.conv2d(self.v.clone(), kernel, padding=padding, groups=self._groups)
        return (u * image).reshape(self._groups, -1).sum(dim=1)

    def _unit(self, values: Tensor) -> Tensor:
        flat = values.reshape(self._groups, -1)
        norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        return (flat / norm.clamp_min(torch.finfo(flat.dtype).tiny)).reshape(values.shape)
