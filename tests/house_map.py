"""The map of the package in CONTRIBUTING.md, from the floors and the modules' own first sentences.

``python tests/house_map.py`` writes it anew, ``tests/test_release.py`` notices when that is due.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from test_imports import FLOORS, PACKAGE

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
PLACE = re.compile(r"(?<=<!-- floors -->\n).*?(?=<!-- end -->)", re.DOTALL)


def purpose(room: str) -> str:
    """The first sentence of what a room says of itself."""
    path = PACKAGE / room
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()))[0]
    return sentence.replace("``", "`").replace("|", "\\|")


def table() -> str:
    """A row a room, from the highest floor to the lowest."""
    lines = ["| floor | in `jpmap_fast/` | what is there |", "| ---: | --- | --- |"]
    for number, rooms in zip(range(len(FLOORS), 0, -1), FLOORS, strict=True):
        for room in rooms:
            folder, module = PACKAGE / room, PACKAGE / f"{room}.py"
            if folder.is_dir() or module.is_file():
                name = f"{room}/" if folder.is_dir() else f"{room}.py"
                lines.append(f"| {number} | `{name}` | {purpose(room)} |")
    return "\n".join(lines) + "\n"


def renewed(page: str) -> str:
    """The page with the map as it is now."""
    assert PLACE.search(page), "no place for the map"
    return PLACE.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
