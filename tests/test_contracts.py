"""Promises for every method, operator and prior: an image does not depend on its company.

What is tested over is found by ``contract_classes``; this file says that nothing found is left out.
"""

from __future__ import annotations

import contract_builders as builders
import contract_classes as classes
import pytest
import torch
from contract_checks import Situation, differences, rows, situations, unlike, unrecorded
from contract_data import IMAGE_SHAPE, data

import jpmap_fast as jf

EVERY = pytest.mark.parametrize("situation", situations(), ids=str)


@pytest.mark.parametrize(
    ("found", "table"),
    [
        (classes.method_classes(), builders.known_methods()),
        (classes.operator_classes(), builders.OPERATORS),
        (classes.prior_classes(), builders.PRIORS),
        (classes.solver_classes(), builders.SOLVER_VARIANTS),
    ],
    ids=["methods", "operators", "priors", "solvers"],
)
def test_every_class_has_a_builder(found, table):
    missing = {kind.__name__ for kind in found} - set(table)
    assert not missing, (
        f"{', '.join(sorted(missing))}: no promise is tested of a class that nobody can make; "
        "add a line to tests/contract_builders.py"
    )


@pytest.mark.parametrize("kind", classes.method_classes(), ids=lambda kind: kind.__name__)
def test_settings_documented_for_each_image_are_known_as_such(kind):
    known = kind.__name__ in builders.known_methods()
    if not known or (not builders.DEEPINV and kind.__name__ in builders.NEEDS_DEEPINV):
        pytest.skip("cannot be made here")
    method = kind(**builders.arguments(kind))
    assert sorted(method.image_settings) == sorted(builders.image_fields(kind))


@EVERY
def test_chunks_change_nothing(situation: Situation):
    found = situation.problem().restore(method=situation.algorithm, record=True, chunk_size=3)
    assert not unlike(found, situation.expected())


@EVERY
def test_bad_images_touch_no_others(situation: Situation):
    p = situation.problem()
    y = p.y.clone()
    y[0].view(-1)[0], y[2].view(-1)[-1] = torch.nan, -torch.inf
    found = p.restore(y=y, method=situation.algorithm)
    expected = situation.expected()
    assert not unlike(rows(found, [1, 3]), rows(unrecorded(expected), [1, 3]))
    for bad in (0, 2):
        assert not bool(found.converged[bad]) and "failed" in found.status[bad]
        assert bool(found.x[bad].isnan().all())


@EVERY
def test_an_image_alone_and_without_a_batch_is_the_one_of_the_batch(situation: Situation):
    p = situation.problem()
    expected = rows(unrecorded(situation.expected()), 2)
    alone = p.only([2]).restore(method=situation.algorithm)
    assert not unlike(rows(alone, 0), expected)
    single = p.only([2])
    found = single.restore(
        y=single.y[0], sigma=float(single.sigma[0]), method=situation.algorithm, record=True
    )
    assert not unlike(unrecorded(found), expected)
    if found.history is not None:
        assert found.history.objective.dim() == 1 and found.history.z.dim() == 2


@EVERY
def test_no_images_at_all(situation: Situation):
    p = situation.problem()
    if p.operator.batch is not None:
        p = p.only([])
    found = p.restore(y=p.y[:0], sigma=p.sigma[:0], method=situation.algorithm, record=True)
    expected = situation.expected()
    assert found.status == []
    for name, value in vars(unrecorded(expected)).items():
        if isinstance(value, torch.Tensor):
            there = getattr(found, name)
            assert (there.shape, there.dtype) == ((0, *value.shape[1:]), value.dtype), name


@EVERY
def test_a_record_ends_where_the_result_does(situation: Situation):
    expected = situation.expected()
    plain = situation.problem().restore(method=situation.algorithm)
    assert not differences(plain, unrecorded(expected))
    history = expected.history
    if history is None:
        assert not situation.algorithm.uses_codes
        return
    for image in range(len(expected.z)):
        steps = ~history.z[:, image].isnan().any(dim=1)
        length = int(steps.sum())
        assert bool(steps[:length].all()) and length >= 1
        assert torch.equal(history.z[length - 1, image], expected.z[image])
        assert bool((history.candidate[length:, image] == -1).all())
    # J1 at one beta, or the latent objective: no step of a Newton method raises it.
    solver = getattr(situation.algorithm, "z_solver", None)
    if isinstance(situation.algorithm, jf.JPMAP) and not isinstance(solver, jf.Adam):
        assert not bool((history.objective.diff(dim=0) > 0).any())


@pytest.mark.parametrize("name", [found.name for found in builders.operators()])
@pytest.mark.parametrize("rows_", [[0], [3], [1, 2], [0, 2, 3]], ids=str)
def test_operators_act_on_every_image_alone(name, rows_):
    d = data()
    operator = builders.named(builders.operators(), name)(d).bind(IMAGE_SHAPE, len(d.images))
    index = torch.tensor(rows_)
    part = operator if operator.batch is None else operator.select(index)
    measured = operator.A(d.images)
    # Fourier transforms of a library sum in another order for another batch.
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(part.A(d.images[index]), measured[index], **close)
    back = operator.A_adjoint(measured)[index]
    torch.testing.assert_close(part.A_adjoint(measured[index]), back, **close)
