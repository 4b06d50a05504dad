"""Training of denoisers whose residual keeps its Lipschitz constant."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._capture import captured, on_side_stream
from jpmap_fast._surroundings import DrawingFrom
from jpmap_fast._validate import choice, count, positive
from jpmap_fast.denoisers.lipschitz import Kernels, LipschitzDenoiser
from jpmap_fast.denoisers.spectral_norm import PowerIteration
from jpmap_fast.metrics import psnr
from jpmap_fast.training.step import WARM_UP_STEPS
from jpmap_fast.training.trainer import as_float, check_images

# Steps between two looks at the clock, each of which waits for the GPU.
CHUNK = 50


@dataclass(frozen=True)
class DenoiserRecipe:
    """The settings of a denoiser's training.

    Attributes:
        lipschitz: L in (0, 1), see ``LipschitzDenoiser``.
        width: channels between the convolutions.
        depth: number of convolutions.
        sigma_low, sigma_high: each image gets noise of a standard deviation drawn uniformly between
            them, for values in [0, 1].
        steps: of Adam.
        batch_size: images a step.
        learning_rate: after a linear rise over the first ``rise`` of the steps; it falls to nothing
            along a cosine. None: 1e-2 / width. Adam moves all weights by about as much, which adds
            to a norm in proportion to the width: with more a few singular values grow, all others
            are divided by them, and R hardly passes anything on.
        rise: share of the steps in [0, 1).
        mirror: each image is mirrored or not, at random.
        seed: of the initial weights, the images and the noise.
        precision: "float32", or "bfloat16" for the products.
    """

    lipschitz: float = 0.9
    width: int = 64
    depth: int = 10
    sigma_low: float = 1 / 255
    sigma_high: float = 110 / 255
    steps: int = 40_000
    batch_size: int = 128
    learning_rate: float | None = None
    rise: float = 0.02
    mirror: bool = False
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        count("steps", self.steps, 1)
        count("batch_size", self.batch_size, 1)
        count("width", self.width, 1)
        if self.learning_rate is not None:
            positive("learning_rate", self.learning_rate)
        positive("sigma_low", self.sigma_low)
        positive("sigma_high", self.sigma_high)
        if not self.sigma_low <= self.sigma_high < 10:
            raise ValueError(
                "sigma_high: expected a standard deviation for values in [0, 1], at least "
                f"sigma_low = {self.sigma_low:g}, got {self.sigma_high!r}"
            )
        if not 0 <= self.rise < 1:
            raise ValueError(f"rise: expected a share in [0, 1), got {self.rise!r}")
        choice("precision", self.precision, ("float32", "bfloat16"))

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a share ``progress`` in [0, 1] of the training."""
        highest = 1e-2 / self.width if self.learning_rate is None else self.learning_rate
        if progress < self.rise:
            return highest * max(progress / self.rise, 1e-2)
        rest = (progress - self.rise) / (1 - self.rise)
        return highest * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def train_denoiser(
    images: Tensor,
    *,
    device: torch.device | str | None = None,
    seconds: float | None = None,
    progress: bool = True,
    cuda_graph: bool = True,
    **settings: Any,
) -> tuple[LipschitzDenoiser, dict[str, Any]]:
    r"""Train a ``LipschitzDenoiser`` by Adam on the mean of

        ||D(x + s n, s) - x||^2,    n standard normal, s uniform in [sigma_low, sigma_high].

    Each step divides the convolutions by their spectral norms as one step of power iteration, warm
    started, estimates them, and differentiates through the quotient. At the end the norms are
    found to convergence and divided by, after which inference is plain convolutions.

    Args:
        images: [N, C, H, W], uint8 (0 to 255) or floating point in [0, 1].
        device: where to train; the CPU by default.
        seconds: stop after so much time, and let the learning rate fall in that time if it is less
            than ``steps`` take. What comes out then depends on how fast the machine is.
        progress: show a bar with the loss.
        cuda_graph: on a GPU, capture the training step in a CUDA graph.
        settings: those of ``DenoiserRecipe``.

    Returns:
        The denoiser on ``device``, in evaluation mode, gradients off; and what happened: the
        recipe, steps, seconds, losses (mean squared error a pixel, of ``CHUNK`` steps each) and the
        norms that power iteration left, over those it should have left.

    Raises:
        ValueError, TypeError: settings or images do not fit; the training diverges.

    Source: Ryu et al., ICML 2019, section 4; T. Miyato et al., ICLR 2018.
    """
    recipe = DenoiserRecipe(**settings)
    if seconds is not None:
        positive("seconds", seconds)
    place = torch.device("cpu" if device is None else device)
    images = check_images("images", images).to(place)
    with DrawingFrom(torch.Generator().manual_seed(recipe.seed)):
        denoiser = LipschitzDenoiser(
            tuple(images.shape[1:]), recipe.lipschitz, recipe.width, recipe.depth
        )
    step = DenoiserStep(denoiser.to(place).train(), recipe, cuda_graph)
    generator = torch.Generator(device=place).manual_seed(recipe.seed)

    bar: Any = None
    if progress:
        from tqdm.auto import tqdm

        bar = tqdm(total=recipe.steps, unit="step", desc="train")
    losses: list[float] = []
    begin = time.perf_counter()
    done, share = 0, 0.0
    while share < 1:
        step.set_learning_rate(recipe.learning_rate_at(share))
        number = min(CHUNK, recipe.steps - done)
        total = torch.zeros((), device=place)
        for _ in range(number):
            total += step(*_draw(images, recipe, generator))
        losses.append(float(total) / number)
        if not math.isfinite(losses[-1]):
            raise ValueError(
                f"training diverged within {done + number} steps; use a smaller learning_rate than "
                f"{recipe.learning_rate_at(recipe.rise):g}"
            )
        done += number
        spent = time.perf_counter() - begin
        share = max(done / recipe.steps, 0.0 if seconds is None else spent / seconds)
        if bar is not None:
            bar.set_postfix({"rmse * 255": f"{255 * math.sqrt(losses[-1]):.2f}"}, refresh=False)
            bar.update(number)
    if bar is not None:
        bar.close()
    spent = time.perf_counter() - begin
    estimated = step.bake()
    denoiser.requires_grad_(False).eval()
    log = {
        "recipe": asdict(recipe),
        "image_shape": list(images.shape[1:]),
        "images": len(images),
        "steps": done,
        "seconds": spent,
        "losses": losses,
        "estimated_over_true_norms": estimated,
    }
    return denoiser, log


class DenoiserStep:
    """Adam on the mean squared error of a batch.

    On a GPU the step is captured in a CUDA graph once it has run ``WARM_UP_STEPS`` times.

    Args:
        denoiser: to train; its kernels are divided by their norms at the end, by ``bake``.
        recipe: its learning rate and precision.
        cuda_graph: whether to capture.
    """

    def __init__(
        self, denoiser: LipschitzDenoiser, recipe: DenoiserRecipe, cuda_graph: bool = True
    ) -> None:
        self.denoiser = denoiser
        self._device = denoiser.first.device
        self._on_gpu = self._device.type == "cuda"
        self._half = recipe.precision == "bfloat16"
        rate = recipe.learning_rate_at(0)
        self._optimiser = torch.optim.Adam(
            denoiser.parameters(),
            lr=torch.tensor(rate, device=self._device) if self._on_gpu else rate,
            fused=self._on_gpu,
            capturable=self._on_gpu,
        )
        channels, height, width = denoiser.image_shape
        generator = torch.Generator().manual_seed(recipe.seed)
        # All hidden convolutions are one stack, so that their norms take as many launches as one.
        self._powers = [
            PowerIteration(*layout, height, width, device=self._device, generator=generator)
            for layout in (
                (1, denoiser.width, channels),
                (denoiser.depth - 2, denoiser.width, denoiser.width),
                (1, channels, denoiser.width),
            )
        ]
        self._capture = cuda_graph and self._on_gpu
        self._seen = 0
        self._graph: tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor] | None = None

    def set_learning_rate(self, value: float) -> None:
        """Use ``value`` from the next step on."""
        group = self._optimiser.param_groups[0]
        if self._on_gpu:
            group["lr"].fill_(value)  # a captured graph reads this very tensor
        else:
            group["lr"] = value

    def __call__(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Step on one batch, always of one size; the loss before it, a scalar.

        Args:
            clean: x [B, C, H, W] in [0, 1].
            noise: n [B, C, H, W].
            sigma: s [B].
        """
        arguments = [clean, noise, sigma]
        if not self._capture:
            return self._step(*arguments)
        if self._graph is None:
            self._seen += 1
            if self._seen <= WARM_UP_STEPS:
                return on_side_stream(arguments[0].device, lambda: self._step(*arguments))
            self._record(arguments)
        assert self._graph is not None
        graph, inputs, loss = self._graph
        for held, given in zip(inputs, arguments, strict=True):
            held.copy_(given)
        graph.replay()
        return loss

    def normalised(self) -> Kernels:
        """The kernels over their norms, as a further step of power iteration sees them."""
        first, hidden, last = self.denoiser.kernels
        norms = [
            power(stack)
            for power, stack in zip(self._powers, (first[None], hidden, last[None]), strict=True)
        ]
        gain = self.denoiser.layer_norm
        return Kernels(
            first * (gain / norms[0]),
            hidden * (gain / norms[1]).reshape(-1, 1, 1, 1, 1),
            last * (gain / norms[2]),
        )

    @torch.no_grad()
    def bake(self) -> list[float]:
        """Divide the kernels by their norms, found to convergence, in place.

        Returns:
            What power iteration took the norms for, over the norms, one a convolution.
        """
        kernels = self.normalised()
        for own, kernel in zip(self.denoiser.kernels, kernels, strict=True):
            own.copy_(kernel)
        return [self.denoiser.layer_norm / norm for norm in self.denoiser.normalise()]

    def _step(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        self._optimiser.zero_grad(set_to_none=True)
        kernels = self.normalised()
        noise = noise * sigma.reshape(-1, 1, 1, 1)
        # Casts kept from one step would be those of old weights inside a captured graph.
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._half, cache_enabled=False
        ):
            found = self.denoiser.network(clean + noise, sigma, kernels)
        loss = (found.float() - noise).square().mean()
        loss.backward()
        self._optimiser.step()
        return loss.detach()

    def _record(self, arguments: list[Tensor]) -> None:
        inputs = [given.clone() for given in arguments]
        graph, loss = captured(inputs[0].device, lambda: self._step(*inputs))
        self._graph = (graph, inputs, loss)


@torch.no_grad()
def denoising_psnr(
    denoiser: LipschitzDenoiser, images: Tensor, sigma: float, seed: int = 0, batch_size: int = 500
) -> tuple[float, float]:
    """Mean over the images of the PSNR of x + s n and of D(x + s n, s) against x, in dB.

    Args:
        denoiser: to be judged.
        images: x [N, C, H, W], uint8 or floating point in [0, 1].
        sigma: s > 0.
        seed: of the noise, drawn on the CPU.
        batch_size: images at a time.
    """
    positive("sigma", sigma)
    images = check_images("images", images, denoiser.image_shape)
    generator = torch.Generator().manual_seed(seed)
    device = denoiser.first.device
    before = after = 0.0
    for batch in images.split(batch_size):
        clean = as_float(batch.cpu())
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        before += float(psnr(noisy, clean).sum())
        after += float(psnr(denoiser(noisy.to(device), sigma).cpu(), clean).sum())
    return before / len(images), after / len(images)


def _draw(
    images: Tensor, recipe: DenoiserRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images, unit noise and noise levels of a batch."""
    size, device = recipe.batch_size, images.device
    index = torch.randint(len(images), (size,), generator=generator, device=device)
    clean = as_float(images[index])
    if recipe.mirror:
        mirrored = torch.rand(size, generator=generator, device=device) < 0.5
        clean = torch.where(mirrored.reshape(-1, 1, 1, 1), clean.flip(3), clean)
    noise = torch.randn(clean.shape, generator=generator, device=device)
    uniform = torch.rand(size, generator=generator, device=device)
    return clean, noise, recipe.sigma_low + (recipe.sigma_high - recipe.sigma_low) * uniform
