"""One optimisation step, eager or as a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.training.loss import negative_elbo

WARM_UP_STEPS = 3


class TrainingStep:
    """Adam on the negative ELBO of a batch.

    On a GPU, a batch shape that has come ``WARM_UP_STEPS`` times is captured in a CUDA graph: the
    step is a hundred small kernels, and launching them one by one would take most of its time.

    Args:
        prior: the network to train.
        learning_rate: of Adam.
        sigma_dvae: see ``negative_elbo``.
        weight_decay: decoupled, as in AdamW; 0 makes it Adam.
        cuda_graph: whether to capture.
    """

    def __init__(
        self,
        prior: MLPVAE,
        learning_rate: float,
        sigma_dvae: float,
        weight_decay: float = 0.0,
        cuda_graph: bool = True,
    ) -> None:
        self.prior = prior
        self.sigma_dvae = sigma_dvae
        self._on_gpu = prior.log_gamma.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(
            prior.parameters(),
            lr=learning_rate,
            weight_decay=weight_decay,
            fused=self._on_gpu,
            capturable=self._on_gpu,
        )
        self.set_learning_rate(learning_rate)
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
        """Step on one batch; the losses (nll, kl) before it, [2]."""
        arguments = [clean, corruption, noise]
        if not self._capture:
            return self._step(*arguments)
        shape = clean.shape
        if shape not in self._graphs:
            self._seen[shape] = self._seen.get(shape, 0) + 1
            if self._seen[shape] <= WARM_UP_STEPS:
                return self._on_side_stream(arguments)
            self._record(arguments)
        graph, inputs, losses = self._graphs[shape]
        for held, given in zip(inputs, arguments, strict=True):
            held.copy_(given)
        graph.replay()
        return losses

    def _step(self, clean: Tensor, corruption: Tensor, noise: Tensor) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        nll, divergence = negative_elbo(self.prior, clean, corruption, noise, self.sigma_dvae)
        (nll + divergence).backward()
        self.optimiser.step()
        return torch.stack((nll.detach(), divergence.detach()))

    def _on_side_stream(self, arguments: list[Tensor]) -> Tensor:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = self._step(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def _record(self, arguments: list[Tensor]) -> None:
        inputs = [given.clone() for given in arguments]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self._step(*inputs)
        self._graphs[arguments[0].shape] = (graph, inputs, losses)
