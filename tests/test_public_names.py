"""What is public has a docstring, a page, and a path without a private part."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import jpmap_fast

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs/api").glob("*.md"))

# Those whose names are all for users.
PUBLIC = (
    "",
    ".data",
    ".denoisers",
    ".deepinv",
    ".fleet",
    ".jobs",
    ".operators.registry",
    ".priors",
    ".skimage",
    ".training",
)
DOCUMENTED = sorted(
    target
    for page in PAGES
    for target in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
)


def test_modules_beside_the_packages_are_private() -> None:
    found = [found.name for found in pkgutil.iter_modules(jpmap_fast.__path__) if not found.ispkg]
    assert found
    public = [name for name in found if not name.startswith("_")]
    assert not public, f"a leading underscore, or a place in a package: {public}"


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_a_docstring_of_its_own(module: str) -> None:
    package = importlib.import_module(f"jpmap_fast{module}")
    values = {name: getattr(package, name) for name in package.__all__}
    bare = [name for name, value in values.items() if not vars(value).get("__doc__", value.__doc__)]
    assert not bare


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_a_page(module: str) -> None:
    listed = {target.rpartition(".")[2] for target in DOCUMENTED}
    names = set(importlib.import_module(f"jpmap_fast{module}").__all__)
    assert names <= listed, f"no place in docs/api: {sorted(names - listed)}"


@pytest.mark.parametrize("target", DOCUMENTED)
def test_what_has_a_page_is_public(target: str) -> None:
    package, _, name = target.rpartition(".")
    assert package.removeprefix("jpmap_fast") in PUBLIC
    module = importlib.import_module(package)
    assert name in module.__all__, f"{name} is not in the __all__ of {package}"
    assert not inspect.ismodule(getattr(module, name))


@pytest.mark.parametrize("module", PUBLIC)
def test_no_public_name_is_that_of_a_module(module: str) -> None:
    """Whoever reads the sources, as the pages are made, would take it for the module."""
    package = importlib.import_module(f"jpmap_fast{module}")
    modules = {found.name for found in pkgutil.iter_modules(getattr(package, "__path__", []))}
    assert not modules & set(package.__all__)


def test_nothing_has_two_pages() -> None:
    assert len(set(DOCUMENTED)) == len(DOCUMENTED)
