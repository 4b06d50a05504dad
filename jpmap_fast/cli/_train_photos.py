"""``jpmap-fast train --network photos``: a prior for pictures of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer

if TYPE_CHECKING:
    from jpmap_fast.data.any_size import Pictures
    from jpmap_fast.priors.hierarchical_prior import HierarchicalPhotoPrior
    from jpmap_fast.priors.patch_prior import PatchPrior
    from jpmap_fast.priors.photo_prior import PhotoPrior
    from jpmap_fast.training.photo_recipe import CropRecipe

# Networks for photographs, and the channels of their pictures.
PHOTOS = {"photos": 3, "photos-grey": 1, "hierarchical-photos": 1}
LEVELS = (15, 25, 50)  # of noise that the card has figures for, in 255ths


@dataclass(frozen=True)
class PhotoPaths:
    """Where things are read and written.

    Attributes:
        data: folder of pictures.
        output: weights file.
        validation: folder of pictures to judge by; None for the training pictures.
        initial: weights file to begin with.
        checkpoint: folder for what another run goes on from.
        card: model card; None for beside the weights.
    """

    data: Path
    output: Path
    validation: Path | None
    initial: Path | None
    checkpoint: Path | None
    card: Path | None


@dataclass(frozen=True)
class PhotoRun:
    """What is asked for.

    Attributes:
        network: of ``PHOTOS``.
        paths: of files.
        given: settings of the network's recipe, None where nothing was said.
        resume: whether to go on.
        minutes: to stop after.
        terms: source and terms of the data.
        progress: show a bar.
    """

    network: str
    paths: PhotoPaths
    given: dict[str, Any]
    resume: bool
    minutes: float | None
    terms: str
    progress: bool


def train_on_photographs(run: PhotoRun, device: torch.device) -> None:
    """Train, and write weights with their card."""
    from jpmap_fast.priors.load import load_prior

    paths = run.paths
    channels = PHOTOS[run.network]
    found, judged = read_pictures_of(paths, channels)
    recipe = {name: value for name, value in run.given.items() if value is not None}
    kind = _kind_of(run.network)
    prior, done = kind.train(
        found.pictures,
        device=device,
        checkpoint=paths.checkpoint,
        resume=run.resume,
        seconds=seconds_of(run.minutes),
        progress=run.progress,
        initial=None if paths.initial is None else load_prior(paths.initial),
        **recipe,
    )
    settings = {**asdict(kind.recipe(**recipe)), "steps_done": done}
    written = Written(
        f"{kind.name} for pictures of any size",
        f"{kind.minimised}minimised by Adam; `jpmap-fast train --network {run.network}` with:",
        settings,
        kind.gamma_of_figures,
    )
    write_any_size(prior, paths, found, judged, written, run.terms)
    typer.echo(f"{done} of {settings['steps']} steps; written: {paths.output}")


@dataclass(frozen=True)
class _Kind:
    """A kind of network: what trains it, and what its card says.

    Attributes:
        recipe: class of its settings.
        train: pictures and settings to a prior and the steps done.
        gamma_of_figures: whether gamma is the error of the figure at 25/255.
        name, minimised: for the card.
    """

    recipe: type[CropRecipe]
    train: Callable[..., tuple[Any, int]]
    gamma_of_figures: bool
    name: str
    minimised: str


def _kind_of(network: str) -> _Kind:
    from jpmap_fast import training

    if network == "hierarchical-photos":
        return _Kind(
            training.HierarchicalRecipe,
            training.train_hierarchical_photos,
            False,
            "A hierarchical variational autoencoder",
            "Negative evidence lower bound of the clean crop, the encoder given the noisy one and "
            "its noise level, ",
        )
    return _Kind(
        training.PhotoRecipe,
        training.train_photos,
        True,
        "A noise-conditional autoencoder",
        "Squared error of the clean crop given the noisy one and its noise level, over that "
        "level, ",
    )


def seconds_of(minutes: float | None) -> float:
    """The time to stop after.

    Raises:
        ValueError: not positive.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes: expected a number > 0, got {minutes}")
    return math.inf if minutes is None else 60 * minutes


def read_pictures_of(paths: PhotoPaths, channels: int) -> tuple[Pictures, Pictures]:
    """Pictures to train on, and those to judge by; what is left out is told."""
    from jpmap_fast.data.any_size import load_pictures

    found = load_pictures(paths.data, channels)
    judged = found if paths.validation is None else load_pictures(paths.validation, channels)
    for name, reason in (*found.failures, *(judged.failures if paths.validation else ())):
        typer.echo(f"left out {name}: {reason}", err=True)
    return found, judged


@dataclass(frozen=True)
class Written:
    """What a card says.

    Attributes:
        what: the prior is.
        recipe: how it was made.
        settings: with which.
        gamma_of_figures: whether gamma is the error of the figure at 25/255.
    """

    what: str
    recipe: str
    settings: dict[str, Any]
    gamma_of_figures: bool = True


def write_any_size(
    prior: PhotoPrior | HierarchicalPhotoPrior | PatchPrior,
    paths: PhotoPaths,
    found: Pictures,
    judged: Pictures,
    written: Written,
    terms: str,
) -> None:
    """Judge a prior, give it a gamma where it has none, and write its weights and card."""
    from jpmap_fast.priors.weights import save_prior
    from jpmap_fast.training import denoising_psnr

    figures = {s: denoising_psnr(prior, judged.pictures, s / 255) for s in LEVELS}
    if written.gamma_of_figures:
        with torch.no_grad():
            prior.log_gamma.fill_(-figures[25] / 20 * math.log(10))
    pictures = len(found.pictures)
    save_prior(prior, paths.output, {**written.settings, "pictures": pictures}, half=True)
    kind = "training" if paths.validation is None else "validation"
    lines = [
        f"# Prior `{paths.output.stem}`",
        "",
        f"{written.what}, for `jpmap_fast.load_prior`.",
        "",
        "## Data",
        "",
        f"{pictures} pictures of `{paths.data.name}`. {terms}".rstrip(),
        "",
        "## Recipe",
        "",
        written.recipe,
        "",
        *(f"- {key}: {value}" for key, value in written.settings.items()),
        "",
        "## Figures",
        "",
        f"Mean PSNR in dB of {len(judged.pictures)} {kind} pictures with Gaussian noise:",
        "",
        *(f"- {s}/255: {psnr:.2f}" for s, psnr in figures.items()),
        "",
    ]
    (paths.card or paths.output.with_suffix(".md")).write_text("\n".join(lines), encoding="utf-8")
    for s, psnr in figures.items():
        typer.echo(f"denoising at {s}/255, PSNR of {len(judged.pictures)} {kind}: {psnr:.2f} dB")
