"""A setting is declared once, a method is one class and one line in ALGORITHMS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import contract_builders as builders
import contract_classes as classes
import pytest
import torch
from problems import cases, small_mlp
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast._validate import positive
from jpmap_fast.algorithms import ALGORITHMS, Algorithm, Estimate, PixelSpace, Problem
from jpmap_fast.algorithms.settings import at_least, one_of, positive_numbers, precision, setting
from jpmap_fast.cli import app


@dataclass(frozen=True, eq=False)
class _Shrunk(PixelSpace):
    """x = factor A^T y / (1 + weight), with a setting of every kind."""

    weight: Any = setting(None, positive_numbers, per_image=True, of_problem=precision)
    level: Any = setting(None, positive_numbers, per_image=True)
    factor: float = setting(1.0, positive)
    rule: str = setting("plain", one_of("plain", "other"))
    starts: int | None = setting(None, at_least(1), of_prior=3)

    def estimate(self, problem: Problem) -> Estimate:
        x = self.factor * problem.operator.A_adjoint(problem.y)
        x = x / (1 + self.weight.reshape(-1, 1, 1, 1))
        ones = torch.ones(problem.batch, dtype=torch.int64)
        return Estimate(x, ones, ones == 1, torch.zeros_like(problem.sigma))


@dataclass(frozen=True)
class _Plain(PixelSpace):
    """x = factor A^T y, with nothing declared."""

    factor: float = 1.0

    def estimate(self, problem: Problem) -> Estimate:
        x = self.factor * problem.operator.A_adjoint(problem.y)
        ones = torch.ones(problem.batch, dtype=torch.int64)
        return Estimate(x, ones, ones == 1, torch.zeros_like(problem.sigma))


def restored(method: str | Algorithm, batch: int = 4) -> jf.Result:
    """The denoising problem by a method."""
    case = cases(batch)[0]
    return jf.restore(case.y, case.operator, small_mlp(), case.sigma, method=method)


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        ({"weight": 0}, ValueError, r"_Shrunk: weight: expected finite values > 0, got 0\.0"),
        ({"factor": -1}, ValueError, r"_Shrunk: factor: expected a finite number > 0, got -1"),
        ({"factor": None}, TypeError, r"_Shrunk: factor: expected a number, got None"),
        ({"rule": "none"}, ValueError, r"_Shrunk: rule: expected one of 'plain', 'other'"),
        ({"starts": 0}, ValueError, r"_Shrunk: starts: expected at least 1, got 0"),
        ({"starts": 1.5}, TypeError, r"_Shrunk: starts: expected an integer, got 1\.5"),
    ],
)
def test_a_declaration_checks(bad, error, text):
    with pytest.raises(error, match=text):
        _Shrunk(**bad)
    with pytest.raises(error, match=text):
        replace(_Shrunk(), **bad)


def test_a_declaration_says_who_chooses():
    method = _Shrunk()
    assert method.image_settings == ("weight", "level")
    assert method.prior_settings == {"starts": 3} and method.number_of_starts == 3
    assert replace(method, starts=5).number_of_starts == 5
    prior = small_mlp()
    images = restored(method).x
    alike = restored(_Shrunk(weight=prior.gamma**-2)).x
    assert torch.equal(images, alike)
    weights = [1.0, 2.0, 3.0, 4.0]
    several = restored(_Shrunk(weight=weights)).x
    for image, weight in enumerate(weights):
        assert torch.equal(several[image], restored(_Shrunk(weight=weight)).x[image])


def test_a_prior_chooses_where_nothing_is_said():
    prior = small_mlp()
    prior.restoration = {"starts": 4, "n2": 1}
    case = cases(2)[0]
    method = jf.JPMAP()
    bound = method.bind(prepare(case.y, case.operator, prior, case.sigma).problem)
    assert isinstance(bound, jf.JPMAP)
    assert (bound.starts, bound.n2, bound.number_of_starts) == (4, 1, 4)
    assert bound.beta.tolist() == pytest.approx([prior.gamma**-2] * 2)


def test_a_method_that_declares_nothing_works():
    plain = _Plain(0.5)
    assert plain.image_settings == () and plain.prior_settings == {}
    assert plain.number_of_starts == 1 and plain.solver is None
    assert torch.equal(restored(plain).x, 0.5 * restored(_Plain()).x)


def test_restarts_are_starts():
    with pytest.warns(DeprecationWarning, match="CSGM: restarts is called starts"):
        former = jf.CSGM(restarts=3)
    assert former == jf.CSGM(starts=3) and former.number_of_starts == 3
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="starts: expected at"):
        jf.CSGM(restarts=0)


def test_a_registered_method_is_known_everywhere(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "shrunk", _Shrunk)
    assert torch.equal(restored("shrunk").x, restored(_Shrunk()).x)
    with pytest.raises(ValueError, match="'shrunk'"):
        restored("unknown")
    told = CliRunner().invoke(app, ["info"])
    assert told.exit_code == 0 and "shrunk" in told.stdout and "_Shrunk" in told.stdout
    # The contract tests take their methods from there, and it needs no line to be made.
    assert _Shrunk in classes.method_classes()
    assert "_Shrunk" in builders.known_methods()
    assert set(builders.variants(_Shrunk, builders.arguments(_Shrunk))) >= {"", "4 starts"}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_pages_know_every_method(name):
    docs = Path(__file__).parent.parent / "docs"
    kind = ALGORITHMS[name].__name__
    assert f"::: jpmap_fast.{kind}" in (docs / "api/methods.md").read_text(encoding="utf-8")
    assert f'| `"{name}"` | `{kind}(' in (docs / "how/algorithms.md").read_text(encoding="utf-8")
