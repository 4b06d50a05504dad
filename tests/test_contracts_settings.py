"""Promises for every method: settings of each image, codes to begin from, precision, starts."""

from __future__ import annotations

from dataclasses import replace

import contract_builders as builders
import contract_classes as classes
import numpy as np
import pytest
import torch
from contract_checks import (
    QUICK,
    Problem,
    Situation,
    differences,
    problem,
    rows,
    situations,
    unrecorded,
)
from contract_data import BATCH, LATENT
from contract_pairs import USUAL_PRIOR, prior_for

import jpmap_fast as jf
from jpmap_fast.priors.protocol import has_codes

METHODS = builders.methods()
PLAIN = {None, *(kind.__name__ for kind in classes.method_classes())}
EVERY_METHOD = pytest.mark.parametrize("name", [found.name for found in METHODS])
WITH_CODES = pytest.mark.parametrize(
    "name", [found.name for found in METHODS if found().uses_codes]
)
WITHOUT_CODES = pytest.mark.parametrize(
    "name", [found.name for found in METHODS if not found().uses_codes]
)


def image_settings() -> list[tuple[str, str]]:
    """A method and one of its settings that may differ from image to image."""
    return [
        (found.name, setting)
        for found in METHODS
        for setting in {*found().image_settings, *builders.image_fields(type(found()))}
    ]


def method(name: str) -> jf.algorithms.Algorithm:
    """The method of a name."""
    return builders.named(METHODS, name)()


def problem_of(name: str) -> Problem:
    """One with a prior that the method of a name is for."""
    return problem(prior=prior_for(type(method(name))))


VALUES = [20.0, 45.0, 80.0, 150.0]


@pytest.mark.parametrize(("name", "setting"), image_settings())
def test_a_setting_of_each_image_is_the_setting_of_that_image_alone(name, setting):
    p, plain = problem_of(name), method(name)
    several = replace(plain, **{setting: torch.tensor(VALUES, dtype=torch.float64)})
    whole = p.restore(method=several)
    for image in (0, 3):
        one = replace(plain, **{setting: VALUES[image]})
        alone = p.only([image]).restore(method=one)
        assert not differences(rows(alone, 0), rows(whole, image))
    y = p.y.clone()
    y[1].view(-1)[3] = torch.nan
    beside = p.restore(y=y, method=several, chunk_size=2)
    assert not differences(rows(beside, [0, 2, 3]), rows(whole, [0, 2, 3]))
    assert not bool(beside.converged[1])


# What a setting is made of is the method's to know, whatever its variant.
@pytest.mark.parametrize(("name", "setting"), [s for s in image_settings() if s[0] in PLAIN])
def test_a_setting_of_each_image_comes_in_every_form(name, setting):
    p = problem_of(name)
    method_ = replace(method(name), **{setting: torch.tensor(VALUES, dtype=torch.float64)})
    expected = p.restore(method=method_)
    column = np.array(VALUES).reshape(-1, 1, 1, 1)
    for form in (VALUES, tuple(VALUES), np.array(VALUES), column, torch.tensor(VALUES)):
        found = p.restore(method=replace(method_, **{setting: form}))
        assert not differences(found, expected), type(form)


@pytest.mark.parametrize(("name", "setting"), image_settings())
@pytest.mark.parametrize(
    "bad", [-1.0, 0.0, float("nan"), float("inf"), "much", [1.0, 2.0], [1.0, -1.0, 1.0, 1.0], 1j]
)
def test_a_setting_of_each_image_is_refused_where_it_is_none(name, setting, bad):
    p, plain = problem_of(name), method(name)
    with pytest.raises((ValueError, TypeError), match=setting):
        p.restore(method=replace(plain, **{setting: bad}))


@pytest.mark.parametrize(
    "situation", [found for found in situations() if found.method in PLAIN], ids=str
)
def test_sigma_of_each_image_comes_in_every_form(situation: Situation):
    p = situation.problem()
    expected = unrecorded(situation.expected())
    found = p.restore(method=situation.algorithm, sigma=p.sigma.reshape(-1, 1, 1, 1).numpy())
    assert not differences(found, expected)


@WITH_CODES
def test_codes_are_where_the_descent_begins(name):
    p = problem()
    codes = torch.linspace(-1, 1, BATCH * LATENT, dtype=torch.float64).reshape(BATCH, LATENT)
    state = torch.get_rng_state()
    whole = p.restore(method=method(name), z0=codes, record=True, generator=None)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(whole.history.z[0], codes)
    chunks = p.restore(method=method(name), z0=codes.numpy(), record=True, chunk_size=3)
    assert not differences(chunks, whole)
    alone = p.only([2]).restore(method=method(name), z0=codes[2:3])
    assert not differences(rows(alone, 0), rows(unrecorded(whole), 2))


@WITH_CODES
@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(BATCH, LATENT + 1, dtype=torch.float64),
        torch.zeros(BATCH + 1, LATENT, dtype=torch.float64),
        torch.zeros(LATENT, dtype=torch.float64),
        torch.full((BATCH, LATENT), torch.nan, dtype=torch.float64),
        torch.zeros(BATCH, LATENT, dtype=torch.int64),
        torch.zeros(BATCH, LATENT, dtype=torch.complex64),
        "encoder",
        3.0,
    ],
    ids=repr,
)
def test_codes_that_do_not_fit_are_refused(name, bad):
    with pytest.raises((ValueError, TypeError), match="z0"):
        problem().restore(method=method(name), z0=bad)


@WITHOUT_CODES
def test_methods_without_codes_refuse_them(name):
    with pytest.raises((ValueError, TypeError), match="z0"):
        Situation(name).problem().restore(
            method=method(name), z0=torch.zeros(BATCH, LATENT, dtype=torch.float64)
        )


@WITHOUT_CODES
def test_methods_without_codes_say_so_in_their_result(name):
    situation = Situation(name)
    found, prior = situation.expected(), situation.problem().prior
    assert bool(found.z.isnan().all()) and found.z.shape == (BATCH, prior.latent_dim)
    assert found.path == ""
    if has_codes(prior):
        assert bool(found.decoded.isnan().all())
    elif bool(found.objective.isnan().all()):  # what the prior says is asked for without a code
        assert torch.equal(found.decoded, found.x)
    else:
        gap = (found.x - found.decoded).flatten(1).square().sum(dim=1)
        torch.testing.assert_close(found.gap, gap)
        return  # it has a way down to record
    assert found.history is None


@pytest.mark.parametrize(
    "situation", [found for found in situations() if found.method in PLAIN], ids=str
)
def test_the_prior_says_in_what_precision(situation: Situation):
    """Measurements in another type are those measurements rounded to the prior's."""
    p = situation.problem(dtype=torch.float32)
    expected = p.restore(method=situation.algorithm)
    assert expected.x.dtype == torch.float32
    y = p.y.double()
    for form in (y, y.numpy(), y.numpy().astype(">f8")):
        found = p.restore(y=form, sigma=p.sigma.double(), method=situation.algorithm)
        assert not differences(found, expected)
        if situation.method is not None or situation.prior != USUAL_PRIOR:
            break


@EVERY_METHOD
def test_the_best_of_several_starts_is_kept(name):
    """No image ends above where it ends from one start, and the same seed gives the same bits."""
    p, several = Situation(name).problem(), method(name)
    field = builders.start_field(replace(several))
    if field is None:
        assert several.number_of_starts == 1 or not hasattr(several, "starts")
        return
    ends = [p.restore(method=replace(several, **{field: number})).objective for number in (1, 2, 5)]
    assert bool((ends[1] <= ends[0]).all()) and bool((ends[2] <= ends[1]).all())


@pytest.mark.parametrize("kind", classes.method_classes(), ids=lambda kind: kind.__name__)
def test_names_are_short_for_the_defaults(kind):
    names = [name for name, named in jf.algorithms.ALGORITHMS.items() if named is kind]
    for name in names:
        p = problem(prior=prior_for(kind))
        assert not differences(p.restore(method=name), p.restore(method=kind()))


def test_a_quick_method_is_a_method():
    assert bool(problem().restore(method=QUICK).x.isfinite().all())
