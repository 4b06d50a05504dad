"""One optimisation step of a denoiser, eager or as a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast._capture import captured, on_side_stream
from jpmap_fast.denoisers.lipschitz import Kernels, LipschitzDenoiser
from jpmap_fast.denoisers.spectral_norm import PowerIteration
from jpmap_fast.training.denoiser_recipe import DenoiserRecipe
from jpmap_fast.training.step import WARM_UP_STEPS


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
