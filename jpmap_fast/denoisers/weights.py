"""Denoisers on disk: safetensors with the architecture in the header, nothing executable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from jpmap_fast._weights_file import read_weights
from jpmap_fast.denoisers.lipschitz import LipschitzDenoiser
from jpmap_fast.denoisers.spectral_norm import convolution_norm

FORMAT = "jpmap-fast denoiser 1"
KERNELS = ("first", "hidden", "last")


def save_denoiser(
    denoiser: LipschitzDenoiser,
    path: str | Path,
    recipe: dict[str, Any] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write a denoiser to a safetensors file.

    The file holds the kernels and the spectral norms of what it holds, found in float64 after
    rounding. ``load_denoiser`` divides by them, so that rounding does not cost the bound.

    Args:
        denoiser: what to write.
        path: where to.
        recipe: how it was trained, kept in the header.
        half: store the kernels in float16, half the size; they are read back as float32.

    Raises:
        ValueError: a kernel is zero or not finite.
    """
    from safetensors.torch import save_file

    height, width = denoiser.image_shape[1:]
    tensors = {
        name: value.detach().cpu().float().contiguous()
        for name, value in denoiser.state_dict().items()
    }
    if half:
        tensors.update({name: tensors[name].half() for name in KERNELS})
    kernels = (tensors["first"], *tensors["hidden"], tensors["last"])
    # On the denoiser's device: the norms are most of the work.
    device = denoiser.first.device
    norms = [convolution_norm(kernel.to(device), height, width) for kernel in kernels]
    if min(norms) == 0:
        raise ValueError(f"convolution {norms.index(0)} is zero and cannot be normalised")
    tensors["norms"] = torch.tensor(norms, dtype=torch.float64)
    header = {
        "format": FORMAT,
        "class": type(denoiser).__name__,
        "architecture": json.dumps(denoiser.settings),
        "recipe": json.dumps(recipe or {}),
    }
    save_file(tensors, str(path), metadata=header)


def read_denoiser(path: str | Path) -> LipschitzDenoiser:
    """The denoiser of a file written by ``save_denoiser``, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, truncated, or not such a file.
    """
    path = Path(path)
    header, tensors = read_weights(path, FORMAT, "a denoiser")
    try:
        settings = dict(json.loads(header["architecture"]))
        if settings["depth"] != len(tensors["hidden"]) + 2:  # before so many layers are made
            raise ValueError(f"depth {settings['depth']}, but other hidden layers")
        with torch.device("meta"):  # nothing is drawn for weights that are replaced
            denoiser = LipschitzDenoiser(**settings)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # of torch: sizes overflow
        raise ValueError(f"{path}: its architecture cannot be built: {error}") from error
    norms = torch.empty(denoiser.depth, dtype=torch.float64)
    expected = {**denoiser.state_dict(), "norms": norms}
    if set(tensors) != set(expected):
        raise ValueError(
            f"{path}: its tensors do not fit the architecture: missing "
            f"{sorted(set(expected) - set(tensors))}, unexpected "
            f"{sorted(set(tensors) - set(expected))}"
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{path}: expected {name} of shape {list(expected[name].shape)}, "
                f"got {list(value.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path}: {name} contains NaN or infinity")
    norms = tensors.pop("norms").double()
    if not bool((norms > 0).all()):
        raise ValueError(f"{path}: expected spectral norms > 0, got {norms.tolist()}")
    scale = denoiser.layer_norm / norms
    tensors["first"] = tensors["first"].double() * scale[0]
    tensors["hidden"] = tensors["hidden"].double() * scale[1:-1].reshape(-1, 1, 1, 1, 1)
    tensors["last"] = tensors["last"].double() * scale[-1]
    denoiser.load_state_dict({n: v.float() for n, v in tensors.items()}, assign=True)
    return denoiser.requires_grad_(False).eval()
