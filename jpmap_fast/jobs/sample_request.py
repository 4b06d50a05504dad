"""What is to be sampled, and how: a restoration's request, with what draws need beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jpmap_fast._messages import FieldError, typed
from jpmap_fast.jobs._fields import check_named, given_fields, hash_of, versioned
from jpmap_fast.jobs._methods import made, plain_settings
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.sampling import DEFAULT_METHOD, METHODS, SamplingMethod
from jpmap_fast.sampling.calibration import check_level

_KINDS: dict[str, type] = {
    "draws": int,
    "sampler": str,
    "level": float,
    "calibration": Path,
    "write_draws": bool,
}


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """Draws of what measurements may have been, here or elsewhere.

    Attributes:
        restore: what is measured, how, and where results go; it names no ``estimate``, ``method``
            or ``settings``, which are those of a restoration.
        draws: of each image, >= 2.
        sampler: "amis", "mala" or "smc", as ``sample`` takes its ``method``.
        settings: of the sampler by name, such as {"starts": 8}: numbers, text and booleans.
        level: of the intervals, in (0, 1).
        calibration: path of a file of ``Calibration.save``, whose intervals are written; None for
            quantiles of the draws.
        write_draws: write every draw as a picture.

    Raises:
        ValueError: a value is out of range, or does not go with another one.
        TypeError: a value of the wrong kind.

    Example:
        >>> from jpmap_fast.jobs import RestoreRequest, SampleRequest
        >>> request = SampleRequest(restore=RestoreRequest(operator="denoising", sigma=0.4))
        >>> SampleRequest.from_dict(request.to_dict()) == request
        True
    """

    restore: RestoreRequest
    draws: int = 100
    sampler: str = DEFAULT_METHOD
    settings: dict[str, Any] = field(default_factory=dict)
    level: float = 0.9
    calibration: str | None = None
    write_draws: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.restore, RestoreRequest):
            raise TypeError(f"restore: expected a RestoreRequest, got {self.restore!r}")
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None or name != "calibration":
                object.__setattr__(self, name, typed(name, value, kind))
        if self.draws < 2:
            raise FieldError("{draws}: expected at least 2, got {got}", {"got": self.draws})
        check_level(self.level)
        check_named("settings", self.settings)
        object.__setattr__(self, "settings", plain_settings(self.settings))
        self.method()
        if self.restore.estimate != "map":
            raise FieldError(
                "{estimate}: expected map to sample with, which gives the mean anyway, got {got}",
                {"got": self.restore.estimate},
            )
        if self.restore.method is not None or self.restore.settings:
            raise FieldError(
                "{method}: expected none to sample with, whose settings are those of a maximum, "
                "got {got}",
                {"got": self.restore.method or self.restore.settings},
            )

    def __hash__(self) -> int:
        """Of all fields, as that of a ``RestoreRequest``."""
        return hash_of(self)

    def method(self) -> SamplingMethod:
        """The sampler with its settings.

        Raises:
            ValueError, TypeError: no such sampler or setting, or a value out of its range.
        """
        return made(METHODS, "sampler", self.sampler, self.settings)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them, behind the version of their form."""
        own = {"restore": self.restore.to_dict(), "settings": dict(self.settings)}
        return versioned({**vars(self), **own})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SampleRequest:
        """The request of ``to_dict``.

        Raises:
            ValueError, TypeError: as ``RestoreRequest.from_dict``.
        """
        given = given_fields(cls, content)
        given["restore"] = RestoreRequest.from_dict(given["restore"])
        return cls(**given)
