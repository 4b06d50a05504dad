"""Write the measured tables and numbers of README.md and docs/ from benchmarks/results.

Between ``<!-- table: NAME -->`` and ``<!-- end -->`` stands the table of
``benchmarks/results/NAME.json``, a file with the member

    "table": {"columns": ["a", "b"], "rows": [["x", 1.5], ...], "note": "optional text"}

``NAME.PART`` is the member PART of the file's "tables". ``A or B`` stands for the first of them
that has been measured, and ``A or nothing`` leaves the place empty until A has. A whole number is
written as it is, any other with four significant digits, null as a dash.

Between ``<!-- value: PATH as FORMAT -->`` and ``<!-- end -->``, within a line, stands one number:
``looked_up`` says what a path is, FORMAT is Python's, such as ``.1f`` or ``,.0f``, with the word
``abs`` before it for a number without its sign; ``s`` writes a text, such as the device.

    python benchmarks/pages.py            # rewrite the pages
    python benchmarks/pages.py --check    # exit 1 if that would change one
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from looked_up import as_number, look_up

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(
    r"(?P<open><!-- table: (?P<names>[\w. -]+?) -->\n)(?P<body>.*?)(?P<close><!-- end -->)",
    re.DOTALL,
)
# Within one line: a comment that begins one would end the paragraph in Markdown. Without a bar,
# which would end a cell of a table.
VALUE = re.compile(
    r"(?P<open><!-- value: (?P<path>[^|\n]+?) as (?P<format>(?:abs )?[\w,.+%]+) -->)"
    r"(?P<body>[^<\n]*)(?P<close><!-- end -->)"
)
OPENING = re.compile(r"<!-- (?:table|value):")


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


def fill(text: str, results: Path, project: Path = ROOT) -> str:
    """The text with every table and number written anew.

    Raises:
        ValueError: one has no results, or they hold no such thing; a place is malformed.
    """

    def table(match: re.Match[str]) -> str:
        problems = []
        for name in match["names"].split(" or "):
            if name == "nothing":
                return match["open"] + match["close"]
            try:
                found = _read(results, name)
            except ValueError as error:
                problems.append(str(error))
            else:
                return match["open"] + format_table(found) + match["close"]
        raise ValueError("; ".join(problems))

    def value(match: re.Match[str]) -> str:
        found, style = look_up(match["path"], results, project), match["format"]
        if style == "s":
            shown = str(found)
        else:
            number = as_number(found)
            plain = style.removeprefix("abs ")
            shown = format(number if plain == style else abs(number), plain)
        return match["open"] + shown + match["close"]

    places = len(TABLE.findall(text)) + len(VALUE.findall(text))
    if places != len(OPENING.findall(text)):
        raise ValueError(
            "expected <!-- table: NAME --> on a line of its own, <!-- value: PATH as FORMAT --> "
            f"within a line, and <!-- end --> for each; {len(OPENING.findall(text))} begin and "
            f"{places} are whole"
        )
    for line in text.splitlines():
        if line.lstrip().startswith("<!-- value:"):
            raise ValueError(f"expected a word before the value, got the line {line.strip()!r}")
    return VALUE.sub(value, TABLE.sub(table, text))


def pages(project: Path) -> list[Path]:
    """README.md and the pages of docs, in order."""
    return [project / "README.md", *sorted((project / "docs").rglob("*.md"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check the pages; the exit status."""
    parser = argparse.ArgumentParser(description="Write tables and numbers of pages from results.")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if out of date")
    parser.add_argument("--project", type=Path, default=ROOT, help="folder of README.md and docs")
    parser.add_argument("--results", type=Path, help="by default benchmarks/results of the project")
    options = parser.parse_args(arguments)
    results = options.results or options.project / "benchmarks" / "results"
    old = []
    for page in pages(options.project):
        before = page.read_text(encoding="utf-8")
        try:
            after = fill(before, results, options.project)
        except ValueError as error:
            print(f"Error: {page.name}: {error}", file=sys.stderr)
            return 2
        if after != before:
            old.append(page.name)
            if not options.check:
                page.write_text(after, encoding="utf-8")
    if options.check and old:
        print(
            f"{', '.join(old)}: out of date; run python benchmarks/pages.py",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
