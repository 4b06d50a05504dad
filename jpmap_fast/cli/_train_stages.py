"""``jpmap-fast train`` on images of one size: an autoencoder of images, or of its codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import typer

if TYPE_CHECKING:
    from jpmap_fast.priors.mlp_vae import MLPVAE
    from jpmap_fast.priors.weights import Network

# What a second stage makes use of; any other option would have no effect.
_USED = {
    *("second_stage", "data", "output", "key", "hidden", "steps", "batch_size", "learning_rate"),
    *("residuals", "half", "seed", "device", "validation", "validation_key", "card", "terms"),
    "progress",
}


@dataclass(frozen=True)
class FirstStage:
    """An autoencoder of images.

    Attributes:
        recipe: of ``training.Recipe``.
        options: of ``training.train`` beside it.
    """

    recipe: dict[str, Any]
    options: dict[str, Any]

    told = (
        "Negative evidence lower bound with the denoising criterion (noisy input to the encoder, "
        "clean target), minimised by AdamW; `jpmap-fast train` with:"
    )

    @property
    def shown(self) -> dict[str, Any]:
        """The recipe as a card has it."""
        return {**self.recipe, "sigma_dvae": f"{self.recipe['sigma_dvae'] * 255:g}/255"}

    def train(self, images: torch.Tensor, judged: torch.Tensor | None) -> Network:
        """The trained prior; ``judged`` are images to show figures of."""
        from jpmap_fast.training import train

        return train(images, **self.recipe, validation=judged, **self.options)


@dataclass(frozen=True)
class SecondStage:
    """An autoencoder of the codes of a prior.

    Attributes:
        first: name or path of that prior.
        settings: of ``training.train_second_stage``; None for its default.
        device: where to train.
        progress: show a bar.
    """

    first: str
    settings: dict[str, Any]
    device: torch.device
    progress: bool

    told = (
        "A second autoencoder of the codes of a first, which stays as it is, by its negative "
        "evidence lower bound; `jpmap-fast train --second-stage` with what differs from the "
        "defaults:"
    )

    @property
    def recipe(self) -> dict[str, Any]:
        """What was asked for."""
        given = {name: value for name, value in self.settings.items() if value is not None}
        return {"second_stage": self.first, **given}

    @property
    def shown(self) -> dict[str, Any]:
        """The recipe as a card has it."""
        return self.recipe

    def train(self, images: torch.Tensor, judged: torch.Tensor | None) -> MLPVAE:
        """The prior of both stages."""
        from jpmap_fast.priors.load import load_prior
        from jpmap_fast.training import train_second_stage

        settings = {k: v for k, v in self.recipe.items() if k != "second_stage"}
        prior = load_prior(self.first)
        options = {"device": self.device, "progress": self.progress}
        return train_second_stage(prior, images, **settings, **options)  # type: ignore[arg-type]


def check_used(context: typer.Context) -> None:
    """Raise ValueError where an option was given that a second stage makes no use of."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in _USED:
            raise ValueError(f"{parameter.opts[0]}: expected none with --second-stage")
