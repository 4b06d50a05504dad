"""Settings of the compared methods, and the experiment on a change of the degradation."""

from __future__ import annotations

import math

import pytest
import torch
from baseline_problems import digits_problem

import jpmap_fast as jf
from jpmap_fast._metrics import psnr

deepinv = pytest.importorskip("deepinv")

from tune_baselines import Axis, geometric, keep, search  # noqa: E402

from jpmap_fast.experiments import supervised_change  # noqa: E402
from jpmap_fast.experiments.baselines import (  # noqa: E402
    EPLL,
    Supervised,
    TotalVariation,
    load_mixture,
    load_network,
    tuned,
)


def test_tuned_settings_make_the_methods():
    mixtures = {name: load_mixture(name) for name in ("mnist", "faces")}
    for images, problem in (
        ("mnist", "denoising"),
        ("mnist", "inpainting"),
        ("mnist", "compressed-sensing"),
        ("faces", "inpainting"),
    ):
        TotalVariation(**tuned("tv", images, problem))
        EPLL(mixtures[images], **tuned("epll", images, problem))
    with pytest.raises(ValueError, match="no settings of tv for faces, denoising; known: "):
        tuned("tv", "faces", "denoising")


def test_the_search_leaves_its_first_grid_for_a_peak_beyond_it():
    """-(log2 a - 5)^2 - (b - 0.37)^2, with the peak at a = 32."""
    axes = {"a": Axis((1.0, 2.0, 4.0)), "b": Axis((0.2, 0.4, 0.6), linear=True), "c": Axis((7.0,))}
    best, value, tried = search(
        axes, lambda p: -((math.log2(p["a"]) - 5) ** 2) - (p["b"] - 0.37) ** 2, rounds=2
    )
    assert best["a"] == 32 and best["c"] == 7
    assert abs(best["b"] - 0.37) <= 0.025 and value == pytest.approx(-((best["b"] - 0.37) ** 2))
    assert tried <= 9 + 6 * 9 + 2 * 9


def test_noise_levels_go_down_evenly():
    levels = geometric(0.4, 0.05, 4)
    torch.testing.assert_close(torch.tensor(levels), torch.tensor([0.4, 0.2, 0.1, 0.05]))


def test_an_entry_takes_the_place_of_an_older_one(tmp_path):
    import json

    path = tmp_path / "tuned.json"
    for weight in (1.0, 2.0):
        keep(path, "tv", "mnist", "denoising", {"settings": {"weight": weight}})
    keep(path, "tv", "faces", "inpainting", {"settings": {"weight": 3.0}})
    found = json.loads(path.read_text())["settings"]["tv"]
    assert found["mnist"] == {"denoising": {"settings": {"weight": 2.0}}}
    assert found["faces"]["inpainting"]["settings"]["weight"] == 3.0


def test_cases_share_their_draws(tmp_path):
    """What one mask misses the next ones miss too; noise is the same in units of sigma."""
    from jpmap_fast.experiments.context import Context, Settings

    context = Context(Settings(), tmp_path)
    clean = torch.zeros(2, 1, 28, 28)
    made = {case: case.make(context, clean) for case in supervised_change.CASES}
    masks = [
        p.operator.mask for case, p in made.items() if case.missing is not None and case.level == 10
    ]
    for more, fewer in zip(masks[1:], masks, strict=False):
        assert (more <= fewer).all() and more.sum() < fewer.sum()
    noise = [p.y / p.sigma for case, p in made.items() if case.missing == 0.8]
    for other in noise[1:]:
        # Rounding of a product and a quotient by sigma.
        torch.testing.assert_close(other, noise[0], rtol=1e-6, atol=0)
    assert [case for case in made if case.trained] == [supervised_change.CASES[2]]


def test_the_finding_names_who_is_ahead_where():
    def scores(*leads):
        found = {}
        for degradation, lead in zip(supervised_change.CASES, leads, strict=True):
            found[degradation] = {
                supervised_change.SUPERVISED: torch.full((3,), 20.0),
                supervised_change.JPMAP_X: torch.full((3,), 20.0 + lead),
            }
        return supervised_change.finding(found)

    text = scores(*[-1.0] * 10, 4.0)
    assert "20.00 dB, with JPMAP 1.00 dB behind" in text
    assert (
        "ahead in 1 of 10 others: compressed sensing (+4.00 dB). It is behind in: 50% missing"
        in text
    )
    assert "ahead in all 10 other degradations" in scores(*[-1.0] * 11)
    assert "1.00 dB ahead" in scores(*[1.0] * 11) and "is behind" not in scores(*[1.0] * 11)


def test_the_experiment_on_four_digits(monkeypatch, tmp_path):
    from jpmap_fast.experiments.context import Context, Settings

    pytest.importorskip("matplotlib")
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(supervised_change, "digits", lambda _: jf.mnist_test_digits(4)[0])
    section = supervised_change.run(Context(Settings(), tmp_path), "supervised")
    assert len(section.tables[0].rows) == len(supervised_change.CASES) == 11
    for figure in section.figures:
        assert (tmp_path / f"{figure.stem}.png").is_file()
    values = section.as_json()["data"]["psnr"]
    problem = supervised_change.CASES[2].make(
        Context(Settings(), tmp_path), digits_problem(4).clean
    )
    network = Supervised(load_network("mnist"))
    x = jf.restore(problem.y, problem.operator, "mnist", problem.sigma, method=network).x
    assert values[problem.title][supervised_change.SUPERVISED] == pytest.approx(
        psnr(x, problem.clean).tolist()
    )
