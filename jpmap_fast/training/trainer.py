"""Training of priors with the denoising criterion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from jpmap_fast._checkpoint import read_checkpoint, write_checkpoint
from jpmap_fast._surroundings import DrawingFrom
from jpmap_fast._validate import SCALE_HINT
from jpmap_fast.priors.weights import Network, check_values
from jpmap_fast.training.augmentation import augment
from jpmap_fast.training.evaluation import reconstruction_psnr
from jpmap_fast.training.recipe import Recipe
from jpmap_fast.training.step import TrainingStep


def train(
    images: Tensor,
    *,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    validation: Tensor | None = None,
    progress: bool = True,
    cuda_graph: bool = True,
    **settings: Any,
) -> Network:
    """Train a variational autoencoder with the denoising criterion.

    The encoder's input is x + sigma_dvae noise, the decoder's target is the clean x; the loss is
    ``loss.negative_elbo``, minimised by Adam (AdamW with a weight decay). Epoch e draws its
    shuffling and noise from a generator seeded by (seed, e) alone, so a run resumed from a
    checkpoint ends with the same bits as one that was never interrupted.

    Args:
        images: [N, C, H, W], uint8 (0 to 255) or floating point in [0, 1].
        device: where to train; the CPU by default.
        checkpoint: file to write after every epoch.
        resume: continue from ``checkpoint`` if it exists; its recipe must be this one (with a
            constant learning rate, the number of epochs may differ).
        validation: images whose reconstruction PSNR is shown after every epoch; they have no
            influence.
        progress: show a bar with the losses.
        cuda_graph: on a GPU, capture the training step in a CUDA graph.
        settings: those of ``Recipe``: latent_dim, hidden, network, epochs, ...

    Returns:
        The trained prior, on ``device``, in evaluation mode, gradients off.

    Raises:
        ValueError, TypeError: settings or images do not fit; a checkpoint of another recipe; the
            training diverges.

    Source: arXiv 2103.01648 and D. Im et al., AAAI 2017.
    """
    recipe = Recipe(**settings)
    place = torch.device("cpu" if device is None else device)
    images = check_images("images", images).to(place)
    if validation is not None:
        validation = check_images("validation", validation, images.shape[1:]).to(place)
    with DrawingFrom(torch.Generator().manual_seed(recipe.seed)):
        prior = recipe.build(tuple(images.shape[1:]))
    prior = prior.to(place)
    prior.log_gamma.requires_grad_(recipe.gamma == "learned")
    images, held_out = _split(images, recipe)
    run = _Run(TrainingStep(prior, recipe, cuda_graph), recipe)
    path = None if checkpoint is None else Path(checkpoint)
    if resume and path is not None and path.exists():
        run.resume(path)

    with tqdm(
        total=recipe.epochs, initial=run.epoch, unit="epoch", desc="train", disable=not progress
    ) as bar:
        while run.epoch < recipe.epochs and not run.exhausted:
            losses = run.one_epoch(images, held_out)
            if path is not None:
                write_checkpoint(path, run.content())
            if progress:
                bar.set_postfix(_shown(run, losses, held_out, validation))
            bar.update()
    if run.best is not None:
        prior.load_state_dict(run.best)
    return prior.requires_grad_(False).eval()


def _shown(
    run: _Run, losses: list[float], held_out: Tensor | None, validation: Tensor | None
) -> dict[str, str]:
    """What the bar says after an epoch."""
    prior = run.step.prior
    shown = {"nll": f"{losses[0]:.1f}", "kl": f"{losses[1]:.2f}"}
    shown["gamma"] = f"{math.exp(float(prior.log_gamma.detach())):.4f}"
    if held_out is not None:
        shown["held out"] = f"{run.last:.1f}"
    if validation is not None:
        shown["psnr"] = f"{reconstruction_psnr(prior, validation):.2f}"
    return shown


class _Run:
    """A training run between two epochs."""

    def __init__(self, step: TrainingStep, recipe: Recipe) -> None:
        self.step = step
        self.recipe = recipe
        self.epoch = 0
        self.last = math.inf  # loss on the images held out, after the last epoch
        self.best: dict[str, Tensor] | None = None
        self.best_epoch = 0
        self.best_loss = math.inf

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        patience = self.recipe.patience
        return patience > 0 and self.epoch - self.best_epoch >= patience

    def one_epoch(self, images: Tensor, held_out: Tensor | None) -> list[float]:
        """One pass over the images; the mean nll, kl and mse.

        Raises:
            ValueError: the weights went to infinity or NaN.
        """
        self.step.set_learning_rate(self.recipe.learning_rate_of(self.epoch))
        prior = self.step.prior.train()
        losses = self._pass(images, self.epoch, self.step, self.recipe.augment)
        prior.eval()
        if not all(map(math.isfinite, losses)):
            raise ValueError(
                f"training diverged in epoch {self.epoch + 1}; use a smaller learning_rate than "
                f"{self.recipe.learning_rate:g} (a checkpoint holds the epoch before)"
            )
        self.epoch += 1
        judged = losses
        if held_out is not None:
            with torch.no_grad():
                # The same noise after every epoch, so that epochs are compared on equal terms.
                judged = self._pass(held_out, -1, self.step.losses, False)
            self.last = judged[0] + judged[1]
        if self.recipe.gamma == "closed-form":
            with torch.no_grad():
                prior.log_gamma.fill_(0.5 * math.log(judged[2]))
            prior.eval()
        if held_out is not None and self.last < self.best_loss:
            self.best_loss, self.best_epoch = self.last, self.epoch
            self.best = {name: value.clone() for name, value in prior.state_dict().items()}
        return losses

    def _pass(
        self, images: Tensor, epoch: int, evaluate: Callable[..., Tensor], augmented: bool
    ) -> list[float]:
        """Mean losses over the images, shuffled and disturbed as epoch ``epoch`` says."""
        recipe = self.recipe
        generator = torch.Generator(device=images.device)
        generator.manual_seed(recipe.seed * 1_000_003 + epoch % 1_000_003)
        order = torch.randperm(len(images), generator=generator, device=images.device)
        total = torch.zeros(3, device=images.device)
        batches = list(order.split(recipe.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            # One image has no variance of its own for a batch normalisation.
            batches[-2:] = [torch.cat(batches[-2:])]
        for rows in batches:
            clean = as_float(images[rows])
            if augmented:
                clean = augment(clean, generator).contiguous()
            corruption = torch.randn(clean.shape, generator=generator, device=clean.device)
            noise = torch.randn(
                len(rows), recipe.latent_dim, generator=generator, device=clean.device
            )
            total += evaluate(clean, corruption, noise) * len(rows)
        return (total / len(images)).tolist()

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "network": type(self.step.prior).__name__,
            "architecture": self.step.prior.settings,
            "recipe": asdict(self.recipe),
            "epochs_done": self.epoch,
            "model": self.step.prior.state_dict(),
            "optimiser": self.step.optimiser.state_dict(),
            "best": (self.best, self.best_epoch, self.best_loss),
        }

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is one of another recipe, or no checkpoint.
        """
        saved = read_checkpoint(path)
        try:
            self._take(saved, path)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            if str(path) in str(error):
                raise
            raise ValueError(
                f"{path}: expected the checkpoint of a training run, it is damaged ({error})"
            ) from error

    def _take(self, saved: dict[str, Any], path: Path) -> None:
        mine, theirs = asdict(self.recipe), asdict(Recipe(**saved["recipe"]))
        if self.recipe.schedule == "constant":
            mine["epochs"] = theirs["epochs"] = None
        if mine != theirs:
            different = sorted(key for key in mine if mine[key] != theirs.get(key))
            raise ValueError(
                f"{path}: expected a checkpoint of this recipe, it differs in "
                f"{', '.join(different)}; use the same settings, or another checkpoint file"
            )
        check_values(saved["model"], str(path))
        self.step.prior.load_state_dict(saved["model"])
        self.step.optimiser.load_state_dict(saved["optimiser"])
        self.epoch = int(saved["epochs_done"])
        self.best, self.best_epoch, self.best_loss = saved["best"]


def _split(images: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor | None]:
    """Images to train on and images held out."""
    if recipe.held_out == 0:
        return images, None
    number = round(recipe.held_out * len(images))
    if not 0 < number < len(images):
        raise ValueError(
            f"held_out: expected images on both sides, got {number} of {len(images)} held out"
        )
    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    return images[order[number:]], images[order[:number]]


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
