"""Single numbers and words of result files, found by a path that is written in a page.

A path is FILE / STEP / STEP ..., a step one of

    name            member of an object, or column of a row
    3               entry of a list, -1 the last
    a=b & c=d       the one row of a list, or of a table, in which a is b and c is d
    after WORDS     what follows these words in a text

The end is a number, or a text; ``as_number`` takes the one that a text begins with. FILE is
the name of a JSON file of benchmarks/results, or the path of a text file, such as a prior's card,
within the project.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

NUMBER = re.compile(r"\s*([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)")


def look_up(path: str, results: Path, project: Path) -> float | str:
    """The number or text at a path.

    Raises:
        ValueError: nothing is there, or more than one thing.
    """
    file, *steps = path.split(" / ")
    found = _read(file, results, project)
    for step in steps:
        try:
            found = _step(found, step)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: {step!r} is not there ({error})") from error
    if not isinstance(found, (int, float, str)) or isinstance(found, bool):
        raise ValueError(f"{path}: expected a number or a text, got {found!r}")
    return found


def as_number(found: float | str) -> float:
    """A number, or the one that a text begins with: "-4.41 dB [-4.63, -4.20]" is -4.41.

    Raises:
        ValueError: the text begins with something else.
    """
    if not isinstance(found, str):
        return float(found)
    match = NUMBER.match(found)
    if match is None:
        raise ValueError(f"expected a text that begins with a number, got {found[:40]!r}")
    return float(match[1].replace(",", ""))


def _read(file: str, results: Path, project: Path) -> Any:
    for name in (results / f"{file}.json", project / file):
        if name.is_file():
            text = name.read_text(encoding="utf-8")
            return json.loads(text) if name.suffix == ".json" else text
    raise ValueError(f"expected results in {file}.json or a file {file}, none found")


def _step(found: Any, step: str) -> Any:
    if step.startswith("after "):
        words = step.removeprefix("after ")
        position = found.index(words) + len(words)
        return found[position:]
    if "=" in step:
        return _row(found, dict(pair.split("=", 1) for pair in step.split(" & ")))
    return found[step] if isinstance(found, dict) else found[int(step)]


def _row(found: Any, wanted: dict[str, str]) -> dict[str, Any]:
    """The one row with these values."""
    if isinstance(found, dict):
        found = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
    rows = [row for row in found if all(str(row[key]) == value for key, value in wanted.items())]
    if len(rows) != 1:
        raise LookupError(f"expected one row, got {len(rows)}")
    row: dict[str, Any] = rows[0]
    return row
