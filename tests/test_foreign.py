"""Operators of other libraries find what translates them."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from jpmap_fast import _foreign


class Library(ModuleType):
    """Of one class of operators."""

    class Kind:
        """An operator of the library."""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setattr(_foreign, "_TRANSLATORS", {})
    _foreign.register_translator("made_up.library", "Kind", "made_up.translation")
    return Library("made_up.library")


def test_a_library_not_imported_has_no_operators(library: Library) -> None:
    assert _foreign.translator_of(library.Kind()) is None


def test_the_translator_of_an_operator_is_imported(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    translation = ModuleType("made_up.translation")
    monkeypatch.setitem(sys.modules, "made_up.library", library)
    monkeypatch.setitem(sys.modules, "made_up.translation", translation)
    assert _foreign.translator_of(type("Special", (library.Kind,), {})()) is translation
    assert _foreign.translator_of(object()) is None
    assert _foreign.translator_of(None) is None


@pytest.mark.parametrize("order", ["deepinv, jpmap_fast as jf", "jpmap_fast as jf, deepinv"])
def test_a_physics_is_taken_whoever_was_imported_first(order: str) -> None:
    pytest.importorskip("deepinv")
    code = (
        f"import {order}\n"
        "import sys, torch\n"
        "physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))\n"
        "assert 'jpmap_fast.deepinv' not in sys.modules\n"
        "y = torch.full((1, 1, 28, 28), 0.5)\n"
        "restorer = jf.Restorer(physics, 'mnist', sigma=None, batch_size=1)\n"
        "print(jf.restore(y, physics, 'mnist').path, len(restorer(y).x))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["1"], done.stderr
