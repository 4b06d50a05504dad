"""Promises for every method and operator: bad input is refused before work, odd input is right."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import contract_builders as builders
import contract_classes as classes
import numpy as np
import pytest
import torch
from contract_checks import Situation, allowed, differences, problem, rows
from contract_data import BATCH, IMAGE_SHAPE, curved, data
from contract_pairs import USUAL_PRIOR, prior_for, priors_with_codes
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import jpmap_fast as jf
from jpmap_fast._run import Run
from jpmap_fast.algorithms import Algorithm

BAD_SHAPES: dict[str, Any] = {
    "more columns": lambda y: torch.cat((y, y[..., :1]), dim=-1),
    "no columns": lambda y: y[..., :0],
    "another dimension": lambda y: y[None],
}
BAD_KINDS: dict[str, Any] = {
    "integers": lambda y: (255 * y).clamp(0, 255).to(torch.uint8),
    "booleans": lambda y: y > 0.5,
    "complex": lambda y: y.to(torch.complex128),
    "text": lambda y: "digit.png",
    "nothing": lambda y: None,
    "an object array": lambda y: np.array([[object()]]),
    "text arrays": lambda y: np.array([["0.5", "0.25"]]),
    "no data": lambda y: y.to("meta"),
}
BAD_SIGMAS: dict[str, Any] = {
    "zero": 0.0,
    "negative": -0.1,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "too small": 1e-30,
    "a negative one": [0.1, 0.1, 0.1, -0.1],
    "a NaN": torch.tensor([0.1, float("nan"), 0.1, 0.1], dtype=torch.float64),
    "too many": [0.1] * (BATCH + 1),
    "a matrix": torch.full((BATCH, 2), 0.1, dtype=torch.float64),
    "text": "0.1",
    "texts": ["0.1"] * BATCH,
    "complex": 0.1j,
    "boolean": True,
    "nothing": None,
    "no data": torch.full((BATCH,), 0.1, device="meta"),
}


@pytest.fixture
def no_work(monkeypatch):
    """Makes solving anything an error of its own."""

    def solve(*arguments, **options):
        raise AssertionError("work began on bad input")

    monkeypatch.setattr(Run, "__call__", solve)


def refusal(call: Callable[[], Any], word: str) -> str:
    """Nothing where ``call`` is refused by a text with ``word``; what it did where it is not."""
    try:
        call()
    except (ValueError, TypeError) as error:
        return "" if re.search(rf"\b{word}\b", str(error)) else str(error)
    except Exception as error:  # of any other kind: it is the finding
        return repr(error)
    return "accepted"


PAIRS = [
    (method.name, operator.name)
    for method in builders.methods()
    for operator in builders.operators()
    if method.name in {kind.__name__ for kind in classes.method_classes()}
]


@pytest.mark.parametrize(("method", "operator"), PAIRS)
def test_bad_input_is_refused_before_work(method, operator, no_work):
    situation = Situation(method, operator)
    p, algorithm = situation.problem(), situation.algorithm
    tried = {
        **{f"y: {what}": {"y": bad(p.y)} for what, bad in (BAD_SHAPES | BAD_KINDS).items()},
        **{f"sigma: {what}": {"sigma": bad} for what, bad in BAD_SIGMAS.items()},
        **{f"chunk_size: {n!r}": {"chunk_size": n} for n in (0, -1, 1.5, "2", True)},
    }
    wrong = {}
    for what, options in tried.items():
        word = what.partition(":")[0]
        found = refusal(lambda o=options: p.restore(method=algorithm, **o), word)
        if found:
            wrong[what] = found
    assert not wrong


@pytest.mark.parametrize("name", [found.name for found in builders.operators()])
@pytest.mark.parametrize("side", ["A", "A_adjoint", "measure"])
def test_operators_refuse_what_is_no_image(name, side):
    p = problem(name)
    bound = p.operator.bind(IMAGE_SHAPE, BATCH)
    x = data().images
    good = p.y if side == "A_adjoint" else x
    call = getattr(bound, side) if side != "measure" else lambda v: bound.measure(v, 0.1)
    wrong = {}
    for what, bad in (BAD_SHAPES | BAD_KINDS).items():
        found = refusal(lambda bad=bad: call(bad(good)), "")
        # Some act on images of any size; nobody fails on them in words of his own.
        if found and not (found == "accepted" and what in BAD_SHAPES):
            wrong[what] = found
    assert not wrong


def masks() -> dict[str, torch.Tensor]:
    """Masks of nothing, in every form that a mask has."""
    several = data().masks.clone()
    several[[0, 2]] = 0
    return {
        "shared": torch.zeros(IMAGE_SHAPE[1:], dtype=torch.float64),
        "shared, channels": torch.zeros(IMAGE_SHAPE, dtype=torch.float64),
        "one for all": torch.zeros(1, *IMAGE_SHAPE, dtype=torch.float64),
        "one an image": torch.zeros(BATCH, *IMAGE_SHAPE, dtype=torch.float64),
        "some images": several,
        "booleans": torch.zeros(IMAGE_SHAPE[1:], dtype=torch.bool),
    }


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("method", [found.name for found in builders.methods()])
def test_nothing_observed_gives_the_answer_of_the_prior(method, mask):
    situation = Situation(method)
    _nothing_observed(situation.algorithm, masks()[mask], situation.prior)


@pytest.mark.parametrize("mask", ["shared", "some images"])
@pytest.mark.parametrize("prior", [found.name for found in priors_with_codes()])
@pytest.mark.parametrize("method", [jf.JPMAP(), jf.CSGM(), jf.MAPz()], ids=repr)
def test_nothing_observed_gives_the_answer_of_every_prior(method, prior, mask):
    _nothing_observed(method, masks()[mask], prior)


def _nothing_observed(method: Algorithm, mask: torch.Tensor, name: str) -> None:
    prior = builders.named(builders.priors(), name)()
    operator = jf.Inpainting(mask)
    y = operator.A(data().images)
    found = jf.restore(y, operator, prior, 0.1, method=method)
    empty = torch.ones(BATCH, dtype=torch.bool)
    if mask.dim() == 4 and len(mask) == BATCH:
        empty = mask.flatten(1).eq(0).all(dim=1)
    assert bool(found.x.isfinite().all())
    assert not any("failed" in status for status in found.status)
    if not method.uses_codes:
        return
    assert bool(found.z.isfinite().all()) and bool(found.objective.isfinite().all())
    if isinstance(method, jf.AlternateConvexSearch) or isinstance(
        getattr(method, "z_solver", None), jf.Adam
    ):
        return  # stop where the encoder stops, and after so many steps
    z = found.z[empty]
    # J1 is ||z||^2 / 2 there: its minimum is the code 0, and the image the decoder's of it.
    assert bool(found.converged[empty].all())
    assert float(z.abs().max()) < 1e-3
    torch.testing.assert_close(found.x[empty], prior.decode(torch.zeros_like(z)), rtol=0, atol=1e-2)


QUIET = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
SIDES = st.integers(1, 9)


@QUIET
@given(
    channels=st.integers(1, 3),
    height=SIDES,
    width=SIDES,
    batch=st.integers(0, 5),
    latent=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    chunk=st.integers(1, 6),
    method=st.sampled_from([found.name for found in builders.methods()]),
    seed=st.integers(0, 2**16),
)
def test_any_shape_has_the_bits_of_its_images_alone(
    channels, height, width, batch, latent, dtype, chunk, method, seed
):
    shape = (channels, height, width)
    algorithm = builders.named(builders.methods(), method)()
    if prior_for(type(algorithm)) == USUAL_PRIOR:
        algorithm = algorithm if algorithm.uses_codes else jf.JPMAP()
        prior = curved(jf.MLPVAE(shape, latent, (7,)), dtype, seed)
    else:
        prior = curved(builders.photographs(channels), dtype, seed)
    g = torch.Generator().manual_seed(seed)
    mask = (torch.rand(shape[1:], generator=g) < 0.5).to(dtype)
    operator = jf.Inpainting(mask)
    y = operator.measure(torch.rand(batch, *shape, generator=g).to(dtype), 0.1, generator=g)

    def restored(y: torch.Tensor, **options: Any) -> jf.Result:
        draws = torch.Generator().manual_seed(seed)
        return jf.restore(y, operator, prior, 0.1, method=algorithm, generator=draws, **options)

    whole = restored(y)
    assert whole.x.shape == (batch, *shape) and whole.z.shape == (batch, prior.latent_dim)
    assert not differences(restored(y, chunk_size=chunk), whole)
    if batch:
        assert not differences(restored(y[-1]), rows(whole, -1))
        assert not differences(restored(y.numpy()[::-1]), rows(whole, list(range(batch))[::-1]))


VALUES = st.one_of(
    st.floats(-1e3, 1e3, width=32),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, -0.0]),
)


@cache
def undisturbed(situation: Situation) -> jf.Result:
    """The batch without odd values, in float32."""
    return situation.problem(dtype=torch.float32).restore(method=situation.algorithm)


@settings(QUIET, max_examples=25)
@given(
    values=st.lists(VALUES, min_size=1, max_size=8),
    sigma=st.floats(1e-4, 1e2),
    operator=st.sampled_from([found.name for found in builders.operators()]),
    method=st.sampled_from([None, "JPMAP", "MAPz", "CSGM", "PnPADMM", "EncoderContinuation"]),
)
def test_any_values_are_restored_refused_or_said_to_have_failed(values, sigma, operator, method):
    """And the other images of a compiled solve have the bits they had."""
    situation = Situation(method, operator)
    p = situation.problem(dtype=torch.float32)
    y = p.y.clone()
    flat = y[1].view(-1)
    flat[: len(values)] = torch.tensor(values[: flat.numel()], dtype=torch.float32)
    levels = p.sigma.clone()
    levels[1] = sigma
    try:
        found = p.restore(y=y, sigma=levels, method=situation.algorithm)
    except (ValueError, TypeError) as error:
        assert "y" in str(error) or "sigma" in str(error)
        return
    whole = bool(found.x[1].isfinite().all())
    assert whole or ("failed" in found.status[1] and not bool(found.converged[1]))
    expected = undisturbed(situation)
    if allowed(expected):
        return
    for field in ("x", "objective", "status"):
        there, usual = getattr(found, field), getattr(expected, field)
        kept = [there[i] for i in (0, 2, 3)], [usual[i] for i in (0, 2, 3)]
        assert not [t for a, b in zip(*kept, strict=True) for t in differences(a, b)]
