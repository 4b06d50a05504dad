"""The README: its tables come from results, its example runs."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def _script() -> ModuleType:
    path = ROOT / "benchmarks" / "readme_tables.py"
    spec = importlib.util.spec_from_file_location("readme_tables", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, list[str]]:
    """A README with one place for a table, and its results."""
    readme = tmp_path / "README.md"
    readme.write_text("before\n\n<!-- table: speed -->\nold\n<!-- end -->\n\nafter\n")
    table = {"columns": ["what", "ms", "n"], "rows": [["a|b", 1.23456, 1000], ["c", None, 12]]}
    (tmp_path / "speed.json").write_text(json.dumps({"table": table, "other": 1}))
    return readme, ["--readme", str(readme), "--results", str(tmp_path)]


def test_writes_the_table_and_nothing_else(project: tuple[Path, list[str]]) -> None:
    readme, options = project
    assert _script().main(options) == 0
    assert readme.read_text() == (
        "before\n\n<!-- table: speed -->\n"
        "| what | ms | n |\n| --- | ---: | ---: |\n| a\\|b | 1.235 | 1000 |\n| c | - | 12 |\n"
        "<!-- end -->\n\nafter\n"
    )


def test_check_tells_an_old_table_and_changes_nothing(
    project: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    readme, options = project
    script, before = _script(), readme.read_text()
    assert script.main([*options, "--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert readme.read_text() == before
    script.main(options)
    assert script.main([*options, "--check"]) == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("absent or speed", "| what |"),
        ("speed or nothing", "| what |"),
        ("absent or nothing", "<!-- end -->"),
        ("speed.part", "| of it |"),
        ("absent.part or speed.part", "| of it |"),
        ("speed.absent or nothing", "<!-- end -->"),
    ],
)
def test_the_first_table_measured_is_taken(
    project: tuple[Path, list[str]], names: str, expected: str
) -> None:
    readme, options = project
    readme.write_text(readme.read_text().replace("table: speed", f"table: {names}"))
    results = readme.parent / "speed.json"
    content = json.loads(results.read_text())
    content["tables"] = {"part": {"columns": ["of it"], "rows": [["x"]]}}
    results.write_text(json.dumps(content))
    script = _script()
    assert script.main(options) == 0
    assert f"<!-- table: {names} -->\n{expected}" in readme.read_text()
    assert "old" not in readme.read_text()
    assert script.main([*options, "--check"]) == 0


def test_a_missing_part_or_every_missing_file_is_named(
    project: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    readme, options = project
    before = readme.read_text()
    readme.write_text(before.replace("table: speed", "table: speed.part"))
    assert _script().main(options) == 2
    assert 'expected a member "tables" with "part"' in capsys.readouterr().err
    readme.write_text(before.replace("table: speed", "table: a or b"))
    assert _script().main(options) == 2
    message = capsys.readouterr().err
    assert "expected results in a.json" in message
    assert "expected results in b.json" in message


def test_a_note_follows_its_table() -> None:
    table = {"columns": ["a"], "rows": [["x"]], "note": "Means of 8."}
    assert _script().format_table(table) == "| a |\n| --- |\n| x |\n\nMeans of 8.\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected results in speed.json"),
        ({"rows": []}, 'expected a member "table"'),
        ({"table": {"columns": ["a", "b"], "rows": [["x"]]}}, "expected 2 cells"),
    ],
)
def test_missing_or_wrong_results_are_named(
    project: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
    content: object,
    message: str,
) -> None:
    readme, options = project
    results = readme.parent / "speed.json"
    if content is None:
        results.unlink()
    else:
        results.write_text(json.dumps(content))
    assert _script().main(options) == 2
    assert message in capsys.readouterr().err


def test_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first Python block is what a newcomer pastes: it must run as it stands."""
    block = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    exec(compile(block[1], "README.md", "exec"), namespace)
    assert "result" in namespace
