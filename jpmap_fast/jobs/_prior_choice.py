"""Which bundled prior pictures are of, where nobody names one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jpmap_fast.data.picture import loses_colour
from jpmap_fast.data.pictures import read_pictures
from jpmap_fast.jobs._places import as_file, place
from jpmap_fast.jobs._sources import Shape, is_array, unfolded
from jpmap_fast.jobs.pictures import Restoring
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.priors.any_size import PHOTOGRAPHS

DIGITS = "mnist"
# Of Pillow's names for how pixels are stored.
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
COLOUR_MODES = ("RGB", "YCbCr", "CMYK")


def with_prior(request: RestoreRequest) -> RestoreRequest:
    """The request with the prior that its inputs are of.

    "mnist" for an array and where every picture has the size that this prior asks for and no
    colours; else "photos-grey" where every picture is stored as a grey one, and "photos" where one
    is not. Files are read as far as their headers say, and whole where these promise colours in the
    size of a digit. One that cannot be is passed over: it fails later, with its reason.
    """
    named = replace(request, prior=DIGITS)
    paths = unfolded([place(name) for name in request.inputs])
    if any(map(is_array, paths)):
        return named
    try:
        size: Shape = Restoring(named).shape[1:]
    except (ValueError, TypeError, OSError):  # such as a mask of another size
        size = (28, 28)
    digits = grey = True
    for path, (channels, *sides) in _shapes(paths):
        digits = digits and tuple(sides) == size and not (channels == 3 and _has_colours(path))
        grey &= channels == 1
        if not (digits or grey):
            break
    if digits:
        return named
    return replace(request, prior=PHOTOGRAPHS[1 if grey else 3])


def _shapes(paths: Sequence[Path]) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """Pictures with their (C, H, W), C = 1 for a grey one."""
    for path in paths:
        try:
            with as_file(path) as here:
                yield here, _shape_of(here)
        except (ValueError, TypeError, OSError):
            continue


def _has_colours(path: Path) -> bool:
    """Whether a picture, or a page of it, is more than grey values stored three times."""
    try:
        return any(loses_colour(page.values, 1) for page in read_pictures(path))
    except (ValueError, TypeError, OSError):
        return False


def _shape_of(path: Path) -> tuple[int, ...]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, (width, height) = image.mode, image.size
    except OSError:  # what Pillow does not know may be read otherwise
        mode = ""
    if mode in (*GREY_MODES, *COLOUR_MODES):
        return 1 if mode in GREY_MODES else 3, height, width
    return next(iter(read_pictures(path))).values.shape
