"""Reading model folders of the original research code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from jpmap_fast._files import read_torch
from jpmap_fast.priors.weights import Network, build


def read_original(folder: str | Path) -> Network:
    """The VAE of a folder with ``model`` and ``training_args.json``, fully connected or not.

    The pickled state dict is read with ``weights_only=True``: tensors and plain containers, no
    code.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: not such a model, damaged, or a pickle that wants to run code.
    """
    folder = Path(folder)
    model, arguments = folder / "model", folder / "training_args.json"
    for path in (model, arguments):
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: expected a folder of the original code with {path.name!r} in it, or "
                "one with a safetensors file"
            )
    try:
        settings = json.loads(arguments.read_text())
    except ValueError as error:
        raise ValueError(f"{arguments}: expected JSON, it is damaged ({error})") from error
    readers = {"VAEfc": _fully_connected, "ConvVAE": _convolutional}
    structure = settings.get("network_structure") if isinstance(settings, dict) else None
    if not isinstance(structure, str) or structure not in readers:
        raise ValueError(
            f"{arguments}: expected network_structure 'VAEfc' or 'ConvVAE', got {structure!r}"
        )
    tensors = read_pickled_tensors(model)
    gamma = tensors.pop("gamma_x", None)
    if gamma is None or gamma.numel() != 1 or not float(gamma.abs()) > 0:
        raise ValueError(f"{model}: expected one positive number gamma_x, got {gamma}")
    try:
        network, shape, named = readers[structure](settings, tensors)
    except KeyError as error:
        raise ValueError(f"{folder}: its {structure} lacks {error}") from error
    named["log_gamma"] = gamma.abs().log().reshape(())
    return build(network, shape, named, str(model))


Described = tuple[str, dict[str, Any], dict[str, Tensor]]


def _fully_connected(settings: dict[str, Any], state: dict[str, Tensor]) -> Described:
    layers = sum(name.startswith("encoder_layers.") for name in state) // 2
    tensors = {}
    for name, value in state.items():
        for position, new in ((layers - 2, "encoder_mean"), (layers - 1, "encoder_log_std")):
            name = name.replace(f"encoder_layers.{position}.", f"{new}.")
        tensors[name] = value
    shape = {
        "image_shape": settings["x_shape"],
        "latent_dim": settings["latent_dim"],
        "hidden": settings["enc_hidden_dims"],
    }
    return "MLPVAE", shape, tensors


# What the original code calls the layers of its convolutional network, in our order: position in
# the encoder's or decoder's sequence by name.
_CONVOLUTIONAL = {
    **{f"conv_enc{i + 1}": f"encoder_network.{3 * i}" for i in range(4)},
    **{f"batchnorm_enc{i + 1}": f"encoder_network.{3 * i + 1}" for i in range(4)},
    "fc_enc": "encoder_network.13",
    "fc_mu_z": "encoder_mean",
    "fc_logsd_z": "encoder_log_std",
    "fc_dec1": "decoder_network.0",
    "fc_dec2": "decoder_network.2",
    **{f"convtrans_dec{i + 1}": f"decoder_network.{5 + 3 * i}" for i in range(4)},
    **{f"batchnorm_dec{i + 1}": f"decoder_network.{6 + 3 * i}" for i in range(4)},
}


def _convolutional(settings: dict[str, Any], state: dict[str, Tensor]) -> Described:
    for layer in _CONVOLUTIONAL:
        of_norm = ("running_mean", "running_var") if layer.startswith("batchnorm") else ()
        for kind in ("weight", "bias", *of_norm):
            state[f"{layer}.{kind}"]  # named as the folder names it if it is missing
    tensors = {}
    for name, value in state.items():
        layer, _, kind = name.partition(".")
        tensors[f"{_CONVOLUTIONAL.get(layer, layer)}.{kind}"] = value
    shape = {
        "image_shape": settings["x_shape"],
        "latent_dim": settings["latent_dim"],
        "channels": settings["n_channels"],
        "blocks": "plain",
        "hidden": state["fc_dec1.weight"].shape[0],
    }
    return "ConvVAE", shape, tensors


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled state dict; a pickle with code in it is refused unread.

    Raises:
        ValueError: no state dict of tensors.
    """
    state = read_torch(path, "a torch file of tensors alone")
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: expected a state dict of tensors")
    return state
