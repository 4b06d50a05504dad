"""One step of training a network for photographs, eager or as a CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jpmap_fast._capture import on_side_stream
from jpmap_fast.training.crops import Crops
from jpmap_fast.training.photo_recipe import CropRecipe
from jpmap_fast.training.step import WARM_UP_STEPS

# Norms of gradients beyond so many times their usual one are cut down to that.
_LARGE = 2.0


class PhotoStep:
    """Adam on the loss of a recipe for a batch of noisy crops.

    On a GPU the whole step, crops and noise included, is captured in a CUDA graph once it has run
    ``WARM_UP_STEPS`` times.

    Args:
        network: to train.
        crops: where batches come from.
        recipe: of the run.
        cuda_graph: whether to capture.
    """

    def __init__(
        self, network: Any, crops: Crops, recipe: CropRecipe, cuda_graph: bool = True
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
        self._weight, self._weight_held = 1.0, torch.ones((), device=self.device)

    def __call__(self, rate: float, weight: float = 1.0) -> Tensor:
        """One step at a learning rate; the loss before it, which the next step overwrites.

        Args:
            rate: of Adam.
            weight: see ``CropRecipe.weight_at``.
        """
        if weight != self._weight:
            self._weight_held.fill_(weight)
            self._weight = weight
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
            found = recipe.forward(self.network, noisy, s, generator)
        loss = recipe.loss(found, clean, s, self._weight_held)
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
