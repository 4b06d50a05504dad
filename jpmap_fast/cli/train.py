"""``jpmap-fast train``: a prior from a set of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jpmap_fast.cli import _train_flags as flags
from jpmap_fast.cli._common import BAD_USAGE, fail, told_in_one_line
from jpmap_fast.cli._train_patches import train_on_patches
from jpmap_fast.cli._train_photos import PHOTOS, PhotoPaths, PhotoRun, train_on_photographs
from jpmap_fast.cli._train_stages import FirstStage, SecondStage, check_used
from jpmap_fast.jobs.device import pick_device

if TYPE_CHECKING:
    from torch import Tensor

    from jpmap_fast.priors.weights import Network

# Images that the models of x - G(z) are fitted to, at most.
FITTED = 20_000


def train(
    context: typer.Context,
    data: flags.Data,
    output: flags.Output,
    key: flags.Key = None,
    epochs: flags.Epochs = 200,
    latent_dim: flags.LatentDim = 8,
    hidden: flags.Hidden = None,
    sigma_dvae: flags.SigmaDvae = 15.0,
    batch_size: flags.BatchSize = None,
    learning_rate: flags.LearningRate = None,
    schedule: flags.Schedule = "constant",
    weight_decay: flags.WeightDecay = 0.0,
    network: flags.Network = "mlp",
    steps: flags.Steps = None,
    crop: flags.Crop = None,
    minutes: flags.Minutes = None,
    initial: flags.Initial = None,
    channels: flags.Channels = "32,64,128,256",
    gamma: flags.Gamma = "learned",
    augment: flags.Augment = False,
    held_out: flags.HeldOut = 0.0,
    patience: flags.Patience = 0,
    precision: flags.Precision = "float32",
    residuals: flags.Residuals = 128,
    half: flags.Half = False,
    seed: flags.Seed = 0,
    device: flags.Device = "auto",
    checkpoint: flags.Checkpoint = None,
    resume: flags.Resume = False,
    validation: flags.Validation = None,
    validation_key: flags.ValidationKey = None,
    card: flags.Card = None,
    terms: flags.Terms = "",
    progress: flags.Progress = True,
    components: flags.Components = 200,
    patch_size: flags.PatchSize = 8,
    patches: flags.Patches = 1_000_000,
    second_stage: flags.SecondStage = None,
) -> None:
    """Train a prior: a variational autoencoder with the denoising criterion and learned gamma."""
    with told_in_one_line():
        _check(output, checkpoint, resume)
        where = pick_device(device, kernels=False)
        paths = PhotoPaths(data, output, validation, initial, checkpoint, card)
        common = {"batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
        keys = (key, validation_key)
        if second_stage is not None:
            check_used(context)
            own = {"hidden": hidden and _widths("--hidden", hidden), "steps": steps, **common}
            second = SecondStage(second_stage, own, where, progress)
            return _train_on_images(paths, keys, second, residuals, half, terms)
        if network == "patches":
            sizes = {"patch_size": patch_size, "components": components, "patches": patches}
            return train_on_patches(paths, sizes | {"seed": seed}, minutes, terms, where)
        if network in PHOTOS:
            given: dict[str, Any] = {"steps": steps, "crop": crop, **common}
            run = PhotoRun(network, paths, given, resume, minutes, terms, progress)
            return train_on_photographs(run, where)
        recipe: dict[str, Any] = {
            "epochs": epochs,
            "latent_dim": latent_dim,
            "hidden": _widths("--hidden", hidden or "512,512"),
            "sigma_dvae": sigma_dvae / 255,
            "batch_size": 128 if batch_size is None else batch_size,
            "learning_rate": 1e-4 if learning_rate is None else learning_rate,
            "schedule": schedule,
            "weight_decay": weight_decay,
            "seed": seed,
            "network": network,
            "channels": _widths("--channels", channels),
            "gamma": gamma,
            "augment": augment,
            "held_out": held_out,
            "patience": patience,
            "precision": precision,
        }
        options = {"device": where, "resume": resume, "progress": progress}
        stage = FirstStage(recipe, options | {"checkpoint": checkpoint})
        _train_on_images(paths, keys, stage, residuals, half, terms)


def _train_on_images(
    paths: PhotoPaths,
    keys: tuple[str | None, str | None],
    stage: FirstStage | SecondStage,
    residuals: int,
    half: bool,
    terms: str,
) -> None:
    """Train on images of one size, and write weights with their card."""
    from jpmap_fast.priors.weights import save_prior

    images, judged = _read(paths.data, keys[0], paths.validation, keys[1])
    prior = stage.train(images, judged)
    _fit_residuals(prior, images, residuals)
    figures = _figures(prior, images, judged)
    save_prior(prior, paths.output, stage.recipe | {"images": len(images)}, half=half)
    _tell(figures, paths.output)
    data = f"{len(images)} images of `{paths.data.name}`"
    _write_card(paths.card, paths.output, data, stage, figures, terms)


def _fit_residuals(prior: Network, images: Tensor, rank: int) -> None:
    """Put models of x - G(z) into a prior, where there are images enough to fit any."""
    from jpmap_fast import fit_residuals

    most = min(rank, len(images) // 4)
    if most > 0:
        some = images[:FITTED].to(prior.log_gamma.device)
        prior.residuals = fit_residuals(prior, some, rank=most)


def _check(output: Path, checkpoint: Path | None, resume: bool) -> None:
    if resume and checkpoint is None:
        fail("--resume: name the file with --checkpoint")
    if not output.parent.is_dir():
        raise ValueError(f"--output: expected an existing folder, got {output.parent}")


def _tell(figures: dict[str, Any], output: Path) -> None:
    for name, value in figures.items():
        typer.echo(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    typer.echo(f"written: {output}")


def _read(
    data: Path, key: str | None, validation: Path | None, validation_key: str | None
) -> tuple[Tensor, Tensor | None]:
    """Images to train on, and those to judge by if there are any of their own."""
    from jpmap_fast.data.readers import load_images

    found = load_images(data, key=key, as_bytes=True)
    for name, reason in found.failures:
        typer.echo(f"left out {name}: {reason}", err=True)
    if validation is None:
        return found.images, None
    shape = tuple(found.images.shape[1:])
    judged = load_images(validation, key=validation_key, image_shape=shape, as_bytes=True)
    return found.images, judged.images


def _figures(prior: Network, images: Tensor, judged: Tensor | None) -> dict[str, Any]:
    """What the card and the terminal say of a trained prior."""
    from jpmap_fast.training import reconstruction_psnr

    shown, kind = (images, "training") if judged is None else (judged, "validation")
    device = prior.log_gamma.device
    return {
        "gamma": prior.gamma,
        "reconstruction PSNR, dB": reconstruction_psnr(prior, shown.to(device)),
        "judged on": f"{len(shown)} {kind} images",
    }


def _widths(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        fail(f"{option}: expected widths such as 512,512, got {text!r}", BAD_USAGE)


def _write_card(
    path: Path | None,
    output: Path,
    data: str,
    stage: FirstStage | SecondStage,
    figures: dict[str, Any],
    terms: str,
) -> None:
    """Write the model card, in Markdown."""
    lines = [
        f"# Prior `{output.stem}`",
        "",
        "A variational autoencoder for `jpmap_fast.load_prior`.",
        "",
        "## Data",
        "",
        f"{data}. {terms}".rstrip(),
        "",
        "## Recipe",
        "",
        stage.told,
        "",
        *(f"- {key}: {value}" for key, value in stage.shown.items()),
        "",
        "## Figures",
        "",
        *(
            f"- {key}: {value:.4f}" if isinstance(value, float) else f"- {key}: {value}"
            for key, value in figures.items()
        ),
        "",
        "Reconstruction PSNR is the mean over images of the PSNR of G(mu_phi(x)) against x.",
        "",
    ]
    (path or output.with_suffix(".md")).write_text("\n".join(lines))
