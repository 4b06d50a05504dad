"""What became of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jpmap_fast.jobs._fields import given_fields, versioned


@dataclass(frozen=True, kw_only=True)
class PictureReport:
    """One image of a run.

    Attributes:
        source: name of its file, of its page, or of its row in an array.
        sigma: noise level it was restored with, for pixel values in [0, 1]; estimated where the
            request says "auto".
        status: why the method stopped.
        converged: whether it did so at a minimum.
        objective: J1, or what the method minimises, at the end; None where it is not finite.
        iterations: of the method.
        seconds: its share of the time that its batch took.
        output: name of the file that it was written to; None where there is none.
        psnr: of x against the clean image in dB, where it is known and finite.
        psnr_decoded: of G(z).
        notes: what was done to it on reading.
        failure: why it could not be restored; None where it was.
    """

    source: str
    sigma: float
    status: str
    converged: bool
    objective: float | None
    iterations: int
    seconds: float
    output: str | None = None
    psnr: float | None = None
    psnr_decoded: float | None = None
    notes: tuple[str, ...] = ()
    failure: str | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PictureReport:
        """The report of its fields.

        Raises:
            ValueError, TypeError: others than its fields.
        """
        given = given_fields(cls, content)
        return cls(**{**given, "notes": tuple(given.get("notes", ()))})


@dataclass(frozen=True, kw_only=True)
class RestoreReport:
    """What a run did.

    Attributes:
        pictures: images that were restored or could not be, in their order, those of the
            interrupted run that it went on with included.
        failures: (name, reason) of every file that could not be read and every image that could
            not be restored.
        output: folder of what was written; None where nothing was.
        seconds: of this run.
        algorithm: the method with all its settings.
        versions: of the programs.
    """

    pictures: tuple[PictureReport, ...]
    failures: tuple[tuple[str, str], ...]
    output: str | None
    seconds: float
    algorithm: str
    versions: dict[str, str]

    @property
    def restored(self) -> list[PictureReport]:
        """The images without a failure."""
        return [picture for picture in self.pictures if picture.failure is None]

    @property
    def converged(self) -> int:
        """Number of those that are at a minimum."""
        return sum(picture.converged for picture in self.restored)

    @property
    def means(self) -> dict[str, float]:
        """Mean "psnr" and "psnr_decoded" of the restored images in dB; none of those unknown."""
        found = {}
        for name in ("psnr", "psnr_decoded"):
            values = [getattr(picture, name) for picture in self.restored]
            if values and None not in values:
                found[name] = sum(values) / len(values)
        return found

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them, behind the version of their form."""
        content = asdict(self)
        content["pictures"] = [
            {**picture, "notes": list(picture["notes"])} for picture in content["pictures"]
        ]
        content["failures"] = [list(failure) for failure in self.failures]
        return versioned(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RestoreReport:
        """The report of ``to_dict``.

        Raises:
            ValueError, TypeError: others than its fields, or another version.
        """
        given = given_fields(cls, content)
        given["pictures"] = tuple(map(PictureReport.from_dict, given["pictures"]))
        given["failures"] = tuple((name, reason) for name, reason in given["failures"])
        return cls(**given)
