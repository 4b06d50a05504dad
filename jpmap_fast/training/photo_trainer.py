"""Training of networks for photographs by the denoising criterion, in pieces if need be."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from jpmap_fast._surroundings import DrawingFrom
from jpmap_fast.priors.photo_prior import NetworkPrior, PhotoPrior
from jpmap_fast.priors.weights import Network
from jpmap_fast.training.crops import Crops
from jpmap_fast.training.photo_recipe import CropRecipe, PhotoRecipe
from jpmap_fast.training.photo_step import PhotoStep
from jpmap_fast.training.shards import read_shards, write_shards

_EACH = 100  # steps between looks at the loss and the clock
_CHECKPOINT_SECONDS = 120.0


def train_photos(
    pictures: Sequence[Tensor],
    *,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    seconds: float = math.inf,
    progress: bool = True,
    cuda_graph: bool = True,
    initial: Network | None = None,
    **settings: Any,
) -> tuple[PhotoPrior, int]:
    """Train a prior for photographs: its noise-conditional network, by the denoising criterion.

    Minimises the mean of ||D(x + s n, s) - x||^2 / (s + 2/255) over random crops x, noise n and
    levels s by Adam; what is returned is the running mean of the weights.

    Args:
        pictures: uint8 [C, H, W] each, all grey or all in colour, of any sizes that hold a crop.
        device: where to train; the CPU by default.
        checkpoint: folder to write at the end, its files under 16 MiB each.
        resume: go on from ``checkpoint`` if it exists; its recipe must be this one.
        seconds: stop after that time, with a checkpoint to go on from.
        progress: show a bar.
        cuda_graph: on a GPU, capture the step in a CUDA graph.
        initial: weights to begin with, in place of random ones; of the recipe's network.
        settings: those of ``PhotoRecipe``.

    Returns:
        The prior, on ``device``, in evaluation mode, gradients off, and how many steps of the
        recipe are done. Its gamma is that of a few training pictures.

    Raises:
        ValueError, TypeError: settings or pictures do not fit; a checkpoint of another recipe; the
            training diverges.

    Source: the denoising criterion of D. Im et al., AAAI 2017, without sampling and at every noise
    level, as K. Zhang et al., "Beyond a Gaussian denoiser", IEEE TIP 2017.
    """
    return train_on_crops(
        PhotoRecipe(**settings),
        pictures,
        device=device,
        checkpoint=checkpoint,
        resume=resume,
        seconds=seconds,
        progress=progress,
        cuda_graph=cuda_graph,
        initial=initial,
    )


def train_on_crops(
    recipe: CropRecipe,
    pictures: Sequence[Tensor],
    *,
    device: torch.device | str | None,
    checkpoint: str | Path | None,
    resume: bool,
    seconds: float,
    progress: bool,
    cuda_graph: bool,
    initial: Network | None,
) -> tuple[Any, int]:
    """What ``train_photos`` does, by any recipe: the prior that it builds, and the steps done."""
    place = torch.device("cpu" if device is None else device)
    crops = Crops(_checked(pictures), recipe.crop, recipe.scales, place)
    with DrawingFrom(torch.Generator().manual_seed(recipe.seed)):
        prior = recipe.build(crops.channels)
    if initial is not None:
        _begin_with(prior, initial)
    prior = prior.to(place)
    network = prior.network.to(memory_format=torch.channels_last)
    step = PhotoStep(network, crops, recipe, cuda_graph)
    path, done = None if checkpoint is None else Path(checkpoint), 0
    if resume and path is not None and path.exists():
        done = _resume(path, step, recipe)
    end, written = time.monotonic() + seconds, time.monotonic()
    with tqdm(total=recipe.steps, initial=done, desc="train", disable=not progress) as bar:
        while done < recipe.steps and time.monotonic() < end:
            loss, several = torch.zeros((), device=place), min(_EACH, recipe.steps - done)
            for number in range(done, done + several):
                loss += step(recipe.learning_rate_at(number), recipe.weight_at(number))
            done += several
            mean = float(loss) / several
            if not math.isfinite(mean):
                raise ValueError(
                    f"training diverged before step {done}; use a smaller learning_rate than "
                    f"{recipe.learning_rate:g}"
                )
            bar.set_postfix({"loss": f"{mean:.5f}"})
            bar.update(several)
            if path is not None and time.monotonic() > written + _CHECKPOINT_SECONDS:
                _write(path, step, recipe, done)
                written = time.monotonic()
    if path is not None:
        _write(path, step, recipe, done)
    with torch.no_grad():
        for own, mean_value in zip(step.parameters, step.mean, strict=True):
            own.copy_(mean_value)
        prior.requires_grad_(False).eval()
        few = pictures[:: max(1, len(pictures) // 8)][:8]
        prior.log_gamma.fill_(recipe.log_gamma_of(prior, few))
    return prior, done


def _begin_with(prior: NetworkPrior, initial: Network) -> None:
    if prior.settings != initial.settings:
        raise ValueError(
            f"initial: expected weights of a network with {prior.settings}, got {initial.settings}"
        )
    prior.load_state_dict(initial.state_dict())


def _checked(pictures: Sequence[Tensor]) -> Sequence[Tensor]:
    if len(pictures) == 0:
        raise ValueError("pictures: expected at least one, got none")
    for picture in pictures:
        if picture.dtype != torch.uint8:
            raise TypeError(f"pictures: expected uint8, got {picture.dtype}")
        if picture.dim() != 3 or picture.shape[0] != pictures[0].shape[0]:
            raise ValueError(
                f"pictures: expected shapes [{pictures[0].shape[0]}, H, W], got "
                f"{list(picture.shape)}"
            )
    return pictures


def _write(path: Path, step: PhotoStep, recipe: CropRecipe, done: int) -> None:
    tensors = {"generator": step.generator.get_state(), "typical": step.typical}
    for index, (own, mean) in enumerate(zip(step.parameters, step.mean, strict=True)):
        state = step.optimiser.state.get(own, {})
        tensors[f"weight.{index}"], tensors[f"mean.{index}"] = own, mean
        for name, value in state.items():
            tensors[f"{name}.{index}"] = value
    header = {"recipe": asdict(recipe), "channels": step.network.channels, "steps_done": done}
    write_shards(path, tensors, header, recipe.checkpoint_form)


def _resume(path: Path, step: PhotoStep, recipe: CropRecipe) -> int:
    header, tensors = read_shards(
        path, recipe.checkpoint_form, "a checkpoint of such a network for photographs"
    )
    mine, theirs = asdict(recipe), asdict(type(recipe)(**header["recipe"]))
    if mine != theirs or header["channels"] != step.network.channels:
        different = sorted(key for key in mine if mine[key] != theirs[key]) or ["channels"]
        raise ValueError(
            f"{path}: expected a checkpoint of this recipe, it differs in {', '.join(different)}; "
            "use the same settings, or another checkpoint folder"
        )
    with torch.no_grad():
        for index, (own, mean) in enumerate(zip(step.parameters, step.mean, strict=True)):
            own.copy_(tensors[f"weight.{index}"])
            mean.copy_(tensors[f"mean.{index}"])
            if f"exp_avg.{index}" not in tensors:
                continue
            count = tensors[f"step.{index}"]
            state = {"step": count.to(own.device)}
            for name in ("exp_avg", "exp_avg_sq"):
                # In the layout of the weights: the fused step takes both as they lie in memory.
                state[name] = torch.empty_like(own).copy_(tensors[f"{name}.{index}"])
            step.optimiser.state[own] = state
        step.typical.copy_(tensors["typical"])
    step.generator.set_state(tensors["generator"])
    return int(header["steps_done"])
