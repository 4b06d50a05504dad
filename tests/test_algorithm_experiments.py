"""Experiments on the algorithms: what is read out of histories, and that each of them runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast._problems import PAPER, make_problem
from jpmap_fast.experiments import candidates, continuation, convergence, histories, speed
from jpmap_fast.experiments.context import Context, Settings
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.section import Section

NAN = math.nan
HURRIED = jf.JPMAP(
    coupling="alternating", z_solver=jf.Adam(max_steps=5), starts=1, max_iterations=2, n1=1, n2=2
)


def problem_of(name: str, images: int = 4) -> Any:
    generator = torch.Generator().manual_seed(0)
    return make_problem(name, digits(images), generator, torch.device("cpu"))


def recorded(name: str, method: Any, images: int = 4) -> tuple[Any, Any]:
    problem = problem_of(name, images)
    prior = jf.load_prior("mnist")
    result = jf.restore(
        problem.y, problem.operator, prior, problem.sigma, method=method, record=True
    )
    return problem, result


def test_a_rise_is_found_and_measured() -> None:
    objective = torch.tensor([[10.0, 8.0], [5.0, 4.0], [6.0, 4.0], [5.5, NAN]])
    assert histories.largest_rise(objective).tolist() == pytest.approx([0.2, 0.0])
    assert histories.largest_rise(objective[:1]).tolist() == [0.0, 0.0]


def test_a_new_beta_is_no_rise() -> None:
    objective = torch.tensor([[4.0], [9.0], [9.9], [8.0]])
    beta = torch.tensor([[1.0], [2.0], [2.0], [2.0]])
    assert histories.largest_rise(objective, beta).tolist() == pytest.approx([0.1])
    assert histories.largest_rise(objective).tolist() == pytest.approx([1.25])


def test_last_values_are_held() -> None:
    values = torch.tensor([[1.0, 5.0], [2.0, NAN], [NAN, NAN]])
    assert histories.held(values).tolist() == [[1.0, 5.0], [2.0, 5.0], [2.0, 5.0]]
    assert values[1].isnan().tolist() == [False, True]


def test_candidates_are_counted_without_the_start_and_the_finished() -> None:
    candidate = torch.tensor([[0, 0, 0], [1, 2, 2], [3, 0, 2], [-1, -1, 1]], dtype=torch.int8)
    counts = histories.count_candidates(candidate)
    assert counts.tolist() == [[1, 2, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]
    labels, shares = candidates.bars(counts, images=3)
    assert labels == ["1", "2", "3"]
    torch.testing.assert_close(shares, counts.double() / 3)


def test_bars_of_several_iterations_are_means_also_where_all_are_finished() -> None:
    counts = torch.zeros(4, 4, dtype=torch.int64)
    counts[:, 2] = 10
    labels, shares = candidates.bars(counts, images=10)
    assert labels == ["1", "2", "3", "4–5"]
    assert shares[:, 2].tolist() == [1.0, 1.0, 1.0, 0.5]


def test_steps_within_rounding_are_not_substantial() -> None:
    objective = torch.tensor([[100.0, 100.0], [50.0, 99.9999], [49.0, NAN]])
    candidate = torch.tensor([[0, 0], [2, 3], [3, -1]])
    kept = histories.substantial(objective, candidate, 1e-4)
    assert kept.tolist() == [[0, 0], [2, -1], [3, -1]]
    assert candidate.tolist() == [[0, 0], [2, 3], [3, -1]]


def test_stages_and_the_columns_that_show_them() -> None:
    beta = torch.tensor([1.0, 1, 1, 2, 2, 4, 8, 16, NAN])
    gap = torch.tensor([9.0, 5, 4, 3, 3, 2, 1, 0.5, NAN])
    assert histories.stages(beta[:, None]).tolist() == [5]
    assert histories.stage_ends(beta) == [2, 4, 5, 6, 7]
    shown = histories.columns_to_show(beta, gap, 2.0, 5)
    assert shown == [0, 2, 4, 5, 7]
    assert histories.columns_to_show(beta, gap, 2.0, 99) == [0, 2, 4, 5, 6, 7]


def test_published_growth_is_taken_where_beta_grew() -> None:
    beta, gap = torch.tensor([[1.0], [1.0], [2.0]]), torch.tensor([[9.0], [3.0], [1.0]])
    growth = histories.published_growth(beta, gap, 255.0, 2)
    assert growth.tolist() == pytest.approx([math.exp(50 * (3 - 2))])


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("method", [jf.JPMAP(starts=1), jf.MAPz(alpha=10, starts=1)], ids=str)
def test_the_iterate_of_the_last_code_is_the_result(name: str, method: Any) -> None:
    problem, result = recorded(name, method)
    history, image = result.history, torch.arange(4)
    last = (~history.beta.isnan()).sum(dim=0) - 1
    there = histories.iterates(
        problem, jf.load_prior("mnist"), history.z[last, image], history.beta[last, image], image
    )
    torch.testing.assert_close(there.x, result.x, rtol=0, atol=2e-5)
    torch.testing.assert_close(there.decoded, result.decoded, rtol=0, atol=2e-5)
    torch.testing.assert_close(there.gap, result.gap, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(there.objective, history.objective[last, image], rtol=1e-4, atol=0)


def test_a_trace_in_double_precision_agrees_with_what_was_recorded_from_the_start_on() -> None:
    problem, result = recorded("inpainting", jf.JPMAP(starts=1, coupling="alternating"), 3)
    exact = jf.load_prior("mnist", dtype=torch.float64)
    found = histories.trace(problem, exact, result.history, torch.float64)
    expected = result.history.objective
    assert torch.equal(found["objective"].isnan(), expected.isnan())
    torch.testing.assert_close(
        found["objective"].float(), expected, rtol=1e-4, atol=0, equal_nan=True
    )
    assert float(histories.largest_rise(found["objective"]).max()) < 1e-5
    ends = histories.held(found["psnr_decoded"])[-1]
    torch.testing.assert_close(ends, psnr(result.decoded, problem.clean), rtol=1e-3, atol=0)


def test_more_starts_never_reach_less() -> None:
    generator = torch.Generator().manual_seed(3)
    starts = {key: torch.rand(4, 6, generator=generator) + 1 for key in ("joint", "latent")}
    starts["continuation"] = torch.full((6,), 9.0)
    run = {"end": torch.rand(6, generator=generator) + 1, "objective": torch.ones(2, 6)}
    sizes = convergence.Sizes(6, 6, starts=(1, 2, 4))
    found = convergence.compare("t", {convergence.PROJECTED: run}, starts, sizes)
    for reached in found["reached"].values():
        shares = reached.double().mean(dim=1).tolist()
        assert shares == sorted(shares)
    assert found["reached"][convergence.FAMILIES[2]][-1].all()
    assert (found["best"] <= run["end"].double()).all()
    assert (found["best"] <= starts["joint"].amin(dim=0).double()).all()


def test_sizes_that_would_take_too_long_are_left_out() -> None:
    sizes = speed.Sizes((1, 2), published_batch=1, calls=1, repeats=1, seconds=0.0, longest=0.0)
    problem = problem_of("denoising", 2)
    found = speed.throughput(jf.CSGM(), problem, jf.load_prior("mnist"), sizes)
    assert found["rows"][0]["seconds"] > 0
    assert found["rows"][1]["seconds"] is None


RUNS: dict[str, tuple[Callable[..., Section], Any, int]] = {
    "continuation": (continuation.run, continuation.Sizes(2, curves=1, pictures=1), 3),
    "convergence": (
        convergence.run,
        convergence.Sizes(2, 1, published=HURRIED, starts=(1, 2)),
        2,
    ),
    "candidates": (candidates.run, candidates.Sizes(2, iterations=12), 2),
    "speed": (
        speed.run,
        speed.Sizes((1, 2), 2, calls=3, repeats=1, seconds=0.0, published=HURRIED),
        1,
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_experiment_leaves_its_figures_and_is_not_done_twice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sizes, figures = RUNS[name]
    said: list[str] = []
    first = run(Context(Settings(), tmp_path, said.append), name, sizes)
    assert said and len(said) == len(set(said))
    assert len(first.figures) == figures
    for figure in first.figures:
        for suffix in (".png", ".svg"):
            assert (tmp_path / (figure.stem + suffix)).stat().st_size > 1000
        assert figure.caption
    assert first.text and first.tables and first.data
    content = json.loads(json.dumps(first.as_json(), allow_nan=False))
    assert Section.from_json(content).name == name
    said.clear()
    monkeypatch.setattr("jpmap_fast.experiments.style.write", lambda figure, path: None)
    again = run(Context(Settings(), tmp_path, said.append), name, sizes)
    assert not said
    assert again.as_json() == first.as_json()
