"""What a release says of itself: one version, the Pythons it is for, licences, the map."""

from __future__ import annotations

import ast
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import house_map
import pytest

import jpmap_fast as jf

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEADING = re.compile(r"^## \[?([^\]\s]+)\]?", re.MULTILINE)
PYTHON = "Programming Language :: Python :: 3."


def test_the_version_is_that_of_pyproject() -> None:
    stated = PROJECT["project"]["version"]
    assert jf.__version__ == version("jpmap-fast") == stated, "pip install -e . again?"
    # Nowhere else, where it could be forgotten.
    for name in ("CMakeLists.txt", "jpmap_fast/__init__.py", "mkdocs.yml"):
        assert f'"{stated}"' not in (ROOT / name).read_text(encoding="utf-8"), name


def test_the_changelog_begins_with_this_version_or_what_comes_after_it() -> None:
    first, *others = HEADING.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    released = others if first == "Unreleased" else [first, *others]
    assert not released or released[0] == PROJECT["project"]["version"]


def test_wheels_are_made_for_the_pythons_that_are_named() -> None:
    stated = [
        line.removeprefix(PYTHON)
        for line in PROJECT["project"]["classifiers"]
        if line.startswith(PYTHON)
    ]
    assert PROJECT["project"]["requires-python"] == f">=3.{stated[0]}"
    # And perhaps for the next one, until its wheel has been tried.
    made = [line.removesuffix("-*") for line in PROJECT["tool"]["cibuildwheel"]["build"]]
    named = [f"cp3{minor}" for minor in stated]
    assert made[: len(named)] == named and made[len(named) :] in ([], [f"cp3{int(stated[-1]) + 1}"])
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{stated[0]}"
    for page in ("README.md", "CONTRIBUTING.md", "docs/quickstart.md"):
        assert f"Python 3.{stated[0]} or newer" in (ROOT / page).read_text(encoding="utf-8"), page


def test_every_source_is_of_the_oldest_python() -> None:
    minor = int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    for folder in ("jpmap_fast", "tests", "benchmarks", ".ci"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, minor))


def test_every_licence_of_the_wheel_is_named_and_has_its_text() -> None:
    stated = tomllib.loads((ROOT / "REUSE.toml").read_text(encoding="utf-8"))["annotations"]
    used = {one["SPDX-License-Identifier"] for one in stated}
    assert set(PROJECT["project"]["license"].split(" AND ")) == used
    assert {path.stem for path in (ROOT / "LICENSES").glob("*.txt")} == used
    assert (ROOT / "LICENSES/MIT.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_map_of_the_floors_is_that_of_the_package() -> None:
    page = house_map.PAGE.read_text(encoding="utf-8")
    assert house_map.renewed(page) == page, "run: python tests/house_map.py"


def test_folders_and_files_that_the_house_rules_name_are_there() -> None:
    within = ("", "jpmap_fast", "csrc", "tests", "benchmarks", ".ci")
    for page in ("CONTRIBUTING.md", "SECURITY.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|\w+\.(?:cpp|md|py|toml|txt))`", text))
        assert len(named) >= 5
        gone = [name for name in named if not any((ROOT / top / name).exists() for top in within)]
        assert set(gone) <= {"dist/"}, f"{page}: {gone}"  # which a release makes
