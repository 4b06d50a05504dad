"""Weights on disk: safetensors with the architecture in the header, nothing executable."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from jpmap_fast._surroundings import Undrawn
from jpmap_fast._weights_file import read_weights
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.hierarchical_prior import HierarchicalPhotoPrior
from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.networks import Networks, renamed
from jpmap_fast.priors.patch_mixture import PatchMixture
from jpmap_fast.priors.patch_prior import PatchPrior
from jpmap_fast.priors.photo_prior import PhotoPrior
from jpmap_fast.priors.restoration import checked_restoration
from jpmap_fast.residuals.files import PREFIX, check_pixels, packed, unpacked

FORMAT = "jpmap-fast prior 1"
MOST_LOG_GAMMA = 20


Network = MLPVAE | ConvVAE | PhotoPrior | HierarchicalPhotoPrior | PatchPrior
NETWORKS: dict[str, type[Network]] = {
    "MLPVAE": MLPVAE,
    "ConvVAE": ConvVAE,
    "PhotoPrior": PhotoPrior,
    "HierarchicalPhotoPrior": HierarchicalPhotoPrior,
    "PatchPrior": PatchPrior,
}
# What a ``PatchPrior`` of a file may be made of.
PATCHES: dict[str, type[PatchMixture | MLPVAE | ConvVAE]] = {
    "PatchMixture": PatchMixture,
    "MLPVAE": MLPVAE,
    "ConvVAE": ConvVAE,
}


def save_prior(
    prior: Network,
    path: str | Path,
    recipe: dict[str, Any] | None = None,
    *,
    half: bool = False,
    restoration: dict[str, int] | None = None,
) -> None:
    """Write a prior to a safetensors file.

    Args:
        prior: what to write.
        path: where to.
        recipe: how it was trained, kept in the header.
        half: store weights in float16, half the size; gamma keeps its precision. They are read
            back as float32.
        restoration: ``starts`` and ``n2`` that ``JPMAP`` and ``MAPz`` take for this prior where the
            caller says nothing.

    Raises:
        ValueError: half precision cannot hold a weight.
    """
    from safetensors.torch import save_file

    header = {
        "format": FORMAT,
        "class": type(prior).__name__,
        "architecture": json.dumps(prior.settings),
        "recipe": json.dumps(recipe or {}),
        "restoration": json.dumps(
            prior.restoration if restoration is None else checked_restoration(restoration)
        ),
    }
    check_pixels(prior.residuals, math.prod(prior.image_shape or ()))
    carried, laws = packed(prior.residuals)
    if laws:
        header["residuals"] = json.dumps(laws)
    tensors = {}
    for name, value in {**prior.state_dict(), **carried}.items():
        value = value.detach().cpu().contiguous()
        if half and value.is_floating_point() and value.dim() > 0:
            if bool((value.abs() > torch.finfo(torch.float16).max).any()):
                raise ValueError(
                    f"half: expected {name} within the range of float16, +-65504, got "
                    f"{float(value.abs().max()):g}; store the prior without half=True"
                )
            value = value.half()
        tensors[name] = value
    save_file(tensors, str(path), metadata=header)


def read_prior(path: str | Path) -> Network:
    """The prior of a safetensors file written by ``save_prior``, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, truncated, or not such a file.
    """
    path = Path(path)
    header, tensors = read_weights(path, FORMAT, "weights")
    if header.get("class") not in NETWORKS:
        raise ValueError(
            f"{path}: expected a network of {', '.join(NETWORKS)} in its header, got the foreign "
            f"{header.get('class')!r}"
        )
    try:
        settings = dict(json.loads(header["architecture"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected its architecture in the header ({error})") from error
    models = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PREFIX)}
    prior = build(header["class"], settings, tensors, str(path))
    try:
        prior.residuals = unpacked(models, json.loads(header.get("residuals", "{}")))
        check_pixels(prior.residuals, math.prod(prior.image_shape or ()))
        prior.restoration = checked_restoration(json.loads(header.get("restoration", "{}")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged header: {error}") from error
    return prior


def build(
    network: str, settings: dict[str, Any], tensors: dict[str, torch.Tensor], source: str
) -> Network:
    """A prior of a network's name, its settings and tensors; ``source`` names them in errors.

    Raises:
        ValueError: names, shapes or values do not fit the architecture.
    """
    try:
        with torch.device("meta"), Undrawn():  # for weights that are replaced
            if network == "PatchPrior":
                patch = PATCHES[settings["patch"]](**settings["settings"])
                settings = {"patch": patch, "mean_free": settings["mean_free"]}
            prior = NETWORKS[network](**settings)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # of torch: sizes overflow
        raise ValueError(f"{source}: its architecture cannot be built: {error}") from error
    tensors = renamed(tensors) if isinstance(prior, Networks) else tensors
    expected = prior.state_dict()
    missing = sorted(set(expected) - set(tensors))
    surplus = sorted(set(tensors) - set(expected))
    if missing or surplus:
        raise ValueError(
            f"{source}: its tensors do not fit the architecture: missing {missing}, "
            f"unexpected {surplus}"
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{source}: expected {name} of shape {list(expected[name].shape)}, "
                f"got {list(value.shape)}"
            )
    check_values(tensors, source)
    floats = {n: v.float() if v.is_floating_point() else v.clone() for n, v in tensors.items()}
    prior.load_state_dict(floats, assign=True)
    return prior.requires_grad_(False).eval()


def check_values(tensors: dict[str, torch.Tensor], source: str) -> None:
    """Raise ValueError where the weights of a prior are not finite, or its gamma is no number.

    beta = 1 / gamma^2 and its square must be numbers in float32.
    """
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{source}: {name} contains NaN or infinity")
    log_gamma = float(tensors["log_gamma"])
    if not abs(log_gamma) < MOST_LOG_GAMMA:
        raise ValueError(
            f"{source}: expected gamma within exp(+-{MOST_LOG_GAMMA}), got exp({log_gamma:g})"
        )
