"""Restorations a second, milliseconds an image, and both against the published algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from jpmap_fast._problems import PAPER, Problem, make_problem
from jpmap_fast._restore import restore
from jpmap_fast._restorer import Restorer
from jpmap_fast._timing import clocked, timed
from jpmap_fast._versions import device_name
from jpmap_fast.algorithms import CSGM, JPMAP, Algorithm, MAPz
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.histories import cell, title_row
from jpmap_fast.experiments.methods import as_published
from jpmap_fast.experiments.section import FigureFile, Section, Table
from jpmap_fast.experiments.style import BLACK, CYCLE, MARKERS, axes_grid
from jpmap_fast.priors import Prior, load_prior

METHODS: dict[str, Algorithm] = {
    "JPMAP()": JPMAP(),
    "MAPz()": MAPz(),
    "CSGM(1)": CSGM(1),
    "CSGM(10)": CSGM(10),
}
BUNDLED = 500


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        batches: batch sizes, increasing.
        published_batch: images restored together by the published algorithm, besides one alone;
            in inpainting only, as a batch takes it as long as its slowest image.
        calls: of a ``Restorer`` of one image.
        repeats: timed runs at most, of which the median is taken.
        seconds: no further run is begun after so long.
        longest: sizes expected to take longer than this are left out.
        published: the algorithm compared with.
    """

    batches: tuple[int, ...]
    published_batch: int
    calls: int
    repeats: int = 5
    seconds: float = 0.2
    longest: float = 3.5
    published: Algorithm = as_published()


def run(context: Context, name: str, sizes: Sizes | None = None) -> Section:
    """The experiment; what it reports are times, which no test holds it to."""
    if sizes is None:
        quick = Sizes((1, 16, 256), published_batch=4, calls=200)
        sizes = quick if context.quick else Sizes((1, 16, 256, 4096), 32, 2000, longest=60.0)
    prior = load_prior("mnist", device=context.device)
    found: dict[str, dict[str, Any]] = {}
    for index, which in enumerate(PAPER):
        most = max(*sizes.batches, sizes.published_batch)
        clean = digits(min(most, BUNDLED)).repeat(-(-most // BUNDLED), 1, 1, 1)[:most]
        problem = make_problem(which, clean, context.generator(index), context.device)
        rates, given = {}, (problem, prior, sizes)
        for label, method in METHODS.items():
            rates[label] = context.step(f"{which} {label}", partial(throughput, method, *given))
        found[which] = {
            "title": problem.title,
            "throughput": rates,
            "latency": context.step(f"{which} latency", partial(_latency, context, *given)),
            "published": context.step(f"{which} published", partial(_published, *given)),
        }
    section = Section(name, "Speed")
    section.figures = [_figure(context, found)]
    section.tables = [_throughput_table(found, sizes), _latency_table(found), _against_table(found)]
    section.text = _text(found)
    section.data = found
    section.seconds = context.seconds
    return section


def throughput(method: Algorithm, problem: Problem, prior: Prior, sizes: Sizes) -> dict[str, Any]:
    """Seconds of ``restore`` by batch size; None for a size expected to take too long."""
    device = problem.y.device
    rows: list[dict[str, Any]] = []
    one = problem.first(1)
    restore(one.y, one.operator, prior, one.sigma, method=method)  # libraries set themselves up
    for batch in sizes.batches:
        row: dict[str, Any] = {"batch": batch, "seconds": None, "runs": 0}
        # No batch takes longer than its images one after the other in smaller batches.
        done = [r for r in rows if r["seconds"] is not None]
        if not done or done[-1]["seconds"] * batch / done[-1]["batch"] <= sizes.longest:
            part = problem.first(batch)
            call = partial(
                restore, part.y, part.operator, prior, part.sigma,
                method=method, generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            _, row["seconds"], row["runs"] = timed(call, device, sizes.repeats, sizes.seconds)
        rows.append(row)
    return {"rows": rows}


def _latency(context: Context, problem: Problem, prior: Prior, sizes: Sizes) -> dict[str, Any]:
    """Seconds of calls of a ``Restorer`` of one image, another digit at every call."""
    one = problem.first(1)
    generator = context.generator(20)
    images = digits(min(sizes.calls, BUNDLED)).split(1)
    operator = one.operator.to("cpu")
    ys = [operator.measure(x, one.sigma, generator=generator).to(context.device) for x in images]
    restorer = Restorer(one.operator, prior, one.sigma, batch_size=1)
    times = []
    for i in range(-min(20, sizes.calls), sizes.calls):
        _, seconds = clocked(partial(restorer, ys[i % len(ys)]), context.device)
        if i >= 0:
            times.append(seconds)
    return {"seconds": torch.tensor(times, dtype=torch.float64)}


def _published(problem: Problem, prior: Prior, sizes: Sizes) -> dict[str, Any]:
    """The published algorithm on one image and on a batch, and ``JPMAP()`` on the same images."""
    device, rows = problem.y.device, []
    for batch in (1, sizes.published_batch) if problem.name == "inpainting" else (1,):
        part = problem.first(batch)
        row: dict[str, Any] = {"batch": batch}
        for label, method in (("published", sizes.published), ("here", JPMAP())):
            call = partial(restore, part.y, part.operator, prior, part.sigma, method=method)
            result, row[f"seconds_{label}"], _ = timed(call, device, sizes.repeats, sizes.seconds)
            row[f"objective_{label}"] = result.objective
        rows.append(row)
    return {"rows": rows, "device": f"{device_name(device)}, torch {torch.__version__}"}


def _device(found: dict[str, dict[str, Any]]) -> str:
    """What the numbers were measured on, also where they come from an earlier run's steps."""
    name: str = next(iter(found.values()))["published"]["device"]
    return name


def _figure(context: Context, found: dict[str, dict[str, Any]]) -> FigureFile:
    """Restorations a second against batch size, log-log, one panel a problem."""
    figure, axes = axes_grid(1, len(found), width=3.7, height=3.1, sharey=True)
    for panel, values in zip(axes[0], found.values(), strict=True):
        for (label, of), colour, marker in zip(
            values["throughput"].items(), CYCLE, MARKERS, strict=False
        ):
            rows = [row for row in of["rows"] if row["seconds"] is not None]
            panel.plot(
                [row["batch"] for row in rows],
                [row["batch"] / row["seconds"] for row in rows],
                color=colour, marker=marker, ms=5.5, label=label,
            )  # fmt: skip
        rate = 1 / float(values["latency"]["seconds"].median())
        panel.plot(1, rate, "*", color=CYCLE[0], ms=11, mec="white", label="Restorer")
        rows = values["published"]["rows"]
        panel.plot(
            [row["batch"] for row in rows],
            [row["batch"] / row["seconds_published"] for row in rows],
            color=BLACK, marker="X", ms=6.5, ls="--", label="published (Adam, alternating)",
        )  # fmt: skip
        panel.set_xscale("log")
        panel.set_yscale("log")
        ticks = [row["batch"] for row in next(iter(values["throughput"].values()))["rows"]]
        panel.set_xticks(ticks, [f"{batch:,}" for batch in ticks])
        panel.set_xticks([], minor=True)
        panel.set_xlabel("batch size (images)")
    axes[0][0].set_ylabel("restorations a second")
    title_row(figure, axes[0], [values["title"] for values in found.values()])
    return context.save(
        "speed",
        figure,
        f"Restorations a second by batch size. {_device(found)}. Crosses: the published algorithm "
        "(alternating descent by Adam) as this package runs it, one image alone and in inpainting "
        "a batch; the star is a Restorer of one image, which has done all it can beforehand.",
    )


def _throughput_table(found: dict[str, dict[str, Any]], sizes: Sizes) -> Table:
    rows: list[list[Any]] = []
    for values in found.values():
        for label, of in values["throughput"].items():
            rates = [r["seconds"] and cell(r["batch"] / r["seconds"]) for r in of["rows"]]
            rows.append([values["title"], label, *rates])
    return Table(
        "Restorations a second",
        ["problem", "method", *(f"batch {batch}" for batch in sizes.batches)],
        rows,
        f"restore() on {_device(found)}: the median of up to {sizes.repeats} runs "
        f"after a warm-up, input and result on the device. Empty: expected to take more than "
        f"{sizes.longest:g} s a call, not run.",
    )


def _latency_table(found: dict[str, dict[str, Any]]) -> Table:
    levels = torch.tensor([0.5, 0.99, 1.0], dtype=torch.float64)
    rows: list[list[Any]] = [
        [of["title"], *map(cell, torch.quantile(1e3 * of["latency"]["seconds"], levels))]
        for of in found.values()
    ]
    calls = len(next(iter(found.values()))["latency"]["seconds"])
    return Table(
        "Latency of a Restorer of one image, ms",
        ["problem", "median", "p99", "longest"],
        rows,
        f"JPMAP() as the method; {calls} calls, another digit at each, on {_device(found)}.",
    )


def _against_table(found: dict[str, dict[str, Any]]) -> Table:
    rows: list[list[Any]] = []
    for values in found.values():
        for row in values["published"]["rows"]:
            theirs, mine = row["seconds_published"], row["seconds_here"]
            rows.append(
                [
                    values["title"],
                    row["batch"],
                    cell(1e3 * theirs / row["batch"]),
                    cell(1e3 * mine / row["batch"]),
                    cell(theirs / mine),
                    cell(row["objective_published"].double().mean()),
                    cell(row["objective_here"].double().mean()),
                ]
            )
    columns = (
        "problem; batch; published, ms an image; JPMAP(), ms an image; times faster; "
        "J1 published; J1 here"
    )
    return Table(
        "Against the published algorithm, the same inputs in the same run",
        columns.split("; "),
        rows,
        f"{_device(found)}. Published: alternating descent by Adam, n1 = 25, n2 = 50, as this "
        "package runs it (batched, per-image stopping). Means of J1 over the batch.",
    )


def _text(found: dict[str, dict[str, Any]]) -> list[str]:
    parts, speedups, lower, images = [], [], 0, 0
    for values in found.values():
        of = [r for r in values["throughput"]["JPMAP()"]["rows"] if r["seconds"] is not None]
        best = max(of, key=lambda row: row["batch"] / row["seconds"])
        median = 1e3 * float(values["latency"]["seconds"].median())
        parts.append(
            f"{values['title'].split(',')[0].lower()} {best['batch'] / best['seconds']:,.0f} a "
            f"second (batch {best['batch']}), {median:.2f} ms for one image"
        )
        rows = values["published"]["rows"]
        speedups += [row["seconds_published"] / row["seconds_here"] for row in rows]
        # The batch begins with the image that is restored alone.
        last = rows[-1]
        lower += int((last["objective_here"] <= 1.001 * last["objective_published"]).sum())
        images += len(last["objective_here"])
    return [
        f"On {_device(found)}, JPMAP() with projected Gauss-Newton restores: {'; '.join(parts)}.",
        "Against the published algorithm in this package's own, batched form on the same inputs it "
        f"is {min(speedups):,.0f} to {max(speedups):,.0f} times faster, and its J1 is as low or "
        f"lower (within 0.1%) on {lower} of {images} images. Where it is not, the two end in "
        "different local minima, which further starts are for.",
    ]
