"""One optimisation step, eager or as a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast._capture import captured, on_side_stream
from jpmap_fast.priors.weights import Network
from jpmap_fast.training.loss import negative_elbo
from jpmap_fast.training.recipe import Recipe

WARM_UP_STEPS = 3


class TrainingStep:
    """Adam on the negative ELBO of a batch.

    On a GPU, a batch shape that has come ``WARM_UP_STEPS`` times is captured in a CUDA graph: the
    step is a hundred small kernels, and launching them one by one would take most of its time.

    Args:
        prior: the network to train.
        recipe: its learning rate, weight decay, encoder noise, gamma and precision.
        cuda_graph: whether to capture.
    """

    def __init__(self, prior: Network, recipe: Recipe, cuda_graph: bool = True) -> None:
        self.prior = prior
        self.recipe = recipe
        self._on_gpu = prior.log_gamma.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(
            prior.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=self._on_gpu,
            capturable=self._on_gpu,
        )
        self.set_learning_rate(recipe.learning_rate)
        self._capture = cuda_graph and self._on_gpu
        self._seen: dict[torch.Size, int] = {}
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def set_learning_rate(self, value: float) -> None:
        """Use ``value`` from the next step on."""
        group = self.optimiser.param_groups[0]
        held = group["lr"]
        if not self._on_gpu:
            group["lr"] = value
        elif isinstance(held, Tensor) and held.is_cuda:
            held.fill_(value)  # a captured graph reads this very tensor
        else:
            group["lr"] = torch.tensor(value, device=self.prior.log_gamma.device)

    def __call__(self, clean: Tensor, corruption: Tensor, noise: Tensor) -> Tensor:
        """Step on one batch; (nll, kl, mse) before it, [3]."""
        arguments = [clean, corruption, noise]
        if not self._capture:
            return self._step(*arguments)
        shape = clean.shape
        if shape not in self._graphs:
            self._seen[shape] = self._seen.get(shape, 0) + 1
            if self._seen[shape] <= WARM_UP_STEPS:
                return on_side_stream(arguments[0].device, lambda: self._step(*arguments))
            self._record(arguments)
        graph, inputs, losses = self._graphs[shape]
        for held, given in zip(inputs, arguments, strict=True):
            held.copy_(given)
        graph.replay()
        return losses

    def _step(self, clean: Tensor, corruption: Tensor, noise: Tensor) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.losses(clean, corruption, noise)
        (losses[0] + losses[1]).backward()
        self.optimiser.step()
        return losses.detach()

    def losses(self, clean: Tensor, corruption: Tensor, noise: Tensor) -> Tensor:
        """nll, kl and mse of a batch, [3]."""
        recipe = self.recipe
        half = self._on_gpu and recipe.precision == "bfloat16"
        # Casts kept from one step would be those of old weights inside a captured graph.
        with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
            return torch.stack(
                negative_elbo(
                    self.prior,
                    clean,
                    corruption,
                    noise,
                    recipe.sigma_dvae,
                    recipe.gamma == "closed-form",
                )
            )

    def _record(self, arguments: list[Tensor]) -> None:
        inputs = [given.clone() for given in arguments]
        graph, losses = captured(inputs[0].device, lambda: self._step(*inputs))
        self._graphs[arguments[0].shape] = (graph, inputs, losses)
