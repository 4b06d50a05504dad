"""A denoiser whose residual is a contraction by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from jpmap_fast._validate import count, counts, image_batch, per_image, positive
from jpmap_fast.denoisers.spectral_norm import convolution_norm

# Norms are approached from below, to some 1e-5 for a whole stack. With this margin L is also above
# the product of ``convolution_norm_bound``s of stacks of images from about 28 x 28 on.
_MARGIN = 5e-4


class Kernels(NamedTuple):
    """What of a denoiser acts on images.

    Attributes:
        first: [width, C, 3, 3].
        hidden: [depth - 2, width, width, 3, 3].
        last: [C, width, 3, 3].
    """

    first: Tensor
    hidden: Tensor
    last: Tensor


class LipschitzDenoiser(nn.Module):
    r"""D(x, s) = x - R(x, s), where R is Lipschitz in x with a constant L < 1:

        ||R(x, s) - R(x', s)|| <= L ||x - x'||    for all images x, x' and every s.

    R is a plain stack of ``depth`` convolutions 3 x 3 with zeros beyond the border, biases, and
    between them the greater and the smaller of each channel and its partner (``max_min``). ReLU
    would lose half of what a layer of norm 1 is given: with it R finds far less of the noise. The
    spectral norm of each convolution as a map of images of ``image_shape`` is L^(1/depth), so that
    L is their product: a bound that needs no data, and holds for smaller images as well. The noise
    level enters the first convolution as a constant image of its own; it acts as a bias and takes
    no part in the norm.

    A new denoiser has orthogonal matrices in the middle of its kernels and zeros around them. It is
    trained by ``jpmap_fast.training.denoiser.train_denoiser``; one that has been given other
    weights must be ``normalise``d.

    Args:
        image_shape: (C, H, W), the largest images the bound is for.
        lipschitz: L in (0, 1). Convergence of plug-and-play ADMM asks for L < 1, for a small weight
            even then (``largest_weight``).
        width: channels between the convolutions, even, >= C.
        depth: number of convolutions, >= 3.

    Raises:
        ValueError, TypeError: a setting is out of range or of the wrong kind.

    Source: E. Ryu et al., "Plug-and-play methods provably converge with properly trained
    denoisers", ICML 2019; the architecture K. Zhang et al., "Beyond a Gaussian denoiser", IEEE TIP
    2017, without batch normalisation, and the noise level as in "FFDNet", IEEE TIP 2018; the
    initial weights L. Xiao et al., "Dynamical isometry and a mean field theory of CNNs", ICML 2018;
    the activation C. Anil, J. Lucas, R. Grosse, "Sorting out Lipschitz function approximation",
    ICML 2019.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        lipschitz: float = 0.9,
        width: int = 64,
        depth: int = 10,
    ) -> None:
        super().__init__()
        counts("image_shape", image_shape, 1)
        if len(image_shape) != 3:
            raise ValueError(f"image_shape: expected (C, H, W), got {tuple(image_shape)}")
        positive("lipschitz", lipschitz)
        if not lipschitz < 1:
            raise ValueError(
                f"lipschitz: expected a number in (0, 1), got {lipschitz!r}; from 1 on "
                "plug-and-play ADMM is not proved to converge for any weight"
            )
        count("width", width, image_shape[0])
        if width % 2:
            raise ValueError(f"width: expected an even number, got {width}")
        count("depth", depth, 3)
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.bound = float(lipschitz)
        self.width = width
        self.depth = depth
        channels = self.image_shape[0]
        self.first = nn.Parameter(_centred(1, width, channels, self.layer_norm)[0])
        self.level = nn.Parameter(torch.zeros(width, 1, 3, 3))
        self.hidden = nn.Parameter(_centred(depth - 2, width, width, self.layer_norm))
        self.last = nn.Parameter(_centred(1, channels, width, self.layer_norm)[0])
        self.bias = nn.Parameter(torch.zeros(depth - 1, width))
        self.shift = nn.Parameter(torch.zeros(channels))

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "image_shape": list(self.image_shape),
            "lipschitz": self.bound,
            "width": self.width,
            "depth": self.depth,
        }

    @property
    def layer_norm(self) -> float:
        """The spectral norm each convolution is given: L^(1/depth), less a margin of 5e-4 in L."""
        return float((self.bound * (1 - _MARGIN)) ** (1 / self.depth))

    @property
    def lipschitz(self) -> float:
        """L by construction: no less than the product of the norms of all convolutions."""
        return self.bound

    @property
    def kernels(self) -> Kernels:
        """The convolutions as they are."""
        return Kernels(self.first, self.hidden, self.last)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, s).

        Args:
            x: images [B, C, h, w] with h <= H and w <= W, values about [0, 1], floating point.
            sigma: s > 0, the standard deviation of the noise, for values in [0, 1]; a number or one
                an image [B].

        Returns:
            [B, C, h, w], not clipped.

        Raises:
            ValueError: larger images than the bound holds for; sigma out of range. TypeError: of
                the wrong kind.
        """
        return x - self.residual(x, sigma)

    def residual(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """R(x, s), the noise found in x; arguments, value and errors as of ``forward``."""
        return self.network(x, self._levels(x, sigma), self.kernels)

    def network(self, x: Tensor, level: Tensor, kernels: Kernels) -> Tensor:
        """R(x, s) with kernels other than the denoiser's own, and nothing checked: for training.

        Args:
            x: images [B, C, h, w].
            level: s [B].
            kernels: in the place of ``kernels``.
        """
        plane = level.reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        kernel = torch.cat([kernels.first, self.level], dim=1)
        # The layout of the tensor cores' convolutions; the layers after it keep it.
        h = torch.cat([x, plane], dim=1).contiguous(memory_format=torch.channels_last)
        h = max_min(functional.conv2d(h, kernel, self.bias[0], padding=1))
        for weight, bias in zip(kernels.hidden, self.bias[1:], strict=True):
            h = max_min(functional.conv2d(h, weight, bias, padding=1))
        return functional.conv2d(h, kernels.last, self.shift, padding=1)

    def _levels(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Sigma [B] for images that fit."""
        channels, height, width = self.image_shape
        image_batch("LipschitzDenoiser: x", x)
        if x.shape[1] != channels or x.shape[2] > height or x.shape[3] > width:
            raise ValueError(
                f"LipschitzDenoiser: expected images of {channels} channels and at most {height} x "
                f"{width} pixels, for which its Lipschitz constant holds, got {list(x.shape)}"
            )
        if isinstance(sigma, Tensor):
            return per_image("LipschitzDenoiser: sigma", sigma, len(x), x)
        # Plug-and-play methods come here in every iteration: nothing that waits for a GPU.
        positive("LipschitzDenoiser: sigma", sigma)
        return x.new_full((len(x),), sigma)

    @torch.no_grad()
    def normalise(self) -> list[float]:
        """Give every convolution its spectral norm, found in float64, in place.

        Returns:
            The spectral norms before, first convolution first.

        Raises:
            ValueError: a kernel is zero, or contains NaN or infinity.
        """
        found = []
        for number, kernel in enumerate((self.first, *self.hidden, self.last)):
            norm = convolution_norm(kernel, *self.image_shape[1:])
            if norm == 0:
                raise ValueError(f"convolution {number} is zero and cannot be normalised")
            kernel.copy_(kernel.double() * (self.layer_norm / norm))
            found.append(norm)
        return found

    @torch.inference_mode(False)
    def local_lipschitz(
        self, x: Tensor, sigma: float | Tensor, *, iterations: int = 50, seed: int = 0
    ) -> Tensor:
        r"""Spectral norm of the Jacobian of R at each image, a lower bound of the best L.

        By power iteration on J^T J, from below; the direction is drawn on the CPU.

        Args:
            x: images [B, C, h, w].
            sigma: s, a number or one an image [B].
            iterations: >= 1.
            seed: of the first direction.

        Returns:
            [B], at most ``lipschitz`` but for rounding.
        """
        count("iterations", iterations, 1)
        x = x.detach().clone()
        if len(x) == 0:
            return x.new_zeros(0)
        level = self._levels(x, sigma)

        def residual(image: Tensor) -> Tensor:
            return self.network(image, level, self.kernels)

        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(x.shape[1:], generator=generator).to(x).expand_as(x)
        _, pull = torch.func.vjp(residual, x)  # type: ignore[misc]
        norm = x.new_zeros(len(x))
        for _ in range(iterations):
            direction = direction / _norms(direction).clamp_min(torch.finfo(x.dtype).tiny)
            _, pushed = torch.func.jvp(residual, (x,), (direction,))  # type: ignore[misc]
            norm = _norms(pushed).flatten()
            (direction,) = pull(pushed)
        return norm.detach()


def max_min(h: Tensor) -> Tensor:
    """Channel c and c + width / 2 sorted, the greater first: a permutation at every pixel.

    Its Jacobian is orthogonal, so that a stack of layers of norm 1 can keep the norm of what goes
    through it.

    Args:
        h: [B, width, H, W], width even.
    """
    a, b = h.chunk(2, dim=1)
    return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=1)


def _centred(count: int, outputs: int, inputs: int, gain: float) -> Tensor:
    """Kernels that apply orthogonal matrices to each pixel: of norm ``gain`` exactly.

    Returns:
        [count, outputs, inputs, 3, 3]; on the meta device, where there is nothing to fill, nothing
        is drawn: torch would import its compiler for it.
    """
    kernels = torch.zeros(count, outputs, inputs, 3, 3)
    if not kernels.is_meta:
        for kernel in kernels:
            kernel[:, :, 1, 1] = gain * nn.init.orthogonal_(torch.empty(outputs, inputs))
    return kernels


def _norms(images: Tensor) -> Tensor:
    return torch.linalg.vector_norm(images.flatten(1), dim=1).reshape(-1, 1, 1, 1)
