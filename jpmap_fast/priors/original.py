"""Reading model folders of the original research code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from torch import Tensor

from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.weights import build


def read_original(folder: str | Path) -> MLPVAE:
    """The fully connected VAE of a folder with ``model`` and ``training_args.json``.

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
                f"{folder}: expected a folder of the original code with {path.name!r} in it"
            )
    settings = json.loads(arguments.read_text())
    if settings.get("network_structure") != "VAEfc":
        raise ValueError(
            f"{arguments}: expected network_structure 'VAEfc', "
            f"got {settings.get('network_structure')!r}"
        )
    state = read_pickled_tensors(model)
    layers = sum(name.startswith("encoder_layers.") for name in state) // 2
    tensors = {}
    for name, value in state.items():
        for position, new in ((layers - 2, "encoder_mean"), (layers - 1, "encoder_log_std")):
            name = name.replace(f"encoder_layers.{position}.", f"{new}.")
        tensors[name] = value
    gamma = tensors.pop("gamma_x", None)
    if gamma is None or gamma.numel() != 1 or not float(gamma.abs()) > 0:
        raise ValueError(f"{model}: expected one positive number gamma_x, got {gamma}")
    tensors["log_gamma"] = gamma.abs().log().reshape(())
    shape = {
        "image_shape": settings["x_shape"],
        "latent_dim": settings["latent_dim"],
        "hidden": settings["enc_hidden_dims"],
    }
    return build(shape, tensors, str(model))


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled state dict; a pickle with code in it is refused unread.

    Raises:
        ValueError: no state dict of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: expected a torch file of tensors alone; it is damaged, or holds code, which "
            f"is never run ({reason})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: expected a state dict of tensors")
    return state
