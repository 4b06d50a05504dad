"""One style for all figures: colours that colour-blind readers can tell apart, quiet axes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpmap_fast._figures import INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# M. Okabe, K. Ito, "Color universal design", 2008; yellow, hard to see on white, left out.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, GREY, BLACK = "#56B4E9", "#E69F00", "#8A8F98", "#1b1e23"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, GREY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_SETTINGS: Any = {
    "font.size": 9,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "jpmap_fast",
}


def styled() -> AbstractContextManager[None]:
    """The style for everything drawn inside: titles and legends read it when they are made.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib; install the extra: pip install 'jpmap_fast[experiments]'"
        ) from error
    context: AbstractContextManager[None] = matplotlib.rc_context(_SETTINGS)
    return context


def axes_grid(
    rows: int, columns: int, *, width: float = 3.4, height: float = 2.7, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with rows x columns axes of ``width`` x ``height`` inches each.

    Args:
        options: those of ``Figure.subplots``, such as sharex or sharey.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        found = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [list(row) for row in found]


def write(figure: Figure, path: Path) -> None:
    """``path``.png and ``path``.svg."""
    with styled():
        for suffix, metadata in ((".png", None), (".svg", {"Date": None})):
            figure.savefig(
                path.with_name(path.name + suffix), dpi=150, facecolor="white", metadata=metadata
            )
