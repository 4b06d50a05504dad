"""Write the tables of README.md from the JSON files of benchmarks/results.

Between ``<!-- table: NAME -->`` and ``<!-- end -->`` stands the table of
``benchmarks/results/NAME.json``, a file with the member

    "table": {"columns": ["a", "b"], "rows": [["x", 1.5], ...], "note": "optional text"}

``NAME.PART`` is the member PART of the file's "tables". ``A or B`` stands for the first of them
that has been measured, and ``A or nothing`` leaves the place empty until A has.

A whole number is written as it is, any other with four significant digits, null as a dash.

    python benchmarks/readme_tables.py            # rewrite README.md
    python benchmarks/readme_tables.py --check    # exit 1 if that would change it
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(
    r"(?P<open><!-- table: (?P<names>[\w. -]+?) -->\n)(?P<body>.*?)(?P<close><!-- end -->)",
    re.DOTALL,
)


def format_cell(value: Any) -> str:
    """One value as a cell of a Markdown table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def format_table(table: dict[str, Any]) -> str:
    """A Markdown table; columns that hold numbers alone are aligned to the right.

    Raises:
        ValueError: a row does not fit the columns.
    """
    columns, rows = table["columns"], table["rows"]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"expected {len(columns)} cells for {columns}, got {row}")
    rules = []
    for index in range(len(columns)):
        cells = [row[index] for row in rows]
        numeric = bool(cells) and all(isinstance(c, (int, float, type(None))) for c in cells)
        rules.append("---:" if numeric else "---")
    lines = [[str(column) for column in columns], rules]
    lines += [[format_cell(cell) for cell in row] for row in rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    note = table.get("note")
    return f"{text}\n{note}\n" if note else text


def _read(results: Path, name: str) -> dict[str, Any]:
    """The table NAME or NAME.PART.

    Raises:
        ValueError: it has not been measured.
    """
    stem, _, part = name.partition(".")
    path = results / f"{stem}.json"
    if not path.is_file():
        raise ValueError(f"table {name}: expected results in {path.name}, none found")
    content = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Any] | None = (
        content.get("tables", {}).get(part) if part else content.get("table")
    )
    if found is None:
        member = f'"tables" with "{part}"' if part else '"table"'
        raise ValueError(f"{path.name}: expected a member {member}")
    return found


def fill(text: str, results: Path) -> str:
    """The text with every table written anew.

    Raises:
        ValueError: a table has no results, or they hold no table.
    """

    def replace(match: re.Match[str]) -> str:
        problems = []
        for name in match["names"].split(" or "):
            if name == "nothing":
                return match["open"] + match["close"]
            try:
                table = _read(results, name)
            except ValueError as error:
                problems.append(str(error))
            else:
                return match["open"] + format_table(table) + match["close"]
        raise ValueError("; ".join(problems))

    return PLACE.sub(replace, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check the README; the exit status."""
    parser = argparse.ArgumentParser(description="Write the README's tables from results.")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if out of date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    before = options.readme.read_text(encoding="utf-8")
    try:
        after = fill(before, options.results)
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    if options.check:
        if after != before:
            print(
                f"{options.readme.name}: tables are out of date; run "
                "python benchmarks/readme_tables.py",
                file=sys.stderr,
            )
        return int(after != before)
    options.readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
