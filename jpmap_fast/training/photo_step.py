"""One step of training the photograph network, eager or as a CUDA graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jpmap_fast._capture import on_side_stream
from jpmap_fast._validate import choice, count, positive
from jpmap_fast.priors.photo_network import PhotoNetwork
from jpmap_fast.priors.photo_prior import PhotoPrior
from jpmap_fast.training.crops import Crops
from jpmap_fast.training.step import WARM_UP_STEPS


@dataclass(frozen=True)
class PhotoRecipe:
    """The settings of a training run of the photograph network.

    Attributes:
        steps: of Adam, in all.
        batch_size: crops a step.
        crop: height and width of a crop, in pixels.
        learning_rate: of Adam at its highest; it rises over ``warm_up`` steps and falls by a
            cosine.
        warm_up: steps.
        noise: the highest noise level, in [0, 1] units. Levels are noise u^skew, u uniform.
        skew: > 0; above 1 the low levels are more frequent.
        ema: decay of the running mean of the weights that is kept at the end, in [0, 1).
        scales: factors the pictures are reduced by for part of the crops.
        precision: "float32", or "bfloat16" for the products of a GPU.
        seed: of the initial weights, crops and noise.
        widths, encoder_blocks, decoder_blocks: see ``PhotoNetwork``.
    """

    steps: int = 112_000
    batch_size: int = 48
    crop: int = 96
    learning_rate: float = 7e-4
    warm_up: int = 1000
    noise: float = 130 / 255
    skew: float = 1.7
    ema: float = 0.999
    scales: tuple[float, ...] = (1.0, 0.8)
    precision: str = "bfloat16"
    seed: int = 0
    widths: tuple[int, ...] = (64, 96, 192, 256)
    encoder_blocks: tuple[int, ...] = (1, 2, 2, 2)
    decoder_blocks: tuple[int, ...] = (1, 2, 2, 2)

    def __post_init__(self) -> None:
        for name in ("scales", "widths", "encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("steps", "batch_size", "crop"):
            count(name, getattr(self, name), 1)
        count("warm_up", self.warm_up, 0)
        for name in ("learning_rate", "noise", "skew"):
            positive(name, getattr(self, name))
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: expected a decay in [0, 1), got {self.ema!r}")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales: expected factors in (0, 1], got {self.scales!r}")
        choice("precision", self.precision, ("float32", "bfloat16"))

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / (self.warm_up + 1))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def build(self, channels: int) -> PhotoPrior:
        """An untrained prior, from torch's current seed."""
        return PhotoPrior(channels, self.widths, self.encoder_blocks, self.decoder_blocks)


# Grey levels at which the error of a noise level that is nearly 0 is taken for what it would be.
_FLOOR = 2 / 255
# Norms of gradients beyond so many times their usual one are cut down to that.
_LARGE = 2.0


class PhotoStep:
    """Adam on the squared error of a batch of noisy crops, over their noise levels.

    The error that no network can avoid grows about as the noise level s does, so that squares over
    s + 2/255 give every level the same say.

    On a GPU the whole step, crops and noise included, is captured in a CUDA graph once it has run
    ``WARM_UP_STEPS`` times.

    Args:
        network: to train.
        crops: where batches come from.
        recipe: of the run.
        cuda_graph: whether to capture.
    """

    def __init__(
        self, network: PhotoNetwork, crops: Crops, recipe: PhotoRecipe, cuda_graph: bool = True
    ) -> None:
        self.network = network
        self.parameters = list(network.parameters())
        self.device = self.parameters[0].device
        self.mean = [p.detach().clone() for p in self.parameters]
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self._crops, self._recipe = crops, recipe
        self._on_gpu = self.device.type == "cuda"
        rate = recipe.learning_rate_at(0)
        self.optimiser = torch.optim.Adam(
            self.parameters,
            lr=torch.tensor(rate, device=self.device) if self._on_gpu else rate,
            betas=(0.9, 0.99),
            fused=True,
            capturable=self._on_gpu,
        )
        # What the fused Adam divides gradients by, and whether it leaves the step out.
        self._cut = torch.ones((), device=self.device)
        self._left_out = torch.zeros((), device=self.device)
        vars(self.optimiser).update(grad_scale=self._cut, found_inf=self._left_out)
        self.typical = torch.zeros((), device=self.device)  # norm of the gradient, of late
        self._capture = cuda_graph and self._on_gpu
        self._seen = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss = torch.zeros((), device=self.device)

    def __call__(self, rate: float) -> Tensor:
        """One step at a learning rate; the loss before it, which the next step overwrites."""
        group = self.optimiser.param_groups[0]
        if self._on_gpu:
            group["lr"].fill_(rate)  # a captured graph reads this very tensor
        else:
            group["lr"] = rate
        if not self._capture:
            self._step()
        elif self._graph is not None:
            self._graph.replay()
        else:
            self._seen += 1
            on_side_stream(self.device, self._step)
            if self._seen >= WARM_UP_STEPS:
                self._record()
        return self._loss

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with (
            torch.cuda.device(self.device),
            torch.cuda.graph(
                graph, stream=torch.cuda.Stream(self.device), capture_error_mode="thread_local"
            ),
        ):
            self._step()
        self._graph = graph

    def _step(self) -> None:
        recipe, generator = self._recipe, self.generator
        clean = self._crops.draw(recipe.batch_size, generator)
        u = torch.rand(recipe.batch_size, device=self.device, generator=generator)
        s = recipe.noise * u**recipe.skew
        scale = s.reshape(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, device=self.device, generator=generator)
        noisy = (clean + scale * noise).contiguous(memory_format=torch.channels_last)
        half = recipe.precision == "bfloat16"
        # Casts kept from one step would be those of old weights inside a captured graph.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            found = self.network(noisy, s)
        loss = ((found - clean).square() / (scale + _FLOOR)).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._tame()
        self.optimiser.step()
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.parameters], 1 - recipe.ema)
        self._loss.copy_(loss.detach())

    def _tame(self) -> None:
        """Keep a gradient within ``_LARGE`` times its usual norm; leave out one that is no number.

        Without normalisation layers a single batch can throw the weights far away.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm)
        usual = torch.where(self.typical > 0, self.typical, norm)
        self._cut.copy_((norm / (_LARGE * usual)).clamp_min(1).nan_to_num(1.0))
        self._left_out.copy_((~finite).float())
        seen = torch.where(finite, norm.clamp_max(_LARGE * usual), usual)
        self.typical.copy_(torch.where(torch.isfinite(usual), usual.lerp(seen, 0.02), 0.0))
