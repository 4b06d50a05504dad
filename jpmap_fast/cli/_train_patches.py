"""``jpmap-fast train --network patches``: a mixture of patches, for grey pictures of any size."""

from __future__ import annotations

from typing import Any

import torch
import typer

from jpmap_fast.cli._train_photos import (
    PhotoPaths,
    Written,
    read_pictures_of,
    seconds_of,
    write_any_size,
)


def train_on_patches(
    paths: PhotoPaths,
    settings: dict[str, Any],
    minutes: float | None,
    terms: str,
    device: torch.device,
) -> None:
    """Fit, and write weights with their card; ``settings`` are those of ``train_patches``."""
    from jpmap_fast.training import train_patches

    if paths.checkpoint is not None or paths.initial is not None:
        raise ValueError("--network patches: expected no --checkpoint and no --from")
    seconds = seconds_of(minutes)
    found, judged = read_pictures_of(paths, 1)
    prior, likelihood = train_patches(found.pictures, **settings, seconds=seconds, device=device)
    written = Written(
        "A mixture of Gaussians of grey patches, for pictures of any size",
        "Expectation maximisation on patches at random places, less their means; "
        "`jpmap-fast train --network patches` with:",
        {**settings, "log likelihood of a patch, nats": round(likelihood, 2)},
    )
    write_any_size(prior, paths, found, judged, written, terms)
    typer.echo(f"written: {paths.output}")
