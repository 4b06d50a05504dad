"""Factors that make intervals and radii cover what they say on real images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from jpmap_fast._files import write_json
from jpmap_fast._messages import FieldError
from jpmap_fast._validate import counts, number
from jpmap_fast.sampling.posterior import Posterior

FORMAT = "jpmap-fast calibration 1"
# Between the grey values of E[G | y] that have factors of their own.
EDGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.85)
# Noise levels further from those that were calibrated are other problems.
_SLACK = 1.1


@dataclass(frozen=True)
class Calibration:
    r"""Split-conformal factors of a level, made by ``calibrate``.

        interval of a pixel:  mean +- c_b std,    b the bin of its E[G(z) | y],
        ball of an image:     ||x - mean|| <= c sqrt(sum of var).

    They hold for images, operator, noise level, prior and model of p(x|z) like those they were made
    with: what of that a posterior tells, its shape and its noise level, is compared.

    Args:
        level: in (0, 1), of what is to be covered.
        edges: between the bins, increasing.
        factors: c_b > 0 of each bin, one more than edges.
        radius_factor: c > 0.
        image_shape: (C, H, W).
        sigma: least and largest noise level of the images.
        images: how many they were.

    Raises:
        ValueError, TypeError: values that do not fit together.
    """

    level: float
    edges: tuple[float, ...]
    factors: tuple[float, ...]
    radius_factor: float
    image_shape: tuple[int, ...]
    sigma: tuple[float, float]
    images: int

    def __post_init__(self) -> None:
        check_level(self.level)
        edges = check_edges(self.edges)
        factors = tuple(number("factors", value) for value in self.factors)
        radius = number("radius_factor", self.radius_factor)
        if len(factors) != len(edges) + 1 or not all(f > 0 for f in (*factors, radius)):
            raise ValueError(
                f"factors: expected {len(edges) + 1} numbers > 0, one a bin, and a radius_factor "
                f"> 0, got {list(factors)} and {radius}"
            )
        shape, sigma = counts("image_shape", self.image_shape, 1), tuple(self.sigma)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "image_shape", shape)
        object.__setattr__(self, "sigma", tuple(number("sigma", value) for value in sigma))

    def interval(self, posterior: Posterior, level: float) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of each pixel, shaped like ``posterior.mean``.

        NaN where an image failed.

        Raises:
            ValueError: another level, or a posterior of other images or noise than these are for.
        """
        if not math.isclose(check_level(level), self.level, rel_tol=1e-9):
            raise ValueError(
                f"level: expected {self.level:g}, which this calibration was made for, got "
                f"{level:g}; calibrate(..., level={level:g}) makes another"
            )
        self._check(posterior)
        factors = torch.tensor(self.factors, dtype=torch.float64, device=posterior.mean.device)
        half = factors[bins(posterior.decoded, self.edges)].to(posterior.std) * posterior.std
        return posterior.mean - half, posterior.mean + half

    def radius(self, posterior: Posterior) -> Tensor:
        """The r for which ||x - mean|| <= r covers the true image at ``level`` [B].

        Raises:
            ValueError: a posterior of other images or noise than these factors are for.
        """
        self._check(posterior)
        return self.radius_factor * spread(posterior)

    def _check(self, posterior: Posterior) -> None:
        shape = tuple(posterior.mean.shape[-3:])
        if shape != self.image_shape:
            raise ValueError(
                f"posterior: expected images of shape {list(self.image_shape)}, which this "
                f"calibration was made for, got {list(shape)}"
            )
        least, most = self.sigma[0] / _SLACK, self.sigma[1] * _SLACK
        given = posterior.sigma.reshape(-1)
        outside = given[(given < least) | (given > most)]
        if outside.numel():
            raise ValueError(
                f"posterior: expected noise levels of {self.sigma[0]:g} to {self.sigma[1]:g}, "
                f"which this calibration was made for, got {float(outside[0]):g}; calibrate at it"
            )

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(Path(path), {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """What ``save`` wrote.

        Raises:
            FileNotFoundError: no such file. ValueError: no calibration, or a damaged one.
        """
        wanted = f"{path}: expected a calibration written by Calibration.save"
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such calibration")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{wanted}, got no JSON ({error})") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"{wanted}, got something else")
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{wanted}, got a damaged one ({error})") from error


def check_level(level: float) -> float:
    """A level in (0, 1).

    Raises:
        ValueError: out of range. TypeError: no number.
    """
    level = number("level", level)
    if not 0 < level < 1:
        raise FieldError("{level}: expected a number in (0, 1), got {got}", {"got": level})
    return level


def check_edges(edges: Sequence[float]) -> tuple[float, ...]:
    """Edges of bins that increase.

    Raises:
        ValueError: they do not. TypeError: no numbers.
    """
    found = tuple(number("edges", edge) for edge in edges)
    if any(b <= a for a, b in zip(found, found[1:], strict=False)):
        raise ValueError(f"edges: expected increasing numbers, got {list(found)}")
    return found


def bins(decoded: Tensor, edges: Sequence[float]) -> Tensor:
    """Which bin each value of E[G | y] is in, int64 of its shape."""
    boundaries = torch.tensor(edges, dtype=torch.float64, device=decoded.device)
    return torch.bucketize(decoded.double().contiguous(), boundaries)


def spread(posterior: Posterior) -> Tensor:
    """sqrt(E ||x - mean||^2) of each image [B]."""
    return posterior.var.double().sum(dim=(-3, -2, -1)).sqrt()
