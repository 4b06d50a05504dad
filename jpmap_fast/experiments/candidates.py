"""Which candidate is taken: the encoder's code, a descent from it, or a descent from z_n."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._problems import PAPER, Problem, make_problem
from jpmap_fast._restore import restore
from jpmap_fast.algorithms import JPMAP
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.histories import cell, count_candidates, percent, substantial
from jpmap_fast.experiments.section import FigureFile, Section, Table
from jpmap_fast.experiments.statistics import share_within
from jpmap_fast.experiments.style import AMBER, BLUE, GREEN, GREY, axes_grid
from jpmap_fast.priors import Prior, load_prior

RULES = {
    "Algorithm 2.2: exhaustive": JPMAP(starts=1, selection="exhaustive"),
    "Algorithm 2.3: n1 = 25, n2 = 50": JPMAP(starts=1, n1=25, n2=50),
    "Algorithm 2.3: n1 = 0, n2 = 3 (default)": JPMAP(starts=1, n1=0, n2=3),
}
COUPLINGS = ("projected", "alternating")
COLOURS = (AMBER, BLUE, GREEN, GREY)
NAMES = (
    r"$z^1$: the encoder's code",
    r"$z^2$: descent from it",
    r"$z^3$: descent from $z_n$",
    r"none: $J_1$ does not fall",
)

# First and last iteration of each bar; None stands for the end.
BARS = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, 25), (26, 50), (51, 100), (101, None))

# A step that lowers J1 by less than this part of it decides nothing.
SUBSTANTIAL = 1e-4


# By problem, coupling and rule.
Found = dict[tuple[str, str, str], dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """How many images, and how many iterations at most."""

    images: int
    iterations: int = 500


def run(context: Context, name: str, sizes: Sizes | None = None) -> Section:
    """The experiment.

    Source: arXiv 2103.01648, Algorithms 2.2 and 2.3.
    """
    sizes = sizes or Sizes(context.settings.pick(50, 500))
    prior = load_prior("mnist", device=context.device)
    found: Found = {}
    titles: dict[str, str] = {}
    first: dict[str, dict[str, Any]] = {}
    for index, which in enumerate(PAPER):
        clean = digits(sizes.images)
        problem = make_problem(which, clean, context.generator(index), context.device)
        titles[which] = problem.title
        first[which] = context.step(f"{which} first descents", partial(_first, problem, prior))
        for coupling in COUPLINGS:
            for rule in RULES:
                work = partial(_record, problem, prior, rule, coupling, sizes)
                found[which, coupling, rule] = context.step(f"{which} {coupling} {rule}", work)
    section = Section(name, "Candidates: what the encoder's proposals are taken for")
    section.figures = [_bars(context, found, titles, coupling) for coupling in COUPLINGS]
    section.tables = [_table(found, titles, sizes)]
    section.text = _text(found, first, titles)
    section.data = {
        which: {f"{c}, {rule}": of for (at, c, rule), of in found.items() if at == which}
        | {"first descents": first[which]}
        for which in titles
    }
    section.seconds = context.seconds
    return section


def _record(
    problem: Problem, prior: Prior, rule: str, coupling: Any, sizes: Sizes
) -> dict[str, Any]:
    """How many images take each candidate by iteration [T, 4], and in steps that count."""
    method = replace(RULES[rule], coupling=coupling, max_iterations=sizes.iterations)
    result = restore(problem.y, problem.operator, prior, problem.sigma, method=method, record=True)
    assert result.history is not None
    candidate = result.history.candidate
    kept = substantial(result.history.objective, candidate, SUBSTANTIAL)
    return {
        "counts": count_candidates(candidate),
        "substantial": count_candidates(kept),
        "iterations": result.iterations,
        "objective": result.objective,
    }


def _first(problem: Problem, prior: Prior) -> dict[str, Any]:
    """J1 at the ends of projected descents from the encoder's code of A^T y and from z = 0, [B]."""
    with torch.no_grad():
        code = prior.encode(problem.display)[0]
    ends = {}
    for name, z0 in (("z2", code), ("z3", torch.zeros_like(code))):
        method = JPMAP(n2=0, max_iterations=1)
        ends[name] = restore(
            problem.y, problem.operator, prior, problem.sigma, method=method, z0=z0
        ).objective
    return ends


def bars(counts: Tensor, images: int) -> tuple[list[str], Tensor]:
    """Shares of all images by bar: labels, and [number of bars, 4] with sums <= 1.

    A bar of several iterations is their mean; images that are finished take none of the candidates.

    Args:
        counts: [T, 4] of iterations 1 to T, as from ``count_candidates``.
        images: B.
    """
    labels, rows = [], []
    for first, last in BARS:
        if first > len(counts):
            break
        end = len(counts) if last is None else last
        part = counts[first - 1 : end].double()
        width = end - first + 1
        rows.append(part.sum(dim=0) / (width * images))
        one = first == last
        labels.append(str(first) if one else f"{first}+" if last is None else f"{first}–{last}")
    return labels, torch.stack(rows)


def _bars(
    context: Context,
    found: Found,
    titles: dict[str, str],
    coupling: str,
) -> FigureFile:
    """Stacked bars: a row a problem, a column a rule."""
    figure, axes = axes_grid(
        len(titles), len(RULES), width=3.7, height=2.05, sharex=True, sharey=True
    )
    longest: list[str] = []
    for row, which in zip(axes, titles, strict=True):
        for panel, rule in zip(row, RULES, strict=True):
            of = found[which, coupling, rule]
            labels, shares = bars(of["counts"], len(of["iterations"]))
            longest = max(longest, labels, key=len)
            places, bottom = range(len(labels)), torch.zeros(len(labels), dtype=torch.float64)
            for code, colour in enumerate(COLOURS):
                share = 100 * shares[:, code]
                panel.bar(
                    places, share, 0.86, bottom, color=colour, edgecolor="white", lw=0.6,
                    label=NAMES[code],
                )  # fmt: skip
                bottom = bottom + share
            panel.set_ylim(0, 100)
            panel.grid(visible=False, axis="x")
        row[0].set_ylabel(f"{titles[which].split(',')[0]}\nimages at work (%)")
    for panel, rule in zip(axes[0], RULES, strict=True):
        panel.set_title(rule, loc="left", fontsize=10)
    for panel in axes[-1]:
        panel.set_xticks(range(len(longest)), longest, fontsize=6.5)
        panel.set_xlabel("iteration")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return context.save(
        f"candidates_{coupling}",
        figure,
        f"Candidates taken by iteration, {coupling} coupling. A bar is as high as the share of "
        "images still at work (the mean over its iterations); its colours say which candidate "
        "they take.",
    )


def _table(found: Found, titles: dict[str, str], sizes: Sizes) -> Table:
    rows: list[list[Any]] = []
    for (which, coupling, rule), of in found.items():
        total, kept = of["counts"].sum(dim=0), of["substantial"].sum(dim=0)
        rows.append(
            [
                titles[which],
                coupling,
                rule,
                cell(total.sum() / len(of["iterations"])),
                *(percent(share) for share in (total / total.sum()).tolist()),
                *kept[:3].tolist(),
                cell(of["objective"].mean()),
            ]
        )
    columns = (
        "problem; coupling; rule; iterations an image; z1, %; z2, %; z3, %; none, %; "
        "substantial z1; substantial z2; substantial z3; mean J1 at the end"
    )
    return Table(
        "Candidates taken, all iterations together",
        columns.split("; "),
        rows,
        f"{sizes.images} images, the published start. Substantial steps lower J1 by more than "
        f"{SUBSTANTIAL:.2%} of it: where z2 and z3 descend to the same minimum, the last digits "
        "decide between them.",
    )


def _text(found: Found, first: dict[str, dict[str, Any]], titles: dict[str, str]) -> list[str]:
    exhaustive, published, default = RULES
    text = [
        "Iteration n has three candidates: z1 is the encoder's code of x_n, z2 a descent from z1, "
        "z3 a descent from z_n. Algorithm 2.2 computes all three and keeps the least J1; Algorithm "
        "2.3 takes the first that lowers J1, z1 in its first n1 iterations and z2 in its first n2. "
        "No candidate is taken unless J1 falls. Steps that lower J1 by more than "
        f"{SUBSTANTIAL:.2%} are called substantial."
    ]
    for which, title in titles.items():
        z2, z3 = first[which]["z2"], first[which]["z3"]
        lower, higher = 1 - share_within(z2, z3, SUBSTANTIAL), 1 - share_within(z3, z2, SUBSTANTIAL)
        once = found[which, "projected", exhaustive]
        slow = found[which, "alternating", exhaustive]
        again = once["substantial"][1:, :3].sum()
        kept = slow["substantial"].sum(dim=0)[:3].double()
        kept = kept / kept.sum().clamp_min(1)
        start = slow["counts"][0].double() / slow["counts"][0].sum()
        plain = found[which, "alternating", default]["counts"].sum(dim=0)
        ends = [found[which, "alternating", rule]["objective"].mean() for rule in RULES]
        text.append(
            f"{title}. Projected: one descent does it. The first iteration of Algorithm 2.2 keeps "
            f"z2 on {_share(once, 1)} and z3 on {_share(once, 2)} of the images, but rounding "
            f"decides between them where they meet in one minimum: z2 ends lower by more than "
            f"{SUBSTANTIAL:.2%} on {higher:.0%}, z3 on {lower:.0%}. Substantial steps in all "
            f"further iterations: {int(again)}, on {len(once['iterations'])} images. Alternating: "
            f"in the first iteration, where a descent still holds x at A^T y, the encoder's code "
            f"itself is kept on {start[0]:.0%} of the images, z2 on {start[1]:.0%}, z3 on "
            f"{start[2]:.0%}; of all substantial steps z1 makes {kept[0]:.0%}, z2 {kept[1]:.0%}, "
            f"z3 {kept[2]:.0%}. With n2 = 3 instead, z3 makes "
            f"{float(plain[2] / plain[:3].sum()):.0%} of all steps, and the mean J1 at the end is "
            f"{ends[2]:.1f} against {ends[0]:.1f} (exhaustive) and {ends[1]:.1f} (n2 = 50)."
        )
    return text


def _share(of: dict[str, Any], code: int) -> str:
    """Of the images, how many take a candidate in the first iteration."""
    return f"{float(of['counts'][0, code]) / len(of['iterations']):.0%}"
