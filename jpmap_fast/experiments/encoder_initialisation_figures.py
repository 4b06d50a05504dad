"""Figures of descents in the latent space: objective, paths, best of several starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jpmap_fast.experiments.encoder_accuracy_figures import noise_words
from jpmap_fast.experiments.encoder_initialisation_outcomes import ADAM, NATS, NEWTON, Summary
from jpmap_fast.experiments.latent_plane import principal_plane
from jpmap_fast.experiments.style import BLACK, CYCLE, GREY, ORANGE, PURPLE, SKY, axes_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOST: dict[str, Any] = {"color": GREY, "linewidth": 0.6, "alpha": 0.6}
ARRIVING: dict[str, Any] = {"color": SKY, "linewidth": 0.7, "alpha": 0.8}
COLUMNS = 3  # digits side by side

THICK: dict[str, Any] = {"color": ORANGE, "linewidth": 2.4, "zorder": 4}

Paths = dict[int, dict[str, Tensor]]


def objective_figure(paths: Paths) -> Figure:
    """J1 above the best known against steps; under each digit the levels of noise.

    Args:
        paths: from ``record``, with ``best`` [B], by noise of x0 times 255.
    """
    figure, panels = _panels(paths, 2.3)
    for ax, level, column in panels:
        one = paths[level]
        excess = (one["energy"][:, :, column] - one["best"][column]).clamp_min(0).numpy()
        at, arrived = one["at"].numpy(), excess[-1] <= NATS
        ax.plot(at, excess[:, 1:][:, ~arrived[1:]], **LOST)
        ax.plot(at, excess[:, 1:][:, arrived[1:]], **ARRIVING)
        ax.plot(at, excess[:, 0], **THICK, label="from the encoder's code")
        _thin_labels(ax)
        ax.axhline(0, color=BLACK, linestyle="--", linewidth=1.1, label="best known", zorder=5)
        ax.set_yscale("symlog", linthresh=1, linscale=0.6)
        ax.set_ylim(-0.25, 2 * float(excess.max()))
        ax.set_yticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"])
        ax.set_xlim(0, int(at[-1]))
        ax.set_ylabel("J1 above the best (nats)" if column % COLUMNS == 0 else "")
        ax.set_xlabel("step of Adam" if level == max(paths) else "")
    _legend(figure, panels[0][0], 2 if len(panels) < 3 * len(paths) else 4)
    return figure


def path_figure(paths: Paths) -> Figure:
    """The paths in the plane of their first two principal directions; panels as above."""
    figure, panels = _panels(paths, 2.75)
    for ax, level, column in panels:
        one = paths[level]
        codes = one["z"][:, :, column]
        plane, shares = principal_plane(codes)
        arrived = one["energy"][-1, :, column] <= one["best"][column] + NATS
        _draw_paths(ax, plane.coordinates(codes), arrived)
        ax.set_xlabel(f"1st: {shares[0]:.0%} of variance (latent units)", size=8)
        ax.set_ylabel(f"2nd: {shares[1]:.0%} of variance (latent units)", size=8)
        ax.set_aspect("equal", adjustable="datalim")
    _legend(figure, panels[0][0], 3 if len(panels) < 3 * len(paths) else 4)
    return figure


def _draw_paths(ax: Axes, path: Tensor, arrived: Tensor) -> None:
    """Paths [T, 1 + S, 2], the encoder's first, and which of them arrive [1 + S]."""
    points, good = path.numpy(), arrived[1:].numpy()
    first, random = points[:, 0], points[:, 1:]
    for chosen, thin in ((~good, LOST), (good, ARRIVING)):
        ax.plot(random[:, chosen, 0], random[:, chosen, 1], **thin)
    _thin_labels(ax)
    ax.plot(*first.T, **THICK, label="from the encoder's code")

    def mark(where: Any, marker: str, label: str, **options: Any) -> None:
        ax.plot(*where.T, linestyle="none", marker=marker, label=label, **options)

    edge: dict[str, Any] = {"color": ORANGE, "markeredgecolor": "white"}
    mark(random[0], "o", "random start", mfc="white", mec=GREY, ms=3.5, zorder=3)
    mark(random[-1, ~good], "x", "its end, not the best", color=PURPLE, ms=5.5, mew=1.4, zorder=6)
    mark(first[:1], "s", "encoder's code", ms=7, zorder=7, **edge)
    mark(first[-1:], "*", "end from the encoder's code", ms=12, zorder=8, **edge)
    words = f"{int(good.sum())} of {len(good)} arrive"
    ax.set_title(words, fontsize=8, loc="right")


def starts_figure(summary: dict[int, Summary]) -> Figure:
    """Share of the images that the best of K starts brings to the best J1, by K."""
    figure, (axes,) = axes_grid(1, 2, width=4.4, height=3.3, sharey=True)
    for ax, method in zip(axes, (NEWTON, ADAM), strict=True):
        for (level, one), colour in zip(summary.items(), CYCLE, strict=False):
            found = one.arrivals.get(method)
            if found is None:
                continue
            counts = torch.arange(1, len(found.curve) + 1).numpy()
            small: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 3}
            ax.plot(counts, [100 * s for s in found.curve], label=noise_words(level), **small)
            ax.plot(counts, [100 * s for s in found.joined], linestyle="--", color=colour)
        ax.plot([], [], color=BLACK, label="random starts alone")
        ax.plot([], [], color=BLACK, linestyle="--", label="with the encoder's code")
        ax.set_xscale("log")
        ax.set_xlim(0.95, 55)
        ax.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
        ax.minorticks_off()
        ax.set_title(f"descent by {method}", fontsize=9.5, loc="left")
        ax.set_xlabel("starts K")
    axes[0].set_ylabel("digits at the best J1 known (%)")
    axes[0].legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def _panels(paths: Paths, height: float) -> tuple[Figure, list[tuple[Axes, int, int]]]:
    """Axes with their level of noise and digit: a digit's levels below each other."""
    count, levels = next(iter(paths.values()))["z"].shape[2], list(paths)
    columns = min(count, COLUMNS)
    rows = -(-count // columns) * len(levels)
    figure, axes = axes_grid(rows, columns, width=3.1, height=height)
    panels = []
    for digit in range(rows // len(levels) * columns):
        for row, level in enumerate(levels):
            ax = axes[digit // columns * len(levels) + row][digit % columns]
            if digit < count:
                ax.set_title(f"digit {digit % 10}, {noise_words(level)}", fontsize=9.5, loc="left")
                panels.append((ax, level, digit))
            else:
                ax.set_axis_off()
    return figure, panels


def _thin_labels(ax: Axes) -> None:
    ax.plot([], [], **ARRIVING, label="from random starts, arriving")
    ax.plot([], [], **LOST, label="from random starts, not arriving")


def _legend(figure: Figure, ax: Axes, columns: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    options: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles, labels, frameon=False, fontsize=8, **options)
