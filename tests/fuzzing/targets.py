"""The readers and loaders, each with valid files to start from and ways to damage them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import jpmap_fast as jf
from fuzzing import containers, pictures, weights
from jpmap_fast._checkpoint import read_checkpoint
from jpmap_fast.data import load_images, load_kernel, load_mask, read_pictures
from jpmap_fast.operators.named import read_matrix
from jpmap_fast.priors.protocol import has_codes


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: of the damaged file.
        seeds: valid files.
        read: called with its path; what it returns is looked at by ``check``.
        inside: mutations that know the container, besides those that do not.
        beside: other files of the folder it lies in.
        check: raises AssertionError where what was read is not what the reader promises.
        whole: read the folder and not the file.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[Path], Any]
    check: Callable[[Any], None]
    inside: Sequence[Callable[..., bytes]] = ()
    beside: Callable[[], dict[str, bytes]] = field(default=dict)
    whole: bool = False


def are_images(found: Any) -> None:
    """Images of an ``ImageSet``: as many as names, finite, in [0, 1]."""
    images = found.images
    assert images.dtype == torch.float32 and images.dim() == 4
    assert len(images) == len(found.names) >= 1
    assert bool(torch.isfinite(images).all())
    assert 0 <= float(images.min()) and float(images.max()) <= 1


def keeps_the_good_one(found: Any) -> None:
    """The other picture of the folder is there whatever became of the damaged one."""
    are_images(found)
    assert "good.png" in found.names
    failed = [name for name, _ in found.failures]
    assert any(name.startswith("file.") for name in (*found.names, *failed))


def are_pictures(found: Any) -> None:
    """Every page has numbers, one or three channels and a known type."""
    assert found
    for picture in found:
        assert picture.values.dtype == np.float32 and picture.values.ndim == 3
        assert picture.values.shape[0] in (1, 3) and picture.values.size > 0


def is_mask(found: Any) -> None:
    """Booleans, or numbers that ``Inpainting`` takes or refuses."""
    assert found.dtype == torch.bool or found.dtype == torch.float32
    try:
        jf.Inpainting(found)
    except (ValueError, TypeError):
        pass


def is_kernel(found: Any) -> None:
    """Numbers that ``Blur`` takes or refuses."""
    assert found.dtype == torch.float32
    try:
        jf.Blur(found)
    except (ValueError, TypeError):
        pass


def is_prior(found: Any) -> None:
    """A network in evaluation mode that gives images of its shape."""
    assert not found.training and found.gamma > 0
    if not has_codes(found):
        x = torch.zeros(1, found.channels, 5, 6)
        assert found.autoencode(x, torch.ones(1)).shape == x.shape
        return
    decoded = found.decode(torch.zeros(1, found.latent_dim))
    assert tuple(decoded.shape[1:]) == tuple(found.image_shape)


def is_denoiser(found: Any) -> None:
    """A network in evaluation mode."""
    assert not found.training and 0 < found.lipschitz < 1


def is_anything(found: Any) -> None:
    """Something."""
    assert found is not None


def pages(path: Path) -> list[Any]:
    """All pictures of a file."""
    return list(read_pictures(path))


TARGETS: dict[str, Target] = {}
for _suffix, _seeds, _inside in (
    ("png", pictures.png, (containers.in_png,)),
    ("tif", pictures.tif, ()),
    ("gif", pictures.gif, ()),
    ("jpg", pictures.jpg, ()),
    ("ppm", pictures.others, ()),
    ("npy", pictures.npy, ()),
    ("npz", pictures.npz, (containers.in_zip,)),
    ("idx3-ubyte", pictures.idx, ()),
    ("gz", pictures.idx_gz, (containers.in_gzip,)),
):
    TARGETS[f"images-{_suffix}"] = Target(
        f"file.{_suffix}", _seeds, load_images, are_images, _inside
    )
for _suffix, _seeds, _inside in (
    ("png", pictures.png, (containers.in_png,)),
    ("tif", pictures.tif, ()),
):
    TARGETS[f"pictures-{_suffix}"] = Target(f"file.{_suffix}", _seeds, pages, are_pictures, _inside)
TARGETS |= {
    "folder-png": Target(
        "file.png",
        pictures.png,
        partial(load_images, image_shape=(1, 8, 7)),
        keeps_the_good_one,
        (containers.in_png,),
        beside=lambda: {"good.png": pictures.png()[0]},
        whole=True,
    ),
    "mask-png": Target("file.png", pictures.png, load_mask, is_mask, (containers.in_png,)),
    "mask-npy": Target("file.npy", pictures.npy, load_mask, is_mask),
    "kernel-png": Target("file.png", pictures.png, load_kernel, is_kernel, (containers.in_png,)),
    "kernel-npy": Target("file.npy", pictures.kernel_arrays, load_kernel, is_kernel),
    "matrix-npy": Target("file.npy", pictures.matrices, read_matrix, is_anything),
    "prior": Target(
        "file.safetensors", weights.priors, jf.load_prior, is_prior, (containers.in_safetensors,)
    ),
    "prior-checkpoint": Target(
        "file.pt", weights.checkpoints, jf.load_prior, is_prior, (containers.in_zip,)
    ),
    "prior-original-model": Target(
        "model",
        weights.original_models,
        jf.load_prior,
        is_prior,
        # The old form is a bare pickle: no archive.
        (partial(lambda content, rng: containers.in_zip(weights.original_models()[0], rng)),),
        beside=lambda: {"training_args.json": weights.original_arguments()[0]},
        whole=True,
    ),
    "prior-original-json": Target(
        "training_args.json",
        weights.original_arguments,
        jf.load_prior,
        is_prior,
        (containers.in_json,),
        beside=lambda: {"model": weights.original_models()[0]},
        whole=True,
    ),
    "denoiser": Target(
        "file.safetensors",
        weights.denoisers,
        jf.load_denoiser,
        is_denoiser,
        (containers.in_safetensors,),
    ),
    "resume": Target(
        "file.pt", weights.checkpoints, weights.trained, is_prior, (containers.in_zip,)
    ),
    "checkpoint": Target(
        "file.pt", weights.checkpoints, read_checkpoint, is_anything, (containers.in_zip,)
    ),
}
