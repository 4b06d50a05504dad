"""Training of an MLP prior with the denoising criterion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import SCALE_HINT, choice, count, positive
from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.weights import architecture
from jpmap_fast.training.checkpoint import read_checkpoint, write_checkpoint
from jpmap_fast.training.evaluation import reconstruction_psnr
from jpmap_fast.training.step import TrainingStep


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run; the defaults are the JPMAP authors' MNIST recipe.

    Attributes:
        latent_dim: k.
        hidden: widths of the encoder's hidden layers.
        sigma_dvae: standard deviation of the encoder's input noise, in [0, 1] units, >= 0.
        epochs: passes over the data.
        batch_size: images a step; what an epoch leaves over is trained on as a shorter batch.
        learning_rate: of Adam.
        schedule: "constant", or "cosine": from learning_rate down to nothing over the epochs.
        weight_decay: decoupled weight decay of the weight matrices and biases, >= 0 (AdamW).
        seed: of the initial weights, the shuffling and the noise.
    """

    latent_dim: int = 8
    hidden: tuple[int, ...] = (512, 512)
    sigma_dvae: float = 15 / 255
    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-4
    schedule: str = "constant"
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        count("latent_dim", self.latent_dim, 1)
        count("epochs", self.epochs, 1)
        count("batch_size", self.batch_size, 1)
        positive("learning_rate", self.learning_rate)
        if not 0 <= self.weight_decay < 100:
            raise ValueError(f"weight_decay: expected a number >= 0, got {self.weight_decay!r}")
        choice("schedule", self.schedule, ("constant", "cosine"))
        if not 0 <= self.sigma_dvae < 10:
            raise ValueError(
                f"sigma_dvae: expected a standard deviation >= 0 for values in [0, 1], "
                f"got {self.sigma_dvae!r}"
            )

    def learning_rate_of(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


def train(
    images: Tensor,
    *,
    latent_dim: int = 8,
    hidden: Sequence[int] = (512, 512),
    sigma_dvae: float = 15 / 255,
    epochs: int = 200,
    batch_size: int = 128,
    learning_rate: float = 1e-4,
    schedule: str = "constant",
    weight_decay: float = 0.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    validation: Tensor | None = None,
    progress: bool = True,
    cuda_graph: bool = True,
) -> MLPVAE:
    """Train a variational autoencoder with the denoising criterion and a learned gamma.

    The encoder's input is x + sigma_dvae noise, the decoder's target is the clean x; the loss is
    ``loss.negative_elbo``, minimised by Adam (AdamW with a weight decay). Epoch e draws its
    shuffling and noise from a generator seeded by (seed, e) alone, so a run resumed from a
    checkpoint ends with the same bits as one that was never interrupted.

    Args:
        images: [N, C, H, W], uint8 (0 to 255) or floating point in [0, 1].
        latent_dim, hidden, sigma_dvae, epochs, batch_size, learning_rate, schedule,
            weight_decay, seed: see ``Recipe``.
        device: where to train; the CPU by default.
        checkpoint: file to write after every epoch.
        resume: continue from ``checkpoint`` if it exists; its recipe must be this one (with a
            constant learning rate, the number of epochs may differ).
        validation: images whose reconstruction PSNR is shown after every epoch.
        progress: show a bar with the losses.
        cuda_graph: on a GPU, capture the training step in a CUDA graph.

    Returns:
        The trained prior, on ``device``, in evaluation mode, gradients off.

    Raises:
        ValueError, TypeError: settings or images do not fit; a checkpoint of another recipe.

    Source: arXiv 2103.01648 and D. Im et al., AAAI 2017.
    """
    recipe = Recipe(
        latent_dim,
        tuple(hidden),
        sigma_dvae,
        epochs,
        batch_size,
        learning_rate,
        schedule,
        weight_decay,
        seed,
    )
    place = torch.device("cpu" if device is None else device)
    images = check_images("images", images).to(place)
    if validation is not None:
        validation = check_images("validation", validation, images.shape[1:]).to(place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = MLPVAE(tuple(images.shape[1:]), latent_dim, recipe.hidden).to(place)
    step = TrainingStep(
        prior, recipe.learning_rate, recipe.sigma_dvae, recipe.weight_decay, cuda_graph
    )
    path = None if checkpoint is None else Path(checkpoint)
    first = _resume(path, step, recipe) if resume and path is not None and path.exists() else 0

    bar: Any = None
    if progress:
        from tqdm.auto import tqdm

        bar = tqdm(total=epochs, initial=first, unit="epoch", desc="train")
    for epoch in range(first, epochs):
        step.set_learning_rate(recipe.learning_rate_of(epoch))
        losses = _epoch(step, images, recipe, epoch)
        if path is not None:
            write_checkpoint(path, _content(step, recipe, epoch + 1))
        if bar is not None:
            shown = {"nll": f"{losses[0]:.1f}", "kl": f"{losses[1]:.2f}"}
            shown["gamma"] = f"{prior.gamma:.4f}"
            if validation is not None:
                shown["psnr"] = f"{reconstruction_psnr(prior, validation):.2f}"
            bar.set_postfix(shown)
            bar.update()
    if bar is not None:
        bar.close()
    return prior.requires_grad_(False).eval()


def check_images(name: str, images: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Images fit to train on, as they came.

    Raises:
        ValueError: empty, another shape, values outside [0, 1] or NaN. TypeError: another type.
    """
    if images.dim() != 4 or (shape is not None and tuple(images.shape[1:]) != tuple(shape)):
        expected = "[N, C, H, W]" if shape is None else f"[N, {', '.join(map(str, shape))}]"
        raise ValueError(f"{name}: expected shape {expected}, got {list(images.shape)}")
    if images.shape[0] == 0:
        raise ValueError(f"{name}: expected at least one image, got none")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"{name}: expected uint8 or floating point, got {images.dtype}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(f"{name}: expected values in [0, 1]; {SCALE_HINT}")
    return images.float()


def as_float(batch: Tensor) -> Tensor:
    """float32 in [0, 1] of uint8 or float images."""
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch


def _epoch(step: TrainingStep, images: Tensor, recipe: Recipe, epoch: int) -> list[float]:
    """One pass over the images; the mean nll and kl."""
    generator = torch.Generator(device=images.device)
    generator.manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(images), generator=generator, device=images.device)
    total = torch.zeros(2, device=images.device)
    step.prior.train()
    for rows in order.split(recipe.batch_size):
        clean = as_float(images[rows])
        corruption = torch.randn(clean.shape, generator=generator, device=clean.device)
        noise = torch.randn(len(rows), recipe.latent_dim, generator=generator, device=clean.device)
        total += step(clean, corruption, noise) * len(rows)
    step.prior.eval()
    return (total / len(images)).tolist()


def _content(step: TrainingStep, recipe: Recipe, epochs_done: int) -> dict[str, Any]:
    return {
        "architecture": architecture(step.prior),
        "recipe": asdict(recipe),
        "epochs_done": epochs_done,
        "model": step.prior.state_dict(),
        "optimiser": step.optimiser.state_dict(),
    }


def _resume(path: Path, step: TrainingStep, recipe: Recipe) -> int:
    saved = read_checkpoint(path)
    mine, theirs = asdict(recipe), dict(saved["recipe"])
    theirs["hidden"] = tuple(theirs["hidden"])
    if recipe.schedule == "constant":
        mine["epochs"] = theirs["epochs"] = None
    if mine != theirs:
        different = sorted(key for key in mine if mine[key] != theirs.get(key))
        raise ValueError(
            f"{path}: expected a checkpoint of this recipe, it differs in {', '.join(different)}; "
            "use the same settings, or another checkpoint file"
        )
    step.prior.load_state_dict(saved["model"])
    step.optimiser.load_state_dict(saved["optimiser"])
    return int(saved["epochs_done"])
