"""What is to be restored, and how: everything a run depends on, as JSON can hold it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jpmap_fast._messages import FieldError, typed
from jpmap_fast._prepared import AUTO
from jpmap_fast._restore import METHODS_OF
from jpmap_fast.algorithms import Algorithm
from jpmap_fast.jobs._fields import check_named, given_fields, hash_of, versioned
from jpmap_fast.jobs._methods import made, plain_settings
from jpmap_fast.operators.registry import check_complete, checked_options
from jpmap_fast.priors.protocol import DEFAULT_METHODS
from jpmap_fast.sampling import DEFAULT_METHOD, SamplingMethod

FORMATS = ("png", "tiff")
BITS = (8, 16, 32)

_KINDS: dict[str, type] = {
    "operator": str,
    "sigma": float,
    "simulate": bool,
    "prior": str,
    "method": str,
    "residual": str,
    "estimate": str,
    "seed": int,
    "device": str,
    "chunk_size": int,
    "key": str,
    "background": float,
    "output": Path,
    "format": str,
    "bits": int,
    "resume": bool,
}
# None is a value of these.
_OPTIONAL = ("method", "chunk_size", "key", "format", "bits")


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """A restoration to be run, here or elsewhere. Values of pixels and sigma are in [0, 1] units.

    Attributes:
        operator: name of A: "denoising", "inpainting", "compressed-sensing", "blur",
            "super-resolution", or one that was registered.
        sigma: standard deviation > 0 of the noise, for pixel values in [0, 1]; "auto" estimates it
            of each picture, see ``estimate_sigma``.
        options: what the operator is made of, by name, such as {"kernel": "gaussian:2"}; the page
            of the command line lists them. Files are named by their path. Defaults are filled in.
        inputs: paths of picture files and folders, or of one .npz, .npy or IDX file, or URLs of
            them that fsspec knows, such as "s3://bucket/folder"; none where an array is given
            beside the request.
        simulate: the inputs are clean images: they are measured first, and the PSNR is known.
        prior: name of a bundled prior, a path, or "hf://owner/name", of which summary.json keeps
            the commit, see ``pinned_name``. With one for pictures of any size, such as "photos",
            each picture file may have its own.
        method: name of the algorithm, as ``restore`` takes it; None for that of the prior.
        residual: name of the model of x - G(z), as ``restore`` takes it: "white", or one that the
            prior carries.
        estimate: "map" for the most probable picture, "mean" for E[x | y] as ``restore`` has it;
            ``method`` is then "amis", "mala" or "smc".
        settings: of the algorithm by name, such as {"starts": 8}: numbers, text and booleans.
        seed: of simulated measurements and random starts.
        device: "auto", "cpu", "cuda" or "cuda:1".
        chunk_size: images in memory at a time, >= 1; None for 64, or 16 that are drawn, fewer where
            they are large. Results do not depend on it.
        key: name of the array in an .npz file of ``inputs``.
        background: grey level behind transparent pixels, 0 black to 1 white.
        output: folder for what a run writes, or its URL.
        format: of restored pictures, "png" or "tiff"; None for that of their files where it can
            hold them.
        bits: of a restored pixel, 8, 16 or 32 (floating point, TIFF alone); None for as many as
            the picture had.
        resume: go on with the run in ``output`` that was interrupted, or make one again that was
            not: with the same settings alone.

    Raises:
        ValueError: a value is out of range, unknown, or does not go with another one.
        TypeError: a value of the wrong kind.

    Example:
        >>> request = RestoreRequest(operator="blur", sigma=0.02, options={"kernel": "box:3"})
        >>> request.options
        {'kernel': 'box:3', 'boundary': 'circular'}
        >>> RestoreRequest.from_dict(request.to_dict()) == request
        True
    """

    operator: str
    sigma: float | str
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    simulate: bool = False
    prior: str = "mnist"
    method: str | None = None
    residual: str = "white"
    estimate: str = "map"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    chunk_size: int | None = None
    key: str | None = None
    background: float = 1.0
    output: str = "restored"
    format: str | None = None
    bits: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if name == "sigma" and isinstance(value, str) and value == AUTO:
                continue
            if value is not None or name not in _OPTIONAL:
                self._set(name, typed(name, value, kind))
        if isinstance(self.inputs, str) or not isinstance(self.inputs, (list, tuple)):
            raise TypeError(f"inputs: expected a list of paths, got {self.inputs!r}")
        self._set("inputs", tuple(typed("inputs", path, Path) for path in self.inputs))
        for name in ("options", "settings"):
            check_named(name, getattr(self, name))
        self._check_ranges()
        self._set("options", checked_options(self.operator, self.options, self.simulate))
        self._set("settings", plain_settings(self.settings))
        self._check_settings()

    def __hash__(self) -> int:
        """Of all fields: requests are equal where those are, and a dictionary's order is none."""
        return hash_of(self)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_ranges(self) -> None:
        if isinstance(self.sigma, str):
            if self.simulate:
                raise FieldError(
                    "{sigma}: expected a number with {simulate}, for the noise that is added, got "
                    "auto"
                )
        elif not (math.isfinite(self.sigma) and self.sigma > 0):
            raise FieldError(
                "{sigma}: expected a finite number > 0, for values in [0, 1], got {got}",
                {"got": self.sigma},
            )
        if not 0 <= self.background <= 1:
            raise FieldError(
                "{background}: expected a grey level from 0 (black) to 1 (white), got {got}",
                {"got": self.background},
            )
        if not -(1 << 63) <= self.seed < 1 << 64:
            raise FieldError(
                "{seed}: expected an integer of 64 bits, got {got}", {"got": self.seed}
            )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise FieldError(
                "{chunk_size}: expected at least 1, got {got}", {"got": self.chunk_size}
            )
        estimates = tuple(METHODS_OF)
        for name, allowed in (("format", FORMATS), ("bits", BITS), ("estimate", estimates)):
            if getattr(self, name) not in (None, *allowed):
                values = {"allowed": ", ".join(map(str, allowed)), "got": getattr(self, name)}
                raise FieldError(f"{{{name}}}: expected one of {{allowed}}, got {{got!r}}", values)
        if self.format == "png" and self.bits == 32:
            raise FieldError("{bits}: expected 8 or 16 for {format} png, got 32")

    def _check_settings(self) -> None:
        """Raise unless ``algorithm`` can be made, of any default method where none is named."""
        names = DEFAULT_METHODS if self.estimate == "map" else (DEFAULT_METHOD,)
        first, *others = names if self.method is None else (self.method,)
        try:
            self.algorithm(first)
        except (ValueError, TypeError):
            for other in others:
                with suppress(ValueError, TypeError):
                    self.algorithm(other)
                    return
            raise

    def algorithm(self, default: str = DEFAULT_METHODS[0]) -> Algorithm | SamplingMethod:
        """The method with its settings; one of sampling where the estimate is the mean.

        Args:
            default: its name where the request has none.

        Raises:
            ValueError, TypeError: no such method or setting, or a value out of its range.
        """
        method = default if self.method is None else self.method
        which = " for the mean" if self.estimate == "mean" else ""
        return made(METHODS_OF[self.estimate], "method", method, self.settings, which)

    def check_complete(self, arrays: Collection[str] = ()) -> None:
        """Raise ValueError unless the operator can be made.

        Args:
            arrays: names of the options that are given as arrays beside the request.
        """
        check_complete(self.operator, self.options, arrays)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them, behind the version of their form."""
        content = {own.name: getattr(self, own.name) for own in fields(self)}
        content |= {name: dict(content[name]) for name in ("options", "settings")}
        return versioned({**content, "inputs": list(self.inputs)})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RestoreRequest:
        """The request of ``to_dict``.

        Raises:
            ValueError: a field is unknown or missing, a value out of range, or another version.
            TypeError: a value of the wrong kind.
        """
        return cls(**given_fields(cls, content))
