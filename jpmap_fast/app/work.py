"""What a page does when a button is pressed: a request is run, and its files are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jpmap_fast._prepared import AUTO
from jpmap_fast.algorithms import Progress
from jpmap_fast.app.asked import Asked, Prepared, prepare
from jpmap_fast.app.painting import enlarged, scale, shown
from jpmap_fast.app.settings import PageSettings
from jpmap_fast.cli.recipe import Recipe, recipe
from jpmap_fast.data.arrays import read_array
from jpmap_fast.data.picture import Array, Picture, at_most
from jpmap_fast.data.pictures import read_pictures
from jpmap_fast.jobs import RestoreReport, SampleRequest, run, run_sampling
from jpmap_fast.jobs._strangers import within

# What is seen where nothing was measured.
GREY = 128
# Folders of ``run_sampling`` whose files are given.
_KINDS = ("mean", "lower", "upper", "std")


@dataclass(frozen=True)
class Shown:
    """What a page shows of a run.

    Attributes:
        before, after: bytes [H, W, 3] of one size; for draws both None.
        spread: standard deviations as bytes [H, W, 3]; None for a restoration.
        told: what there is to say.
        files: to be taken home.
        recipe: how to do it elsewhere.
    """

    before: Array | None
    after: Array | None
    spread: Array | None
    told: str
    files: list[Path]
    recipe: Recipe


def looked_at(picture: Path, settings: PageSettings) -> tuple[Array, str]:
    """The first picture of a file as bytes [H, W, 3], and what there is to say of it.

    Raises:
        ValueError, OSError: it is none that is read, or too large.
    """
    with at_most(settings.numbers):
        first, pages = _first(picture)
    channels, height, width = first.values.shape
    kind = "grey" if channels == 1 else "colour"
    told = [f"{width} x {height} pixels, {kind}, {first.stored}", *first.notes]
    if pages > 1:
        told.insert(1, f"the first of {pages} pages, all of which are restored")
    return shown(first.values), "; ".join(told)


def restored(asked: Asked, folder: Path, settings: PageSettings, passes: Progress) -> Shown:
    """Restore what was asked for.

    Args:
        asked: of the page.
        folder: empty, for the files of this run.
        settings: of the page.
        passes: called as ``restore`` calls its ``progress``.

    Raises:
        ValueError, TypeError, OSError: it cannot be.
    """
    with at_most(settings.numbers):
        prepared = prepare(asked, folder, settings)
        report = run(prepared.located, passes=within(settings.seconds, passes))
        _check(report)
        output = _file(prepared, report)
        before, after = _measured(prepared, output), shown(_first(output)[0].values)
    if before is None:  # measurements are no picture
        before = shown(_first(Path(prepared.located.inputs[0]))[0].values)
    before, after = of_one_size(before, after)
    files = [output, *([] if prepared.mask is None else [prepared.mask])]
    return Shown(before, after, None, _told(prepared, report), files, recipe(prepared.named))


def sampled(asked: Asked, draws: int, folder: Path, settings: PageSettings) -> Shown:
    """Draw what may have been, and show how far the draws are apart.

    Args:
        draws: of each picture.
        asked, folder, settings: as of ``restored``.

    Raises:
        ValueError, TypeError, OSError: it cannot be, as where the prior has no codes to draw.
    """
    if not 2 <= draws <= 1000:
        raise ValueError(f"draws: expected 2 to 1000, got {draws}")
    with at_most(settings.numbers):
        prepared = prepare(replace(asked, method=None, settings={}), folder, settings)
        request = SampleRequest(restore=prepared.located, draws=draws)
        report = run_sampling(request, progress=within(settings.seconds))
        _check(report)
        std = _first(_file(prepared, report, "std"))[0].values
        # Of all channels: what is white is white in each.
        largest = float(std.max())
        spread = shown(std / max(largest, 1e-30))
    told = (
        f"White is a standard deviation of {255 * largest:.1f} of 255, the mean is "
        f"{255 * float(std.mean()):.1f}. {_told(prepared, report)}"
    )
    files = [_file(prepared, report, kind) for kind in _KINDS]
    request = SampleRequest(restore=prepared.named, draws=draws)
    return Shown(
        None, None, enlarged(spread, scale(*spread.shape[:2])[0]), told, files, recipe(request)
    )


def of_one_size(before: Array, after: Array) -> tuple[Array, Array]:
    """Two pictures as one can be laid over the other, small ones enlarged."""
    height, width = after.shape[:2]
    times = min(height // before.shape[0], width // before.shape[1])
    before = enlarged(before, max(times, 1))[:height, :width]
    canvas = np.full_like(after, GREY)
    top, left = (height - before.shape[0]) // 2, (width - before.shape[1]) // 2
    canvas[top : top + before.shape[0], left : left + before.shape[1]] = before
    up, _ = scale(height, width)
    return enlarged(canvas, up), enlarged(after, up)


def _first(path: Path) -> tuple[Picture, int]:
    """The first picture of a file, and how many there are."""
    pages = list(read_pictures(path))
    return pages[0], len(pages)


def _check(report: RestoreReport) -> None:
    if report.failures:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in report.failures))


def _file(prepared: Prepared, report: RestoreReport, kind: str = "") -> Path:
    """The file that answers the picture, of the folder of a kind."""
    name = report.pictures[0].output
    assert name is not None  # nothing failed
    folder = Path(prepared.located.output) / kind
    if not kind:
        return folder / name
    # Deviations are floats, which TIFF holds, whatever the picture was.
    return next(path for path in folder.iterdir() if path.stem == Path(name).stem)


def _measured(prepared: Prepared, output: Path) -> Array | None:
    """What the first picture was restored from; None where that is no picture."""
    request = prepared.located
    if not request.simulate:
        return shown(_first(Path(request.inputs[0]))[0].values)
    whole = output.parent / "measured.npz"
    path = whole if whole.is_file() else output.parent / "measured" / f"{output.name}.npz"
    y = read_array(path, "y", ())[0]
    return shown(y) if y.ndim == 3 else None


def _told(prepared: Prepared, report: RestoreReport) -> str:
    """How it went, in a few sentences."""
    first, request = report.pictures[0], prepared.located
    noise = f"{255 * first.sigma:.3g} of 255{', estimated' if request.sigma == AUTO else ''}"
    told = [f"{first.status}; prior {request.prior}, noise {noise}; {report.seconds:.2f} s"]
    if first.psnr is not None:
        told.append(f"PSNR {first.psnr:.2f} dB")
    others = len(report.pictures) - 1
    told += [f"{others} more pages are in the file"] if others else []
    told += _without_repeats([note for picture in report.pictures for note in picture.notes])
    return ". ".join(told) + "."


def _without_repeats(notes: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(notes))
