"""The work of ``jpmap-fast restore``: read, degrade if asked to, restore, write; file by file."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import Tensor
from tqdm.auto import tqdm

import jpmap_fast as jf
from jpmap_fast.algorithms import ALGORITHMS, Algorithm
from jpmap_fast.cli._common import one_line, pick_device
from jpmap_fast.cli._degradation import Degradation
from jpmap_fast.cli._journal import Entry, Journal
from jpmap_fast.cli._outputs import Targets, write_json
from jpmap_fast.cli._restore_options import OperatorName, RestoreOptions
from jpmap_fast.cli._sources import BATCH, Item, Source, check_vectors, sources
from jpmap_fast.data.writing import write_pictures
from jpmap_fast.metrics import psnr
from jpmap_fast.versions import versions

# Options that no result depends on.
_FREE = ("output", "device", "resume", "inputs")

Failures = list[tuple[str, str]]


def run(options: RestoreOptions, progress: bool) -> Failures:
    """Do what the options say; (name, reason) of every input that failed."""
    algorithm = _algorithm(options)
    device = pick_device(options.device)
    prior = jf.load_prior(options.prior, device=device)
    shape = tuple(prior.image_shape)
    if options.operator is OperatorName.compressed_sensing and not options.simulate:
        check_vectors(options.inputs)
    degradation = Degradation(options, shape)
    read_shape = shape if options.simulate else degradation.measurement_shape()
    found, rows = sources(
        options.inputs, read_shape, key=options.key, background=options.background
    )
    targets = None if rows else Targets(options.output, [s.file for s in found if s.file])
    if targets is not None and not options.resume:
        targets.check_inputs(options.inputs)
    degradation.check_sources(len(found), rows)
    job = _Job(options, algorithm, device, prior, degradation, targets)
    return job.run(found, progress)


@dataclass
class _Job:
    options: RestoreOptions
    algorithm: Algorithm
    device: torch.device
    prior: Any
    degradation: Degradation
    targets: Targets | None

    def run(self, found: list[Source], progress: bool) -> Failures:
        """Restore every source, a batch of images at a time."""
        begin = time.perf_counter()
        failures: Failures = []
        # Made with the first results: what is wrong with the options leaves nothing behind.
        journal = self._journal(found) if self.options.resume else None
        waiting: list[tuple[Source, list[Item]]] = []
        with tqdm(found, "restore", unit="file", disable=not progress) as bar:
            for source in bar:
                if journal is not None and journal.check_unchanged(source.name, source.stamp):
                    continue
                items = self._read(source, failures)
                if not items:
                    continue
                waiting.append((source, items))
                if sum(len(items) for _, items in waiting) >= BATCH:
                    journal = self._restore(waiting, journal)
                    waiting = []
        if waiting:
            journal = self._restore(waiting, journal)
        if journal is None:
            return failures or [(str(self.options.inputs[0]), "no images found")]
        return self._finish(journal, failures, time.perf_counter() - begin)

    def _journal(self, found: list[Source]) -> Journal:
        self.options.output.mkdir(parents=True, exist_ok=True)
        journal = Journal(self.options.output, self._settings(), self.options.resume)
        journal.check_inputs({source.name for source in found})
        return journal

    def _settings(self) -> dict[str, Any]:
        """All that results depend on, files by what is in them."""
        options = self.options
        kept = {
            field.name: _plain(getattr(options, field.name))
            for field in fields(options)
            if field.name not in _FREE
        }
        for name in ("mask", "matrix", "kernel", "prior"):
            value = getattr(options, name)
            if value is not None and Path(value).is_file():
                content = Path(value).read_bytes()
                kept[name] = f"{value}, sha256 {hashlib.sha256(content).hexdigest()}"
        return {**kept, "version": jf.__version__}

    def _read(self, source: Source, failures: Failures) -> list[Item]:
        """The images of a source; those of a file that cannot be had are noted and left out."""
        try:
            items = source.read()
            self.degradation.check_count(len(items) if source.count is None else source.count)
            if self.targets is not None:
                self._check_range(items)
            return items
        except (ValueError, TypeError, OSError) as error:
            if source.file is None:
                raise
            reason = one_line(error).removeprefix(f"{source.file.name}: ")
            failures.append((source.file.name, reason))
            return []

    def _check_range(self, items: list[Item]) -> None:
        """Raise ValueError where a file cannot hold measurements of images in [0, 1]."""
        y = torch.from_numpy(np.stack([item.values for item in items]))
        sigma = torch.full((len(items),), self.options.sigma / 255)
        operator = jf.Denoising() if self.options.simulate else self.degradation.operator(items)
        finite = torch.isfinite(y.flatten(1)).all(dim=1)
        bound = operator.bind(tuple(self.prior.image_shape), len(items))
        rows = finite.nonzero()[:, 0]
        bound.select(rows).check_range(y[rows], sigma[rows])

    def _restore(
        self, waiting: list[tuple[Source, list[Item]]], journal: Journal | None
    ) -> Journal:
        """Restore and write some sources whole."""
        items = [item for _, part in waiting for item in part]
        names = [item.name for item in items]
        images = torch.from_numpy(np.stack([item.values for item in items]))
        operator = self.degradation.operator(items)
        y = self.degradation.measure(images, items) if self.options.simulate else images
        result = jf.restore(
            y.to(self.device),
            operator.to(self.device),
            self.prior,
            self.options.sigma / 255,
            method=self.algorithm,
            generator=torch.Generator().manual_seed(self.options.seed),
        )
        lines = _lines(items, result, images if self.options.simulate else None)
        journal = journal or self._journal([])
        done, begin = [], 0
        for source, part in waiting:
            rows = slice(begin, begin + len(part))
            begin = rows.stop
            self._write(source, part, result.x[rows], lines[rows])
            done.append(Entry(source.name, source.stamp, lines[rows]))
        journal.results.append(_fields(result, names))
        if self.options.simulate:
            measured = {"y": y.numpy()}
            if self.options.missing is not None:
                measured["mask"] = operator.mask.numpy()  # type: ignore[attr-defined]
            journal.measured.append(measured)
        journal.add(done)
        return journal

    def _write(
        self, source: Source, items: list[Item], x: Tensor, lines: list[dict[str, Any]]
    ) -> None:
        """The picture file that answers a source, all of its pages or none."""
        if self.targets is None or source.file is None:
            return
        if all("failure" in line for line in lines):
            return
        target = self.targets.of(source.file, [item.stored for item in items])
        write_pictures(target, list(x), [item.stored for item in items])
        for line in lines:
            line["file"] = target.name

    def _finish(self, journal: Journal, failures: Failures, seconds: float) -> Failures:
        """Write everything and say so; (name, reason) of what failed."""
        output = self.options.output
        journal.results.write(output / "restored.npz", {})
        if self.options.simulate:
            journal.measured.write(output / "measured.npz", self.degradation.arrays())
        images = [line for entry in journal.done.values() for line in entry.images]
        failures += [(line["name"], line["failure"]) for line in images if "failure" in line]
        good = [line for line in images if "failure" not in line]
        means = {
            f"mean_{name}": sum(line[name] for line in good) / len(good)
            for name in ("psnr", "psnr_decoded")
            if good and name in good[0]
        }
        summary = {
            "restored": len(good),
            "converged": sum(line["converged"] for line in good),
            "failed": len(failures),
            "seconds": seconds,
            **means,
            "settings": {
                **{f.name: _plain(getattr(self.options, f.name)) for f in fields(self.options)},
                "sigma_unit": "1/255",
                "algorithm": repr(self.algorithm),
            },
            "versions": versions(),
            "images": images,
            "failures": [{"name": name, "reason": reason} for name, reason in failures],
        }
        write_json(output / "summary.json", summary)
        journal.finish()
        told = f"{len(good)} restored, {summary['converged']} converged, {len(failures)} failed"
        if means:
            told += f"; mean PSNR {means['mean_psnr']:.2f} dB"
            told += f" (G(z): {means['mean_psnr_decoded']:.2f} dB)"
        typer.echo(f"{told}; {seconds:.2f} s. Written to {output}")
        for line in images:
            for note in line.get("notes", ()):
                typer.echo(f"Note: {line['name']}: {note}", err=True)
        return failures


def _lines(items: list[Item], result: jf.Result, clean: Tensor | None) -> list[dict[str, Any]]:
    """What the summary says of each image."""
    quality = {}
    if clean is not None:
        for name, images in (("psnr", result.x), ("psnr_decoded", result.decoded)):
            quality[name] = psnr(images.cpu(), clean.to(images.dtype))
    finite = torch.isfinite(result.x.flatten(1)).all(dim=1).tolist()
    lines = []
    for i, item in enumerate(items):
        line: dict[str, Any] = {
            "name": item.name,
            "status": result.status[i],
            "converged": bool(result.converged[i]),
            "objective": _number(result.objective[i]),
            "iterations": int(result.iterations[i]),
            **{measure: _number(values[i]) for measure, values in quality.items()},
        }
        if item.notes:
            line["notes"] = list(item.notes)
        if not finite[i]:
            line["failure"] = result.status[i]
        lines.append(line)
    return lines


def _number(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None


def _fields(result: jf.Result, names: list[str]) -> dict[str, Any]:
    fields_ = ("x", "z", "decoded", "objective", "converged")
    arrays = {name: getattr(result, name).cpu().numpy() for name in fields_}
    # Of a fixed width, as rows are: names are cut in the middle of no letter.
    return {**arrays, "names": np.array(names, dtype="U255")}


def _algorithm(options: RestoreOptions) -> Algorithm:
    name = options.method
    if name not in ALGORITHMS:
        raise ValueError(f"--method: expected one of {', '.join(ALGORITHMS)}, got {name!r}")
    settings: dict[str, Any] = {}
    if options.starts is not None:
        settings["starts"] = options.starts
    if options.alpha is not None:
        settings["alpha"] = options.alpha
    return ALGORITHMS[name](**settings)


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
