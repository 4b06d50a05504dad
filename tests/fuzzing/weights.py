"""Small valid files of weights: priors, denoisers, checkpoints, folders of the original code."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

import jpmap_fast as jf
from jpmap_fast.denoisers import LipschitzDenoiser, save_denoiser
from jpmap_fast.priors.photo_prior import PhotoPrior
from jpmap_fast.training import train

SHAPE = (1, 8, 8)


def _written(write: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        return path.read_bytes()


@cache
def _networks() -> list[jf.MLPVAE | jf.ConvVAE | PhotoPrior | jf.PatchPrior]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [
            jf.MLPVAE(SHAPE, 2, (4, 3)),
            jf.ConvVAE(SHAPE, 2, (2, 3)),
            jf.ConvVAE(SHAPE, 2, (1, 1, 1, 1), "plain", 2),
            PhotoPrior(1, (2, 3), (1, 1), (0, 1)),
            jf.PatchPrior(jf.PatchMixture((1, 2, 2), 2), mean_free=True),
            jf.PatchPrior(jf.MLPVAE((1, 2, 2), 2, (3,))),
        ]


def priors() -> list[bytes]:
    """Priors of every network, in full and in half precision."""
    found = []
    for network in _networks():
        for half in (False, True):
            found.append(
                _written(lambda p, n=network, h=half: jf.save_prior(n, p, {"epochs": 1}, half=h))
            )
    return found


def denoisers() -> list[bytes]:
    """A denoiser, in full and in half precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = LipschitzDenoiser(SHAPE, width=2, depth=3)
    return [
        _written(lambda path, half=half: save_denoiser(denoiser, path, half=half))
        for half in (False, True)
    ]


def trained(checkpoint: Path, resume: bool = True) -> jf.MLPVAE | jf.ConvVAE:
    """The prior of a run of one epoch, gone on with from a checkpoint if there is one."""
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    settings = {"hidden": (3,), "latent_dim": 2, "epochs": 1, "progress": False}
    return train(images, checkpoint=checkpoint, resume=resume, **settings)


@cache
def _checkpoint() -> bytes:
    return _written(trained)


def checkpoints() -> list[bytes]:
    """A checkpoint of a short training run."""
    return [_checkpoint()]


def _state() -> dict[str, torch.Tensor]:
    network = _networks()[0]
    names = {"encoder_mean": "encoder_layers.2", "encoder_log_std": "encoder_layers.3"}
    state = {}
    for name, value in network.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[name] = value
    state["gamma_x"] = state.pop("log_gamma").exp().reshape(1)
    return state


@cache
def original_models() -> list[bytes]:
    """The pickled weights of the original code, in both forms that torch has had."""
    found = []
    for zipped in (True, False):
        out = io.BytesIO()
        torch.save(_state(), out, _use_new_zipfile_serialization=zipped)
        found.append(out.getvalue())
    return found


def original_arguments() -> list[bytes]:
    """The settings beside them."""
    settings = {
        "network_structure": "VAEfc",
        "x_shape": list(SHAPE),
        "latent_dim": 2,
        "enc_hidden_dims": [4, 3],
        "n_channels": [1, 1, 1, 1],
    }
    convolutional = {**settings, "network_structure": "ConvVAE"}
    return [json.dumps(s).encode() for s in (settings, convolutional)]
