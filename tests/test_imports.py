"""Imports run in one direction: a lower floor never knows a higher one, lazily or for types."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jpmap_fast

PACKAGE = Path(jpmap_fast.__file__).parent

# From top to bottom; rooms of one floor may know each other. A room is a module or a folder; a
# module that stands elsewhere than its folder is named with it, as in "deepinv/operator".
FLOORS: tuple[tuple[str, ...], ...] = (
    ("cli", "app", "fleet", "napari", "serve"),
    ("jobs",),
    ("experiments",),
    ("demo",),
    ("deepinv", "skimage"),
    ("_restore", "_restorer", "_fit_residuals", "sampling"),
    ("export",),
    ("_run",),
    ("_prepared", "_result"),
    ("algorithms",),
    ("solvers",),
    ("objective",),
    ("training",),
    ("priors", "denoisers"),
    ("_problems", "_noise_level"),
    ("operators",),
    ("_figures", "_metrics", "_masks", "data"),
    ("residuals", "_conjugate_gradient", "_made_of_weights"),
    ("kernels",),
    ("_checkpoint", "_timing", "_versions"),
    ("_validate", "_capture", "_kept", "_weights_file", "_working_set"),
    (
        "_arrays",
        "_files",
        "_foreign",
        "_hub",
        "_memory",
        "_messages",
        "_modules",
        "_per_image",
        "_surroundings",
    ),
)

# Of two rooms on their floors neither knows the other.
STRANGERS = {("priors", "operators"), ("denoisers", "operators")}

# The command is the one door to the experiments, which a wheel does not hold.
DOORS = {"cli/reproduce"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module as a path without its ending, and what is in it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules of the package that are imported anywhere in it, as paths."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            path = name.removeprefix("jpmap_fast.").replace(".", "/")
            if path != name.replace(".", "/"):
                yield path


def floor_of(path: str) -> int | None:
    """The floor of a module, or of the part of the package it is in; None where it has none."""
    while path:
        for number, rooms in enumerate(FLOORS):
            if path in rooms:
                return number
        path = path.rpartition("/")[0]
    return None


EDGES = [(name, path) for name, tree in modules() for path in imported(tree)]


def test_every_module_has_a_floor() -> None:
    # __init__ lists public names and has none; "__version__" and its like are no modules.
    homeless = {name for name, _ in modules() if name != "__init__" and floor_of(name) is None}
    assert not homeless, f"put them into FLOORS: {sorted(homeless)}"


def test_no_module_knows_a_higher_floor() -> None:
    found = []
    for name, path in EDGES:
        own, other = floor_of(name), floor_of(path)
        rooms = (name.partition("/")[0], path.partition("/")[0])
        if own is None or other is None:
            continue
        if other < own or rooms in STRANGERS:
            found.append(f"{name} imports {path}")
    assert not found, found


def test_operators_know_neither_priors_nor_objectives() -> None:
    above = ("priors", "denoisers", "objective", "solvers")
    found = {
        (name, path)
        for name, path in EDGES
        if name.startswith("operators") and path.startswith(above)
    }
    assert not found, found


def test_only_experiments_know_experiments() -> None:
    found = {
        name
        for name, path in EDGES
        if path.startswith("experiments") and not name.startswith("experiments")
    }
    assert found <= DOORS


def test_the_package_loads_nothing_that_restoring_does_not_need() -> None:
    code = "import sys, jpmap_fast; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    ).stdout.split()
    assert "jpmap_fast._restore" in loaded
    above = ("experiments", "demo", "cli", "jobs", "training", "deepinv", "skimage", "export")
    parts = (*above, "_problems")
    unwanted = {f"jpmap_fast.{part}" for part in parts}
    unwanted |= {"deepinv", "torchvision", "matplotlib", "torchmetrics", "typer", "jinja2", "PIL"}
    assert not unwanted & set(loaded)


def test_no_prior_and_no_denoiser_loads_the_compiler_of_torch() -> None:
    """Which takes seconds, and whose Triton ends a process that draws by Mesa's LLVM, as napari."""
    code = (
        "import sys, torch, jpmap_fast as jf\n"
        "for name in jf.available_priors(): jf.load_prior(name)\n"
        "for name in jf.available_denoisers(): jf.load_denoiser(name)\n"
        "jf.restore(torch.rand(1, 24, 24), jf.Denoising(), 'photos-grey', 'auto')\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    ).stdout.split()
    assert "jpmap_fast._restore" in loaded
    assert not {"torch._dynamo", "triton"} & set(loaded)


@pytest.mark.parametrize(
    "code, expected",
    [
        ("def f():\n    from jpmap_fast.cli import info", ["cli/info"]),
        ("if TYPE_CHECKING:\n    import jpmap_fast.experiments.speed", ["experiments/speed"]),
        ("import torch\nfrom jpmap_fast import kernels", ["kernels"]),
    ],
)
def test_lazy_imports_and_those_for_types_are_seen(code: str, expected: list[str]) -> None:
    assert list(imported(ast.parse(code))) == expected
