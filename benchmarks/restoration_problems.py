"""The restoration problems that several benchmarks share: images, priors, operators, measurements.

Images come from a folder with ``mnist.npz`` (``x_test`` [N, 28, 28] uint8) and ``faces_test.npz``
(``x`` [N, 3, 64, 64] uint8). Without the former the digits are those of the package; without the
latter, or without a prior for faces, there are no faces.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import jpmap_fast as jf
from jpmap_fast._problems import SIGMA, SIGMA_DENOISING, Degradation, Problem


@dataclass(frozen=True)
class Trial(Problem):
    """Images of a set, their measurements, and the prior of the set on their device."""

    prior: jf.Prior


def degradations(image_shape: Sequence[int]) -> dict[str, Degradation]:
    """Every degradation of images of (C, H, W), by name."""
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(*image_shape[-2:], generator=g) < 0.2).float()
    pixels = math.prod(image_shape)
    made: dict[str, tuple[jf.Operator, float]] = {
        "denoising 110/255": (jf.Denoising(), SIGMA_DENOISING),
        "inpainting 80%": (jf.Inpainting(mask), SIGMA),
        "deblurring": (jf.Blur(jf.gaussian_kernel(2.0)), SIGMA),
        "super-resolution x2": (jf.SuperResolution(2), SIGMA),
        "super-resolution x4": (jf.SuperResolution(4), SIGMA),
        "DCT sensing 10%": (jf.StructuredSensing.dct(round(pixels / 10), image_shape, g), SIGMA),
    }
    if pixels <= 784:
        made["CS, m = 140"] = (jf.CompressedSensing.gaussian(140, image_shape, g), SIGMA)
    return {name: Degradation(name, name, *which) for name, which in made.items()}


def make_problem(images: str, name: str, prior: jf.Prior, clean: Tensor) -> Trial:
    """One problem on the device of ``clean``, drawn on the CPU: the same on every device."""
    degradation = degradations(tuple(prior.image_shape))[name]
    g = torch.Generator().manual_seed(1)
    of = degradation.of(clean.cpu(), g, clean.device)
    return Trial(name, f"{images}: {name}", of.operator, of.sigma, clean=clean, y=of.y, prior=prior)


def load_digits(folder: Path | None) -> Tensor:
    """Test digits [N, 1, 28, 28], values in [0, 1]."""
    path = None if folder is None else folder / "mnist.npz"
    if path is None or not path.is_file():
        return jf.mnist_test_digits()[0]
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["x_test"])[:, None].float() / 255


def load_faces(folder: Path | None) -> Tensor | None:
    """Test faces [N, 3, 64, 64], values in [0, 1]; None where there are none."""
    path = None if folder is None else folder / "faces_test.npz"
    if path is None or not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["x"]).float() / 255


def add_options(
    parser: argparse.ArgumentParser, digits: int | None = None, faces: int | None = None
) -> None:
    """The options that all of these benchmarks have; numbers of images where they are used."""
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--data", type=Path, help="folder with mnist.npz and faces_test.npz")
    parser.add_argument("--faces-prior", help="weights for faces, if none are bundled")
    if digits is not None:
        parser.add_argument("--digits", type=int, default=digits, help="how many, 0 for none")
    if faces is not None:
        parser.add_argument("--faces", type=int, default=faces, help="how many, 0 for none")
    parser.add_argument("--output", type=Path)


def face_prior(options: argparse.Namespace) -> jf.Prior | None:
    """The prior for faces on the device, None where there is none."""
    name = options.faces_prior
    if name is None and "faces" in jf.available_priors():
        name = "faces"
    return None if name is None else jf.load_prior(name, device=options.device)


def image_sets(options: argparse.Namespace) -> dict[str, tuple[jf.Prior, Tensor]]:
    """Prior and all test images, both on the device, by the name of the set."""
    device = torch.device(options.device)
    found: dict[str, tuple[jf.Prior, Tensor]] = {}
    if options.digits:
        digits = load_digits(options.data).to(device)
        found["mnist"] = (jf.load_prior("mnist", device=device), digits)
    if options.faces:
        faces, prior = load_faces(options.data), face_prior(options)
        if faces is None or prior is None:
            print(f"no faces: {'no faces_test.npz in --data' if faces is None else 'no prior'}")
        else:
            found["faces"] = (prior, faces.to(device))
    return found


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """What ``jpmap_fast.ssim`` gives, without torchmetrics, in float64 [B]."""
    window = jf.gaussian_kernel(1.5, 11).to(images.device, torch.float64)
    channels = images.shape[1]
    kernel = window.expand(channels, 1, -1, -1)
    x, y = images.double(), reference.double()

    x, y = (F.pad(value, (5, 5, 5, 5), mode="reflect") for value in (x, y))

    def mean(value: Tensor) -> Tensor:
        return F.conv2d(value, kernel, groups=channels)

    mx, my = mean(x), mean(y)
    vx, vy, covariance = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    return (luminance * (2 * covariance + c2) / (vx + vy + c2)).flatten(1).mean(dim=1)
