"""Runs experiments one after another and keeps what is finished."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from jpmap_fast._files import write_json
from jpmap_fast._versions import device_name, versions
from jpmap_fast.experiments.context import Context, Settings
from jpmap_fast.experiments.questions import answers
from jpmap_fast.experiments.registry import EXPERIMENTS, runner, selected
from jpmap_fast.experiments.report import write_report
from jpmap_fast.experiments.section import Section
from jpmap_fast.experiments.style import styled

_EXTRA = ("matplotlib", "torchmetrics", "jinja2", "deepinv")

# What the results of two runs in one folder must share.
_SIGNATURE = ("quick", "device", "seed", "images", "faces")


def reproduce(
    names: Sequence[str],
    output: str | Path,
    settings: Settings,
    *,
    command: str = "",
    progress: bool = False,
) -> Path:
    """Do experiments, or what an interrupted run left of them, and write the report.

    ``output``/NAME holds NAME.json and the figures of an experiment as PNG and SVG;
    ``output``/report.html shows everything that the folder holds.

    Args:
        names: experiments, or "all".
        output: folder; a run of other settings in it is refused.
        settings: size, device, seed and images.
        command: shown in the report.
        progress: show a progress bar.

    Returns:
        The path of the report.

    Raises:
        ValueError: an unknown name, or a folder with a run of other settings.
        ImportError: something of the extra ``experiments`` is not installed.
        OSError: the folder cannot be written.
    """
    wanted = selected(names)
    _require_extra()
    folder = Path(output)
    _claim(folder, settings)
    with tqdm(wanted, unit="experiment", disable=not progress) as bar:
        for name in bar:
            bar.set_description(name)
            _one(name, folder / name, settings, partial(_say, bar, name))
    sections = finished(folder)
    document = {
        "command": command,
        "settings": asdict(settings),
        "versions": {**versions(), "device": device_name(settings.device)},
        "answers": answers(sections),
    }
    write_json(folder / "report.json", document, indent=1)
    return write_report(folder, sections, document)


def finished(folder: Path) -> dict[str, Section]:
    """The experiments that are done, by name, in the order of the report."""
    found = {}
    for name in EXPERIMENTS:
        path = folder / name / f"{name}.json"
        if path.is_file():
            found[name] = Section.from_json(json.loads(path.read_text(encoding="utf-8")))
    return found


def _say(bar: Any, name: str, step: str) -> None:
    bar.set_description(f"{name}: {step}")


def _require_extra() -> None:
    """Raise before any work if a package that the report will need is missing.

    Raises:
        ImportError: the extra ``experiments`` is not, or not all, installed.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"reproduce needs {', '.join(missing)}; install the extra: "
            "pip install 'jpmap_fast[experiments]'"
        )


def _one(name: str, folder: Path, settings: Settings, say: Callable[[str], None]) -> None:
    path = folder / f"{name}.json"
    if path.is_file():
        return
    context = Context(settings, folder, say)
    with styled():
        section = runner(name)(context, name)
    section.seconds = context.seconds
    write_json(path, section.as_json(), indent=1)


def _claim(folder: Path, settings: Settings) -> None:
    """Make the folder this run's, or see that it is.

    Raises:
        ValueError: it holds a run of other settings.
    """
    from jpmap_fast import __version__

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    mine = {"version": __version__, **{name: getattr(settings, name) for name in _SIGNATURE}}
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in mine if theirs.get(name) != mine[name]]
        if other:
            raise ValueError(
                f"{folder}: expected a run of the same settings to continue, found "
                + ", ".join(f"{name} = {theirs.get(name)!r}, not {mine[name]!r}" for name in other)
                + "; choose another --output or remove the folder"
            )
    write_json(path, mine, indent=1)
