"""``jpmap-fast train``: a prior from a set of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jpmap_fast.cli._common import BAD_USAGE, fail, pick_device, told_in_one_line

if TYPE_CHECKING:
    pass


def train(
    data: Annotated[
        Path,
        typer.Argument(help="Images: .npz or .npy, an IDX file (gzipped or not), or a folder."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights file to write.")],
    key: Annotated[str | None, typer.Option(help="Array of an .npz file.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 200,
    latent_dim: Annotated[int, typer.Option(help="Size of the latent code.")] = 8,
    hidden: Annotated[str, typer.Option(help="Widths of the encoder's layers.")] = "512,512",
    sigma_dvae: Annotated[
        float, typer.Option(help="Noise on the encoder's input, in 255ths.")
    ] = 15.0,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-4,
    schedule: Annotated[
        str, typer.Option(help="Learning rate over the epochs: constant or cosine.")
    ] = "constant",
    weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay (AdamW).")] = 0.0,
    network: Annotated[
        str, typer.Option(help="mlp, conv-residual or conv-plain (the paper's).")
    ] = "mlp",
    channels: Annotated[
        str, typer.Option(help="Channels of a convolutional network's levels, finest first.")
    ] = "32,64,128,256",
    gamma: Annotated[
        str, typer.Option(help="learned by gradient descent, or closed-form at every step.")
    ] = "learned",
    augment: Annotated[
        bool, typer.Option(help="Mirror, shift and recolour the training images.")
    ] = False,
    held_out: Annotated[
        float, typer.Option(help="Share of the images kept aside to choose the best epoch by.")
    ] = 0.0,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without improvement on them; 0: never.")
    ] = 0,
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16 products on a GPU.")
    ] = "float32",
    half: Annotated[bool, typer.Option(help="Store the weights in half precision.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, shuffling and noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    checkpoint: Annotated[Path | None, typer.Option(help="File written after every epoch.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the checkpoint, if there is one.")
    ] = False,
    validation: Annotated[
        Path | None, typer.Option(help="Images to judge the reconstruction by.")
    ] = None,
    validation_key: Annotated[str | None, typer.Option(help="Array of that .npz file.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Model card to write; beside the weights by default.")
    ] = None,
    terms: Annotated[str, typer.Option(help="Source and terms of the data, for the card.")] = "",
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a prior: a variational autoencoder with the denoising criterion and learned gamma."""
    if resume and checkpoint is None:
        fail("--resume: name the file with --checkpoint")
    with told_in_one_line():
        widths = _widths("--hidden", hidden)
        where = pick_device(device, kernels=False)
        from jpmap_fast.data.readers import load_images
        from jpmap_fast.priors.weights import save_prior
        from jpmap_fast.training import reconstruction_psnr
        from jpmap_fast.training import train as train_prior

        if not output.parent.is_dir():
            raise ValueError(f"--output: expected an existing folder, got {output.parent}")
        images = load_images(data, key=key, as_bytes=True)
        for name, reason in images.failures:
            typer.echo(f"left out {name}: {reason}", err=True)
        judged = None
        if validation is not None:
            shape = images.images.shape[1:]
            judged = load_images(
                validation, key=validation_key, image_shape=tuple(shape), as_bytes=True
            ).images
        recipe: dict[str, Any] = {
            "epochs": epochs,
            "latent_dim": latent_dim,
            "hidden": widths,
            "sigma_dvae": sigma_dvae / 255,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
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
        prior = train_prior(
            images.images,
            **recipe,
            device=where,
            checkpoint=checkpoint,
            resume=resume,
            validation=judged,
            progress=progress,
        )
        shown = images.images if judged is None else judged
        figures = {
            "gamma": prior.gamma,
            "reconstruction PSNR, dB": reconstruction_psnr(prior, shown.to(where)),
            "judged on": f"{len(shown)} {'training' if judged is None else 'validation'} images",
        }
        save_prior(prior, output, {**recipe, "images": len(images.images)}, half=half)
        text = _card(output.stem, data.name, len(images.images), recipe, figures, terms)
        (card or output.with_suffix(".md")).write_text(text)
    for name, value in figures.items():
        typer.echo(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    typer.echo(f"written: {output}")


def _widths(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        fail(f"{option}: expected widths such as 512,512, got {text!r}", BAD_USAGE)


def _card(
    name: str,
    data: str,
    images: int,
    recipe: dict[str, Any],
    figures: dict[str, Any],
    terms: str,
) -> str:
    """The model card, in Markdown."""
    settings = {**recipe, "sigma_dvae": f"{recipe['sigma_dvae'] * 255:g}/255"}
    lines = [
        f"# Prior `{name}`",
        "",
        "A variational autoencoder for `jpmap_fast.load_prior`.",
        "",
        "## Data",
        "",
        f"{images} images of `{data}`. {terms}".rstrip(),
        "",
        "## Recipe",
        "",
        "Negative evidence lower bound with the denoising criterion (noisy input to the encoder, "
        "clean target), minimised by AdamW; `jpmap-fast train` with:",
        "",
        *(f"- {key}: {value}" for key, value in settings.items()),
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
    return "\n".join(lines)
