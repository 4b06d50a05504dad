"""The flags of ``jpmap-fast train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path, typer.Argument(help="Images: .npz or .npy, an IDX file (gzipped or not), or a folder.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Weights file to write.")]
Key = Annotated[str | None, typer.Option(help="Array of an .npz file.")]
Epochs = Annotated[int, typer.Option(help="Passes over the data.")]
LatentDim = Annotated[int, typer.Option(help="Size of the latent code.")]
Hidden = Annotated[
    str | None,
    typer.Option(help="Widths of the encoder's layers: 512,512, or 96,96 of a second stage."),
]
SecondStage = Annotated[
    str | None,
    typer.Option(
        help="Name or file of a prior: leave it as it is and train a second autoencoder, of its "
        "codes, so that these become N(0, I)."
    ),
]
SigmaDvae = Annotated[float, typer.Option(help="Noise on the encoder's input, in 255ths.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Images a step: 128 by default, 48 crops of photographs, 512 of a second stage."
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        help="Of Adam: 1e-4 by default, for photographs 7e-4, for hierarchical-photos 5e-4, for a "
        "second stage 2e-3."
    ),
]
Schedule = Annotated[str, typer.Option(help="Learning rate over the epochs: constant or cosine.")]
WeightDecay = Annotated[float, typer.Option(help="Decoupled weight decay (AdamW).")]
Network = Annotated[
    str,
    typer.Option(
        help="mlp, conv-residual or conv-plain (the paper's); photos, photos-grey, "
        "hierarchical-photos (experimental) or patches, a mixture of grey patches, for pictures of "
        "any size from a folder."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="For photographs: steps of Adam, in all; 112000 by default, 60000 for "
        "hierarchical-photos. For a second stage: 20000 by default."
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        help="For photographs: side of a crop, in pixels; 96 by default, 64 for "
        "hierarchical-photos."
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        help="For photographs: stop after that time, to go on with --resume. For patches: fit no "
        "longer."
    ),
]
Initial = Annotated[
    Path | None, typer.Option("--from", help="For photographs: weights to begin with.")
]
Channels = Annotated[
    str, typer.Option(help="Channels of a convolutional network's levels, finest first.")
]
Gamma = Annotated[
    str, typer.Option(help="learned by gradient descent, or closed-form at every step.")
]
Augment = Annotated[bool, typer.Option(help="Mirror, shift and recolour the training images.")]
HeldOut = Annotated[
    float, typer.Option(help="Share of the images kept aside to choose the best epoch by.")
]
Patience = Annotated[
    int, typer.Option(help="Stop after so many epochs without improvement on them; 0: never.")
]
Precision = Annotated[str, typer.Option(help="float32, or bfloat16 products on a GPU.")]
Residuals = Annotated[
    int,
    typer.Option(
        help="Rank of the covariance of x - G(z), which is fitted after training together with its "
        "variance by pixel and by grey value; 0: none."
    ),
]
Half = Annotated[bool, typer.Option(help="Store the weights in half precision.")]
Seed = Annotated[int, typer.Option(help="Of weights, shuffling and noise.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Checkpoint = Annotated[Path | None, typer.Option(help="File written after every epoch.")]
Resume = Annotated[bool, typer.Option(help="Go on from the checkpoint, if there is one.")]
Validation = Annotated[Path | None, typer.Option(help="Images to judge the reconstruction by.")]
ValidationKey = Annotated[str | None, typer.Option(help="Array of that .npz file.")]
Card = Annotated[
    Path | None, typer.Option(help="Model card to write; beside the weights by default.")
]
Terms = Annotated[str, typer.Option(help="Source and terms of the data, for the card.")]
Components = Annotated[int, typer.Option(help="Of a mixture of patches.")]
PatchSize = Annotated[int, typer.Option(help="Side of a patch, in pixels.")]
Patches = Annotated[int, typer.Option(help="How many patches to fit a mixture to.")]
Progress = Annotated[bool, typer.Option(help="Show a progress bar.")]
