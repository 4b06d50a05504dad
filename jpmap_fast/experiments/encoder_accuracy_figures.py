"""Figures of the encoder's Gaussian and the posterior it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jpmap_fast._figures import Row, grid_figure
from jpmap_fast.experiments.latent_plane import PlanarGaussian, Plane, restrict
from jpmap_fast.experiments.style import BLACK, BLUE, CYCLE, ORANGE, axes_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# -log density above the minimum at 1, 2, 3, 4 standard deviations of a Gaussian.
CONTOURS = (0.5, 2.0, 4.5, 8.0)
SHADES = ("#7fb8de", "#aed1ea", "#d3e6f4", "#ecf4fa")
DIFFERENCE = 0.5  # end of the colour scale

Numbers = dict[str, Tensor]


def encoder_on(plane: Plane, one: Numbers) -> PlanarGaussian:
    """The encoder's Gaussian, ``mean`` and ``std`` [k], restricted to a plane."""
    precision = torch.diag(one["std"].double().square().reciprocal())
    return restrict(one["mean"].double(), precision, plane)


def noise_words(level: int) -> str:
    """A standard deviation of the noise, times 255, in words."""
    return f"noise {level}/255" if level else "clean"


def contour_figure(found: dict[str, Any], levels: Sequence[int], kind: str) -> Figure:
    """One row of planes for each of ``levels``, one column a digit.

    Args:
        found: from ``on_planes``, by level.
        levels: noise of x0, times 255.
        kind: "random" or "both".
    """
    from matplotlib.patches import Patch

    figure, axes = axes_grid(
        len(levels), len(found[str(levels[0])]["mean"]), width=2.45, height=2.45
    )
    first = "u" if kind == "random" else "u, to the mean"
    for row, level in zip(axes, levels, strict=True):
        for column, ax in enumerate(row):
            one = {key: value[column] for key, value in found[str(level)].items()}
            _draw_plane(ax, one)
            ax.set_title(f"digit {column % 10}, {noise_words(level)}", fontsize=9, loc="left")
            if kind == "random":
                off = float(Plane(one["origin"], one["basis"]).distance(one["mean"].double()))
                note: dict[str, Any] = {"fontsize": 7.5, "color": ORANGE, "ha": "right"}
                ax.text(0.98, 0.02, f"mean {off:.2f} off the plane", transform=ax.transAxes, **note)
            ax.set_xlabel(f"{first} (latent units)" if level == levels[-1] else "")
            ax.set_ylabel("v (latent units)" if column == 0 else "")
    handles, labels = axes[0][0].get_legend_handles_labels()
    handles.insert(0, Patch(facecolor=SHADES[1], edgecolor=BLUE))
    labels.insert(0, "posterior p(z | x0)")
    options: dict[str, Any] = {
        "loc": "outside lower center",
        "ncols": len(labels) if len(axes[0]) > 3 else 2,
    }
    figure.legend(handles, labels, frameon=False, fontsize=9, **options)
    return figure


def _draw_plane(ax: Axes, one: Numbers) -> None:
    plane = Plane(one["origin"], one["basis"])
    encoder = encoder_on(plane, one)
    u, v, energy = one["u"].numpy(), one["v"].numpy(), one["energy"].numpy()
    ax.contourf(u, v, energy, levels=(-1.0, *CONTOURS), colors=SHADES)
    ax.contour(u, v, energy, levels=CONTOURS, colors=BLUE, linewidths=0.9)
    for height in CONTOURS:
        curve = encoder.ellipse((2 * height) ** 0.5).numpy()
        thick = height == 2.0
        ax.plot(
            *curve.T,
            color=ORANGE,
            linewidth=1.9 if thick else 0.8,
            linestyle="--" if thick else "-",
            label="encoder q(z | x0): +-2 sigma ellipse" if thick else None,
        )
    mean = plane.coordinates(one["mean"].double())
    marks: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "zorder": 5}
    ax.plot(0, 0, marker="*", markersize=12, color=BLUE, label="exact optimum", **marks)
    ax.plot(*mean.numpy(), marker="X", markersize=8, color=ORANGE, label="encoder's mean", **marks)
    ax.set_xlim(u[0], u[-1])
    ax.set_ylim(v[0], v[-1])
    ax.set_aspect("equal")
    ax.locator_params(nbins=5)


def signed_colours(images: Tensor, limit: float) -> Tensor:
    """Values [N, 1, H, W] in [-limit, limit] as colours [N, 3, H, W]: blue, white at 0, orange."""
    ends = [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in (BLUE, ORANGE)]
    blue, orange = (images.new_tensor(end)[:, None, None] for end in ends)
    share = (images / limit).clamp(-1, 1)
    return 1 - share.abs() * (1 - torch.where(share > 0, orange, blue))


def decoded_figure(x0: Tensor, numbers: Numbers, level: int, count: int) -> Figure:
    """x0 [B, 1, H, W], both decodings and their difference, the first ``count`` images."""
    one = {key: value[:count] for key, value in numbers.items()}
    nats = [f"+{excess:.0f} nats" for excess in one["excess"].tolist()]
    decibels = [f"{value:.1f} dB" for value in one["agreement"].tolist()]
    difference = signed_colours(one["exact"] - one["approximate"], DIFFERENCE)
    return grid_figure(
        f"Exact and approximate optimum in the latent space, x0: {noise_words(level)}",
        [
            Row("x0", x0[:count], noise_words(level)),
            Row("G(argmin J1(x0, z))", one["exact"], "exact optimum"),
            Row("G(mu_phi(x0))", one["approximate"], "encoder; J1 above its least", nats),
            Row("Difference", difference, f"+-{DIFFERENCE}; PSNR between them", decibels),
        ],
    )


def distribution_figure(numbers: dict[int, Numbers]) -> Figure:
    """Distribution functions of the excess of J1 and of the ratio of the widths, by level."""
    figure, ((left, right),) = axes_grid(1, 2, width=4.2, height=3.2)
    for level, colour in zip(numbers, CYCLE, strict=False):
        one = numbers[level]
        for ax, values in ((left, one["excess"]), (right, one["std"] / one["conditional"])):
            ordered = values.flatten().double().sort().values
            share = torch.arange(1, len(ordered) + 1) / len(ordered)
            ax.plot(ordered.numpy(), share.numpy(), color=colour, label=noise_words(level))
    k = next(iter(numbers.values()))["mean"].shape[1]
    nats = torch.logspace(-0.5, 2, 200, dtype=torch.float64)
    reference = torch.special.gammainc(torch.full_like(nats, k / 2), nats)
    left.plot(nats.numpy(), reference.numpy(), "--", color=BLACK, label="reference, see caption")
    right.axvline(1.0, linestyle="--", color=BLACK)
    left.set_xlabel("J1 at the encoder's code above the least (nats)")
    left.set_ylabel("share of the digits")
    right.set_xlabel("sigma of the encoder / sigma of Laplace")
    right.set_ylabel("share of the coordinates")
    for ax in (left, right):
        ax.set_xscale("log")
    right.set_xlim(0.45, 4.5)
    right.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    right.minorticks_off()
    right.legend(*left.get_legend_handles_labels(), loc="lower right", frameon=False, fontsize=8)
    return figure
