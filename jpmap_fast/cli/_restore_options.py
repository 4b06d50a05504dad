"""The options of ``jpmap-fast restore``, checked against one another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

# As in ``operators.boundary``, which is not imported for the help of a command.
BOUNDARIES = ("circular", "zero", "reflect", "replicate", "valid")


class OperatorName(str, Enum):
    """What ``--operator`` takes."""

    denoising = "denoising"
    inpainting = "inpainting"
    compressed_sensing = "compressed-sensing"
    blur = "blur"
    super_resolution = "super-resolution"


@dataclass(frozen=True)
class RestoreOptions:
    """One field for each option; sigma is in 255ths.

    Raises:
        ValueError: a value is out of range, or options do not go together.
    """

    inputs: tuple[Path, ...]
    operator: OperatorName
    sigma: float
    output: Path
    mask: Path | None
    matrix: Path | None
    kernel: str | None
    boundary: str
    factor: int | None
    simulate: bool
    missing: float | None
    measurements: int | None
    seed: int
    prior: str
    method: str
    starts: int | None
    alpha: float | None
    key: str | None
    background: float
    resume: bool
    device: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"--sigma: expected a number > 0, in 255ths, got {self.sigma}")
        self._check_source(OperatorName.inpainting, "--mask", self.mask, "--missing", self.missing)
        self._check_source(
            OperatorName.compressed_sensing,
            "--matrix",
            self.matrix,
            "--measurements",
            self.measurements,
        )
        self._check_convolution()
        if not 0 <= self.background <= 1:
            raise ValueError(
                f"--background: expected a grey level from 0 (black) to 1 (white), got "
                f"{self.background}"
            )
        if self.missing is not None and not 0 <= self.missing < 1:
            raise ValueError(f"--missing: expected a fraction in [0, 1), got {self.missing}")
        if self.measurements is not None and self.measurements < 1:
            raise ValueError(f"--measurements: expected at least 1, got {self.measurements}")
        if self.starts is not None and self.starts < 1:
            raise ValueError(f"--starts: expected at least 1, got {self.starts}")
        if self.alpha is not None and self.method != "map-z":
            raise ValueError(f"--alpha: only for --method map-z, got {self.method}")

    def _check_convolution(self) -> None:
        blur, super_resolution = OperatorName.blur, OperatorName.super_resolution
        if self.kernel is not None and self.operator not in (blur, super_resolution):
            raise ValueError(
                f"--kernel: only for --operator {blur.value} or {super_resolution.value}, "
                f"got {self.operator.value}"
            )
        if self.factor is not None and self.operator is not super_resolution:
            raise ValueError(
                f"--factor: only for --operator {super_resolution.value}, got {self.operator.value}"
            )
        if self.factor is not None and self.factor < 1:
            raise ValueError(f"--factor: expected at least 1, got {self.factor}")
        if self.boundary not in BOUNDARIES:
            raise ValueError(
                f"--boundary: expected one of {', '.join(BOUNDARIES)}, got {self.boundary!r}"
            )
        if self.boundary != "circular" and self.operator is not blur:
            raise ValueError(
                f"--boundary: only for --operator {blur.value}, got {self.operator.value}"
            )
        if self.kernel in ("box", "bicubic") and self.operator is not super_resolution:
            raise ValueError(
                f"--kernel {self.kernel}: only for --operator {super_resolution.value}, whose "
                "factor it takes its size from"
            )
        if self.operator is blur and self.kernel is None:
            raise ValueError(f"--operator {blur.value}: expected --kernel")
        if self.operator is super_resolution and self.factor is None:
            raise ValueError(f"--operator {super_resolution.value}: expected --factor")

    def _check_source(
        self,
        owner: OperatorName,
        file_option: str,
        file: Path | None,
        random_option: str,
        number: float | None,
    ) -> None:
        """What an operator is made of comes from a file or, when simulating, from chance."""
        for option, value in ((file_option, file), (random_option, number)):
            if value is not None and self.operator is not owner:
                raise ValueError(
                    f"{option}: only for --operator {owner.value}, got {self.operator.value}"
                )
        if number is not None and not self.simulate:
            raise ValueError(
                f"{random_option}: only with --simulate; for real measurements give {file_option}"
            )
        if file is not None and number is not None:
            raise ValueError(f"expected {file_option} or {random_option}, got both")
        if self.operator is owner and file is None and number is None:
            raise ValueError(
                f"--operator {owner.value}: expected {file_option} FILE, "
                f"or --simulate with {random_option}"
            )
