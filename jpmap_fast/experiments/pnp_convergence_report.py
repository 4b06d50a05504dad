"""Curves, tables and text on the convergence of plug-and-play ADMM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jpmap_fast.denoisers import LipschitzDenoiser
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.histories import percent
from jpmap_fast.experiments.section import FigureFile, Table
from jpmap_fast.experiments.style import CYCLE, MARKERS, axes_grid

STILL = 1e-4  # a change that counts as none: the tolerance of PnPADMM


def curves(context: Context, found: dict[str, dict[str, Any]]) -> FigureFile:
    """Largest residual over the images by iteration, a line for each weight."""
    figure, axes = axes_grid(1, len(found), width=3.9, height=4.0, sharey=True)
    for panel, values in zip(axes[0], found.values(), strict=True):
        for (weight, of), colour, marker in zip(
            values["runs"].items(), CYCLE, MARKERS, strict=False
        ):
            worst = of["residual"].amax(dim=1)
            steps = range(1, len(worst) + 1)
            below = weight < values["bound"]
            label = rf"$\lambda$ = {weight:.3g}"
            if values["bound"] > 0:
                label += f" ({weight / values['bound']:.3g} x bound)"
            (line,) = panel.plot(steps, worst, color=colour, marker=marker, ms=4, label=label)
            line.set(markevery=(0, max(1, len(worst) // 6)), ls="-" if below else "--")
            if weight == values["weight"]:
                line.set_linewidth(2.6)
        panel.set_yscale("log")
        panel.set_xlim(0, len(worst))
        panel.set_xlabel("iteration k + 1")
        # Under the axes: what does not converge runs along their top.
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=7.5, ncols=2)
        panel.set_title(values["title"].split(", sigma")[0], loc="left", fontsize=10)
    axes[0][0].set_ylabel(
        r"max over images of $\|v_{k+1} - v_k\| / \sqrt{n}$" "\n(values in [0, 1])"
    )
    return context.save(
        "pnp_convergence",
        figure,
        "Change of the restored images in an iteration of plug-and-play ADMM, root mean square "
        "over the pixels, the largest of all images. Solid: lambda for which convergence is "
        "proved; dashed: for which it is not (all of them where A loses something); thick: the "
        "lambda that was tuned on training images.",
    )


def condition_table(found: dict[str, dict[str, Any]]) -> Table:
    """Where convergence is proved."""
    rows: list[list[Any]] = [
        [
            values["title"],
            values["lipschitz"],
            values["local_images"],
            values["local_iterates"],
            255 * values["denoiser_sigma"],
            values["mu"],
            values["bound"],
            values["weight"],
            "yes" if values["weight"] < values["bound"] else "no",
        ]
        for values in found.values()
    ]
    columns = (
        "problem; L by construction; largest local L, images; largest local L, iterates; "
        "s (grey levels); mu; lambda must be below; lambda tuned; condition holds"
    )
    return Table(
        "The condition lambda < s^2 mu (1 + L - 2 L^2) / L",
        columns.split("; "),
        rows,
        "L: product of the spectral norms of the convolutions. Local L: spectral norm of the "
        "Jacobian of D - I by power iteration, at test digits with and without noise of standard "
        "deviation s, and at what ADMM gives the denoiser with the tuned lambda. mu: least "
        "eigenvalue of A^T A, of the dense matrix, over sigma^2.",
    )


def weight_table(found: dict[str, dict[str, Any]], images: int, iterations: int) -> Table:
    """What becomes of the iteration with each lambda."""
    rows: list[list[Any]] = []
    for values in found.values():
        for weight, of in values["runs"].items():
            residual = of["residual"]
            rows.append(
                [
                    values["title"],
                    weight,
                    "yes" if weight < values["bound"] else "no",
                    percent(residual[-1] < STILL),
                    float(residual[-1].median()),
                    float(residual[-1].max()),
                    _rate(residual),
                    float(of["psnr"].mean()),
                ]
            )
    columns = (
        f"problem; lambda; proved to converge; changes by less than {STILL:g} in the end, %; "
        "last change, median; last change, largest; factor an iteration; PSNR (dB)"
    )
    return Table(
        f"{iterations} iterations of plug-and-play ADMM",
        columns.split("; "),
        rows,
        f"{images} images. Change: ||v_(k+1) - v_k|| / sqrt(n), values in [0, 1]. Factor: "
        "geometric mean over the second half of the iterations down to rounding, median over "
        "images; below 1 it converges linearly. PSNR of the last v against the clean image.",
    )


def _rate(residual: Tensor) -> float | None:
    """Factor by which the change falls in an iteration; None if it is rounding all along.

    Args:
        residual: [K, B].
    """
    floor = 3e-7  # float32 rounding of values about 1
    rates = []
    for values in residual.T.double():
        resolved = int((values > floor).double().cumprod(dim=0).sum())
        first, last = resolved // 2, resolved - 1
        if last > first:
            rates.append((values[last] / values[first]) ** (1 / (last - first)))
    return float(torch.stack(rates).median()) if rates else None


def text(found: dict[str, dict[str, Any]], denoiser: LipschitzDenoiser) -> list[str]:
    """What was done, and what came out."""
    proved = [values for values in found.values() if values["bound"] > 0]
    lossy = [values for values in found.values() if values["bound"] == 0]
    local = max(max(of["local_images"], of["local_iterates"]) for of in found.values())
    holds = local <= denoiser.lipschitz * (1 + 1e-5)
    paragraphs = [
        "Plug-and-play ADMM minimises nothing that could be seen to fall: it iterates a map, and "
        "is proved to reach a fixed point if the residual D - I is Lipschitz with L < 1, F is "
        "mu-strongly convex and lambda is below s^2 mu (1 + L - 2 L^2) / L. The denoiser here "
        f"keeps L = {denoiser.lipschitz:.4g} by construction, as each of its {denoiser.depth} "
        "convolutions is divided by its norm as a map of images. At test digits and at ADMM's own "
        f"iterates the residual has local constants up to {local:.3f}, "
        f"{'within the bound' if holds else 'above the bound, which contradicts it'}."
    ]
    for values in proved:
        below = {w: of for w, of in values["runs"].items() if w < values["bound"]}
        above = {w: of for w, of in values["runs"].items() if w >= values["bound"]}
        meets = "meets" if values["weight"] < values["bound"] else "does not meet"
        paragraphs.append(
            f"{values['title']}: mu = {values['mu']:.3g}, lambda must be below "
            f"{values['bound']:.3g}, and the tuned lambda = {values['weight']:.3g} {meets} this. "
            f"Below the bound {_outcome(below)}; above it {_outcome(above)}. The condition is "
            "sufficient and no more: what happens above it is not proved, nor is it excluded."
        )
    if lossy:
        names = " and ".join(values["title"].split(",")[0].lower() for values in lossy)
        seen = "; ".join(
            f"{values['title'].split(',')[0].lower()}: {_outcome(values['runs'])}"
            for values in lossy
        )
        paragraphs.append(
            f"For {names} A^T A has the eigenvalue 0, so mu = 0 and no lambda > 0 meets the "
            "condition, whatever the denoiser. What is seen there is no guarantee for the next "
            f"image: {seen}."
        )
    paragraphs.append(
        "JPMAP needs none of this: F enters it through the exact minimum over x, and no step is "
        "taken that does not lower J1, so that J1 descends for every quadratic F, whatever A "
        "loses, and for every beta (experiment convergence). Its limit is another one: it may end "
        "in a local minimum."
    )
    return paragraphs


def _outcome(runs: dict[float, dict[str, Any]]) -> str:
    """The last changes and the best PSNR of some runs, as a part of a sentence."""
    if not runs:
        return "no lambda was tried"
    last = torch.cat([of["residual"][-1] for of in runs.values()])
    means = {weight: float(of["psnr"].mean()) for weight, of in runs.items()}
    best = max(means, key=lambda weight: means[weight])
    return (
        f"{int((last < STILL).sum())} of {len(last)} restorations (images and lambda) change by "
        f"less than {STILL:g} in the last iteration, all by at most {float(last.max()):.1e}, and "
        f"of these lambda {best:.3g} is best, with {means[best]:.2f} dB"
    )


def numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Curves as median and maximum over images, ends by image."""
    runs = {
        f"{weight:.6g}": {
            "residual_median": of["residual"].median(dim=1).values,
            "residual_largest": of["residual"].amax(dim=1),
            "residual_last": of["residual"][-1],
            "psnr": of["psnr"],
        }
        for weight, of in values["runs"].items()
    }
    return {**values, "runs": runs}
