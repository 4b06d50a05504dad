"""What somebody asked for on the page, as a request."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import jpmap_fast as jf
from jpmap_fast._messages import FieldError
from jpmap_fast.app.painting import painted
from jpmap_fast.app.settings import PageSettings
from jpmap_fast.cli._requests import request_of
from jpmap_fast.data.marks import load_mask
from jpmap_fast.data.picture import Array
from jpmap_fast.data.pictures import read_pictures
from jpmap_fast.data.writing import write_pictures
from jpmap_fast.jobs import RestoreRequest, with_prior
from jpmap_fast.jobs._sources import is_array
from jpmap_fast.jobs._strangers import check_stranger

PAINTED = "mask"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the page holds when a button is pressed.

    Attributes:
        picture: the file that was dropped.
        operator, sigma: as the command line has them.
        options: texts and numbers by the names of the operator's options.
        files: files that were dropped for options.
        paint: layers of paint over the picture's preview, [h, w, 4] each.
        prior: None for that of the picture.
        method: None for that of the prior.
        settings, fields: of the request.
    """

    picture: Path
    operator: str
    sigma: str
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    paint: tuple[Array, ...] = ()
    prior: str | None = None
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A request by the names that its files have for people, and the one that is run.

    Attributes:
        named: whose paths are names of files.
        located: whose paths are those of this machine.
        mask: what was painted, as a file; None where nothing was.
    """

    named: RestoreRequest
    located: RestoreRequest
    mask: Path | None


def prepare(asked: Asked, folder: Path, settings: PageSettings) -> Prepared:
    """The request of what was asked, its files in a folder of its own.

    Raises:
        ValueError, TypeError, OSError: it is none, or more than a page does.
    """
    plain = request_of(
        [],
        asked.operator,
        asked.sigma,
        Path(RestoreRequest.output),
        RestoreRequest.prior if asked.prior is None else asked.prior,
        {**_no_options(asked), **asked.options},
        method=asked.method,
        settings=dict(asked.settings),
        **asked.fields,
    )
    check_stranger(plain, jf.available_priors())
    if is_array(asked.picture):
        raise ValueError(
            f"{asked.picture.name}: expected a picture file; arrays are restored by "
            "`jpmap-fast restore`"
        )
    inputs = _Names(folder)
    picture = inputs.take(asked.picture)
    files = {name: inputs.take(path) for name, path in asked.files.items()}
    mask = _painted_mask(asked, inputs, picture, files)
    named = replace(plain, inputs=(picture,), options={**plain.options, **files})
    located = replace(
        named,
        inputs=(str(folder / picture),),
        options={**plain.options, **{name: str(folder / file) for name, file in files.items()}},
        output=str(folder / named.output),
        device=settings.device,
    )
    if asked.prior is None:
        located = with_prior(located)
    return Prepared(replace(named, prior=located.prior), located, mask)


def _no_options(asked: Asked) -> dict[str, None]:
    return dict.fromkeys(asked.files)


def _painted_mask(asked: Asked, inputs: _Names, picture: str, files: dict[str, str]) -> Path | None:
    """The mask that was painted, on that which was dropped, if any; it is in ``files`` then."""
    if not any((layer[..., 3] > 0).any() for layer in asked.paint):
        return None
    if "missing" in asked.options:
        raise FieldError("{missing}: expected none where the mask is painted; wipe the paint")
    height, width = next(iter(read_pictures(inputs.folder / picture))).values.shape[1:]
    observed = torch.from_numpy(~painted(list(asked.paint), height, width)).float()
    if PAINTED in files:
        given = load_mask(inputs.folder / files[PAINTED]).float()
        if given.shape != observed.shape:
            raise FieldError(
                "{mask}: expected one of {height} x {width} pixels to paint on, got shape {got}",
                {"height": height, "width": width, "got": list(given.shape)},
            )
        observed = observed * (given > 0)
    files[PAINTED] = inputs.free("mask.png")
    path = inputs.folder / files[PAINTED]
    write_pictures(path, [observed[None]], ["uint8"])
    return path


class _Names:
    """Files of a folder, each under the name that it came with, or one like it that is free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[str] = {RestoreRequest.output}

    def free(self, name: str) -> str:
        path, found, count = Path(name), name, 1
        while found.lower() in self._taken:
            count += 1
            found = f"{path.stem}_{count}{path.suffix}"
        self._taken.add(found.lower())
        return found

    def take(self, path: Path) -> str:
        name = self.free(path.name)
        shutil.copyfile(path, self.folder / name)
        return name
