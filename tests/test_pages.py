"""Tables and numbers of the pages come from results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, list[str]]:
    """A README with one place for a table, and its results."""
    readme = tmp_path / "README.md"
    readme.write_text("before\n\n<!-- table: speed -->\nold\n<!-- end -->\n\nafter\n")
    table = {"columns": ["what", "ms", "n"], "rows": [["a|b", 1.23456, 1000], ["c", None, 12]]}
    (tmp_path / "speed.json").write_text(json.dumps({"table": table, "other": 1}))
    return readme, ["--project", str(tmp_path), "--results", str(tmp_path)]


def test_writes_the_table_and_nothing_else(project: tuple[Path, list[str]]) -> None:
    readme, options = project
    assert pages.main(options) == 0
    assert readme.read_text() == (
        "before\n\n<!-- table: speed -->\n"
        "| what | ms | n |\n| --- | ---: | ---: |\n| a\\|b | 1.235 | 1000 |\n| c | - | 12 |\n"
        "<!-- end -->\n\nafter\n"
    )


def test_check_tells_an_old_table_and_changes_nothing(
    project: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    readme, options = project
    before = readme.read_text()
    assert pages.main([*options, "--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert readme.read_text() == before
    pages.main(options)
    assert pages.main([*options, "--check"]) == 0


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
    assert pages.main(options) == 0
    assert f"<!-- table: {names} -->\n{expected}" in readme.read_text()
    assert "old" not in readme.read_text()
    assert pages.main([*options, "--check"]) == 0


def test_a_missing_part_or_every_missing_file_is_named(
    project: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    readme, options = project
    before = readme.read_text()
    readme.write_text(before.replace("table: speed", "table: speed.part"))
    assert pages.main(options) == 2
    assert 'expected a member "tables" with "part"' in capsys.readouterr().err
    readme.write_text(before.replace("table: speed", "table: a or b"))
    assert pages.main(options) == 2
    message = capsys.readouterr().err
    assert "expected results in a.json" in message
    assert "expected results in b.json" in message


def test_a_note_follows_its_table() -> None:
    table = {"columns": ["a"], "rows": [["x"]], "note": "Means of 8."}
    assert pages.format_table(table) == "| a |\n| --- |\n| x |\n\nMeans of 8.\n"


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
    assert pages.main(options) == 2
    assert message in capsys.readouterr().err


def _value(project: tuple[Path, list[str]], path: str, style: str = ".2f") -> str:
    """What stands in the place of a value, "" where it was refused."""
    readme, options = project
    readme.write_text(f"It is <!-- value: {path} as {style} -->old<!-- end --> long.\n")
    if pages.main(options):
        return ""
    assert pages.main([*options, "--check"]) == 0
    return re.sub("<!--.*?-->", "", readme.read_text())


@pytest.mark.parametrize(
    ("path", "style", "shown"),
    [
        ("found / rows / 1 / ms", ".1f", "2.5"),
        ("found / rows / -1 / ms", ".1f", "2.5"),
        ("found / rows / name=a & batch=4 / ms", ".3f", "1.250"),
        ("found / table / what=c / PSNR, dB", ".1f", "20.5"),
        ("found / text / after inpainting: / after ten starts", "+.1f", "+0.3"),
        ("found / text / after inpainting:", "abs .2f", "4.41"),
        ("found / large", ",.0f", "1,234,567"),
        ("found / device", "s", "CPU, 2 threads"),
        ("cards/mine.md / after digits:", ".2f", "20.53"),
    ],
)
def test_a_number_is_found_by_its_path(
    project: tuple[Path, list[str]], path: str, style: str, shown: str
) -> None:
    folder = project[0].parent
    rows = [{"name": "a", "batch": 4, "ms": 1.25}, {"name": "a", "batch": 8, "ms": 2.5}]
    text = "denoising: +1.4 dB; inpainting: -4.41 dB [-5, -4], ten starts +0.34 dB"
    table = {"columns": ["what", "PSNR, dB"], "rows": [["b", "1"], ["c", "20.52 [20.1, 21]"]]}
    found = {"rows": rows, "text": text, "table": table, "large": "1,234,567"}
    (folder / "found.json").write_text(json.dumps({**found, "device": "CPU, 2 threads"}))
    (folder / "cards").mkdir()
    (folder / "cards" / "mine.md").write_text("PSNR on the digits: 20.53 dB")
    assert _value(project, path, style) == f"It is {shown} long.\n"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent / a", "expected results in absent.json"),
        ("found / b", "'b' is not there"),
        ("found / rows / name=a", "expected one row, got 2"),
        ("found / rows / name=b", "expected one row, got 0"),
        ("found / rows", "expected a number or a text"),
        ("found / a", "begins with a number, got 'fast'"),
        ("found / a / after slow", "is not there"),
    ],
)
def test_a_number_that_is_not_there_is_named(
    project: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
    path: str,
    message: str,
) -> None:
    content = {"a": "fast", "rows": [{"name": "a"}, {"name": "a"}]}
    (project[0].parent / "found.json").write_text(json.dumps(content))
    assert _value(project, path) == ""
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "It is <!-- value: speed / other -->1<!-- end -->.",
        "It is <!-- value: speed / other as d -->1.",
        "It is <!-- value: speed / other as d -->1\n<!-- end -->.",
        "| a cell <!-- value: speed / a|b as d -->1<!-- end --> |",
        "<!-- table: speed --> <!-- end -->",
        "<!-- value: speed / other as .0f -->1<!-- end --> begins a line.",
    ],
)
def test_a_malformed_place_is_refused(
    project: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """It would stand on the page with what was true once, or break its paragraph."""
    readme, options = project
    readme.write_text(text)
    assert pages.main([*options, "--check"]) == 2
    assert "README.md: expected" in capsys.readouterr().err


def test_every_page_is_filled(project: tuple[Path, list[str]]) -> None:
    readme, options = project
    guide = readme.parent / "docs" / "guides" / "one.md"
    guide.parent.mkdir(parents=True)
    guide.write_text("One of <!-- value: speed / other as .0f -->0<!-- end -->.")
    assert pages.main([*options, "--check"]) == 1
    assert pages.main(options) == 0
    assert "-->1<!--" in guide.read_text()
