"""README.md, docs and rules: blocks of Python run, commands exist, names have a place."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pages
import pytest
import typer
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.operators import registry

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*pages.pages(ROOT), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:jpmap-fast|make|pip) [^`\n]+)`")
RUNNABLE = ("restore", "info")
SLOW = "faces"  # a prior that takes seconds an image; Python blocks restore with it
README_LINES = 150
HEAVY = "photos-grey"  # a prior whose weights a checkout may do without


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Kind and content of the fenced blocks of a page, in order."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p)], ids=_name)
def test_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is read from top to bottom: a block may use what those before it made."""
    if "import deepinv" in page.read_text(encoding="utf-8"):
        pytest.importorskip("deepinv")
    used = any(HEAVY in content for _, content in _blocks(page))
    if used and HEAVY not in jf.available_priors():
        pytest.skip(f"needs the weights of {HEAVY}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))  # as it was after it
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for kind, content in _blocks(page):
        if kind == "python":
            exec(compile(content, _name(page), "exec"), namespace)
        elif kind == "sh":
            for line in content.splitlines():
                _check_command(shlex.split(line, comments=True))
        else:
            assert kind == "text", f"{_name(page)}: nobody checks a block of {kind}"


def _check_command(words: list[str]) -> None:
    """Parse a command line as its program would; run a quick restoration whose files are there."""
    program, *arguments = words
    if program == "make":
        assert _is_target(arguments[0])
    elif program == "pip":
        assert arguments[0] == "install"
        for extra in re.findall(r"\[(\w+)\]", " ".join(arguments)):
            text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
            assert re.search(rf"^{extra} = \[", text, re.MULTILINE), extra
    elif program == "python":
        script = (ROOT / arguments[0]).read_text(encoding="utf-8")
        for option in arguments[1:]:
            assert not option.startswith("--") or f'"{option}"' in script, option
    else:
        assert program == "jpmap-fast", program
        _check_own_command(*arguments)


def _check_own_command(name: str, *arguments: str) -> None:
    inputs = [word for word in arguments if Path(word).suffix or word.endswith("/")]
    outputs = {arguments[i + 1] for i, word in enumerate(arguments) if word == "--output"}
    absent = [word for word in inputs if word not in outputs and not Path(word).exists()]
    elsewhere = any("://" in word for word in arguments)
    if name in RUNNABLE and not absent and not elsewhere and SLOW not in arguments:
        result = CliRunner().invoke(app, [name, *arguments])
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        return
    for word in absent:  # what the parser asks for is that they exist
        Path(word).mkdir() if word.endswith("/") else Path(word).touch()
    command = _commands()[name]
    with command.make_context(name, list(arguments)) as context:
        assert context.params


def _commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    commands: dict[str, Any] = group.commands
    return commands


def _is_target(name: str) -> bool:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(rf"^{name}:", text, re.MULTILINE) is not None


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_named_in_the_text_exist(page: Path) -> None:
    for text in INLINE.findall(page.read_text(encoding="utf-8")):
        program, name, *_ = words = [word for word in text.split() if "=" not in word]
        if program == "jpmap-fast":  # often without its arguments
            assert name in {*_commands(), "COMMAND"}, text
        else:
            _check_command(words)


def test_a_command_that_has_gone_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in ("make nothing", "pip install .[nothing]", "python benchmarks/chart.py --nothing"):
        with pytest.raises(AssertionError):
            _check_command(shlex.split(line))
    with pytest.raises(KeyError):
        _check_command(["jpmap-fast", "nothing"])
    with pytest.raises(Exception, match="--nothing"):  # click's, wherever typer keeps it
        _check_command(["jpmap-fast", "train", "x.npz", "--output", "x", "--nothing"])


def _extension(name: str) -> Any:
    """A module of docs/extensions, which mkdocs loads by its path as well."""
    path = ROOT / "docs" / "extensions" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_has_them_all() -> None:
    page = (ROOT / "docs/api/commands.md").read_text(encoding="utf-8")
    shown = _extension("commands").on_page_markdown(page)
    for name, command in _commands().items():
        assert f"## {name}\n" in shown
        for parameter in command.params:
            assert parameter.opts[0] in shown or parameter.param_type_name == "argument"
    for name in registry.operator_names():
        assert f"| `{name}` | {registry.named_operator(name).formula} |" in shown
    assert "| `mask` or `missing` |" in shown and "| `kernel` | `boundary` (circular) |" in shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("<A u, v> = <u, A^T v>", "&lt;A u, v> = &lt;u, A^T v>"),
        ("steps: >= 1, a < b", "steps: &gt;= 1, a < b"),
        ("``<A u>`` and <b", "``<A u>`` and &lt;b"),
        ("    >>> x: <A> = 1", "    >>> x: <A> = 1"),
        ("    Example:", "    Examples:"),
    ],
)
def test_docstrings_become_markdown(line: str, shown: str) -> None:
    griffe = pytest.importorskip("griffe")
    module = griffe.Module("made_up", docstring=griffe.Docstring(line))
    module.docstring.value = line
    _extension("docstrings").Docstrings().on_object(obj=module)
    assert module.docstring.value == shown


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert "://" in link or (ROOT / link).exists(), link


def test_the_quick_start_shows_what_the_readme_shows() -> None:
    """One example in two places is one example."""
    shown = [
        [content for kind, content in _blocks(ROOT / page) if kind == "python"][:2]
        for page in ("README.md", "docs/quickstart.md")
    ]
    assert shown[0] == shown[1]
    assert jf.__version__


def test_the_map_of_the_house_names_what_is_there() -> None:
    text = (ROOT / "docs/developers.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    named = [name for row in rows for name in re.findall(r"`([\w/.]+(?:/|\.py))`", row)]
    assert len(rows) >= 10
    missing = [
        name
        for name in named
        if not (ROOT / "jpmap_fast" / name).exists() and not (ROOT / name).exists()
    ]
    assert not missing
