"""Figures of restored images. They need matplotlib, the extra ``demo``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sizes in inches.
TILE = 0.82
GAP = 0.07
CAPTION = 0.19
LABELS = 1.75
TITLE = 0.55
MARGIN = 0.14

INK = "#1b1e23"
QUIET = "#646b76"
MISSING = (0.36, 0.50, 0.66)


@dataclass(frozen=True)
class Row:
    """One row of a grid of images.

    Attributes:
        label: name of the row.
        images: [N, C, H, W] with C = 1 or 3; values are clipped to [0, 1].
        detail: a second, quieter line under the label.
        captions: a text under each image; None for none.
    """

    label: str
    images: Tensor
    detail: str = ""
    captions: Sequence[str] | None = None


def grid_figure(title: str, rows: Sequence[Row], tile: float = TILE) -> Figure:
    """A figure with one labelled row of images for each of ``rows``.

    Args:
        title: heading.
        rows: at least one, all with the same number N >= 1 of images.
        tile: width of an image, in inches.

    Returns:
        A matplotlib figure, tied to no window.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: rows are empty, or differ in their number of images or captions.
    """
    # A Figure made directly draws with Agg and leaves the user's pyplot backend alone.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib; install the extra: pip install 'jpmap_fast[demo]'"
        ) from error
    columns = _check(rows)
    tall = tile * rows[0].images.shape[2] / rows[0].images.shape[3]
    heights = [tall + (CAPTION if row.captions is not None else 0) for row in rows]
    width = MARGIN + LABELS + columns * (tile + GAP) - GAP + MARGIN
    height = TITLE + sum(heights) + GAP * (len(rows) - 1) + MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(MARGIN / width, 1 - 0.2 / height, title, size=11, color=INK, va="top")
    top = height - TITLE
    for row, used in zip(rows, heights, strict=True):
        middle = (top - tall / 2) / height
        shift = 0.085 / height if row.detail else 0.0
        figure.text(MARGIN / width, middle + shift, row.label, size=9.5, color=INK, va="center")
        figure.text(MARGIN / width, middle - shift, row.detail, size=7.5, color=QUIET, va="center")
        for column in range(columns):
            left = MARGIN + LABELS + column * (tile + GAP)
            box = (left / width, (top - tall) / height, tile / width, tall / height)
            axes = figure.add_axes(box)
            axes.imshow(_displayable(row.images[column]), vmin=0, vmax=1, cmap="gray")
            axes.set_axis_off()
            if row.captions is not None:
                figure.text(
                    (left + tile / 2) / width,
                    (top - tall - 0.035) / height,
                    row.captions[column],
                    size=7.5,
                    color=QUIET,
                    ha="center",
                    va="top",
                )
        top -= used + GAP
    return figure


def save_grid(path: str | Path, title: str, rows: Sequence[Row], tile: float = TILE) -> None:
    """Write ``grid_figure(title, rows, tile)`` as a PNG file.

    Raises:
        ImportError, ValueError: as ``grid_figure``. OSError: the file cannot be written.
    """
    grid_figure(title, rows, tile).savefig(path, dpi=150, format="png")


def mark_missing(images: Tensor, mask: Tensor) -> Tensor:
    """Images in colour, with blue where nothing was observed.

    Args:
        images: [N, C, H, W], C = 1 or 3.
        mask: 1 = observed, shape that broadcasts to that of ``images``.

    Returns:
        [N, 3, H, W].
    """
    colour = images.expand(-1, 3, -1, -1)
    blue = torch.tensor(MISSING, dtype=images.dtype, device=images.device)
    return torch.where(mask > 0, colour, blue[:, None, None])


def _check(rows: Sequence[Row]) -> int:
    if not rows or not len(rows[0].images):
        raise ValueError("rows: expected at least one row with at least one image")
    columns = len(rows[0].images)
    for row in rows:
        if row.images.dim() != 4 or row.images.shape[1] not in (1, 3):
            raise ValueError(
                f"rows: expected images [N, 1 or 3, H, W] in row {row.label!r}, "
                f"got {list(row.images.shape)}"
            )
        for what, found in (("images", row.images), ("captions", row.captions)):
            if found is not None and len(found) != columns:
                raise ValueError(
                    f"rows: expected {columns} {what} in row {row.label!r}, got {len(found)}"
                )
    return columns


def _displayable(image: Tensor) -> Any:
    """[C, H, W] as the array [H, W] or [H, W, 3] that imshow takes."""
    pixels = image.detach().cpu().clamp(0, 1)
    return (pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy()
