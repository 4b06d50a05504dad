"""Experiments: statistics, steps that are not done twice, sections, answers, the report."""

from __future__ import annotations

import json
import math
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jpmap_fast._problems import PAPER, make_problem
from jpmap_fast.cli import app
from jpmap_fast.experiments import runner
from jpmap_fast.experiments.context import Context, Settings
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.method_tables import best_known, objective_table, quality_table
from jpmap_fast.experiments.methods import CSGM_1, CSGM_10, JPMAP_10, JPMAP_X, ORIGINAL, PNP, TV
from jpmap_fast.experiments.questions import JOINT, LOSES, answers
from jpmap_fast.experiments.registry import EXPERIMENTS, selected
from jpmap_fast.experiments.section import Section, Table
from jpmap_fast.experiments.statistics import bootstrap_interval, share_within, win_rate
from jpmap_fast.experiments.style import axes_grid


def test_bootstrap_interval_has_the_width_of_the_normal_one() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)) * 3 + 20
    low, high = bootstrap_interval(values)
    mean, half = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(400)
    assert low == pytest.approx(mean - half, abs=0.1 * half)
    assert high == pytest.approx(mean + half, abs=0.1 * half)
    assert bootstrap_interval(values) == (low, high)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(torch.rand(60, generator=generator), seed=seed)
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_ties_count_half_and_shares_are_relative() -> None:
    assert win_rate(torch.tensor([2.0, 1.0, 5.0]), torch.tensor([1.0, 1.0, 6.0])) == 0.5
    best = torch.tensor([100.0, 100.0, 10.0, 10.0])
    assert share_within(torch.tensor([100.09, 100.11, 10.02, 10.0]), best) == 0.5


@pytest.mark.parametrize("name", PAPER)
def test_problems_are_the_same_at_every_call_and_selectable(name: str) -> None:
    context = Settings()
    clean = digits(3)

    def made() -> object:
        return make_problem(
            name, clean, torch.Generator().manual_seed(context.seed), torch.device("cpu")
        )

    a, b = made(), made()
    assert torch.equal(a.y, b.y)  # type: ignore[attr-defined]
    second = a.select(torch.tensor([1]))  # type: ignore[attr-defined]
    assert torch.equal(second.y[0], a.y[1])  # type: ignore[attr-defined]
    assert torch.equal(second.operator.A(clean[1:2]), a.operator.A(clean)[1:2])  # type: ignore[attr-defined]
    assert second.display.shape == (1, 1, 28, 28)


def test_missing_pixels_hold_no_noise() -> None:
    problem = make_problem("inpainting", digits(2), torch.Generator(), torch.device("cpu"))
    assert bool((problem.y[problem.operator.mask == 0] == 0).all())  # type: ignore[attr-defined]
    assert 0.7 < float((problem.y == 0).double().mean()) < 0.9


def test_an_interrupted_experiment_does_only_what_is_left(tmp_path: Path) -> None:
    done: list[str] = []

    def first() -> dict[str, object]:
        done.append("first")
        return {"a": torch.arange(3), "b": [1.5, None, "x"]}

    def second() -> dict[str, object]:
        done.append("second")
        if len(done) == 2:
            raise KeyboardInterrupt
        return {"c": 1}

    def attempt() -> dict[str, object]:
        context = Context(Settings(), tmp_path)
        found = context.step("CSGM, 10 starts", first)
        return found | context.step("alpha = 1", second)

    with pytest.raises(KeyboardInterrupt):
        attempt()
    found = attempt()
    assert done == ["first", "second", "second"]
    assert torch.equal(found["a"], torch.arange(3))  # type: ignore[arg-type]
    assert found["b"] == [1.5, None, "x"] and found["c"] == 1
    assert not list(tmp_path.rglob("*.part"))


def test_sections_survive_json_with_nan_as_null() -> None:
    section = Section("a", "A", ["text"], [Table("t", ["x", "y"], [[1, None]])])
    section.data = {"values": torch.tensor([1.0, math.nan]), "by": {5: (math.inf, 2)}}
    text = json.dumps(section.as_json(), allow_nan=False)
    again = Section.from_json(json.loads(text))
    assert again.data == {"values": [1.0, None], "by": {"5": [None, 2]}}
    assert again.tables == section.tables
    with pytest.raises(ValueError, match="expected 2 cells"):
        Table("t", ["x", "y"], [[1]])


def _run(psnr: list[float], j1: list[float] | None = None) -> dict[str, torch.Tensor]:
    values = torch.tensor(psnr, dtype=torch.float64)
    run = {"psnr": values, "ssim": values / 100, "converged": torch.ones(len(psnr))}
    if j1 is not None:
        objective = torch.tensor(j1)
        run |= {"psnr_decoded": values - 1, "ssim_decoded": values / 200}
        run |= {"j1": objective, "latent": 2 * objective}
    return run


def test_tables_pair_images_and_know_the_best() -> None:
    runs = {
        CSGM_1: _run([10, 11, 12], [5, 5, 5]),
        JPMAP_X: _run([11, 11, 11], [4, 5, 5.1]),
        ORIGINAL: _run([12, 10], [4.001, 6]),
        TV: _run([9, 12, 12]),
    }
    best = best_known(list(runs.values()))
    assert best["j1"].tolist() == [4, 5, 5]
    table = quality_table(runs, "x", "x")
    wins = {row[0]: row[-2:] for row in table.rows}
    assert wins[JPMAP_X] == wins[TV] == ["50.0%", "50.0%"]
    assert wins[CSGM_1] == [None, "50.0%"]
    assert TV not in [row[0] for row in quality_table(runs, "decoded", "G").rows]
    del runs[ORIGINAL]
    assert len(quality_table(runs, "x", "x").columns) == len(table.columns) - 1
    reached = {row[0]: row[3] for row in objective_table(runs, best).rows}
    assert reached == {CSGM_1: "66.7%", JPMAP_X: "66.7%"}


def _section(name: str, gain: float) -> Section:
    draws = torch.randn(50, generator=torch.Generator().manual_seed(3)) + 20
    scores = {
        title: {"psnr": draws - lower, "psnr_decoded": draws - lower - 0.5}
        for title, lower in ((JPMAP_X, 0), (JPMAP_10, -0.5), (CSGM_1, gain), (CSGM_10, 0.5))
    }
    scores[PNP] = {"psnr": draws + 2}
    scores[TV] = {"psnr": draws - 3}
    return Section.from_json(Section(name, name, data={"methods": scores}).as_json())


def test_answers_follow_the_numbers() -> None:
    found = {a["question"]: a["text"] for a in answers({"denoising": _section("denoising", 2.0)})}
    assert set(found) == {JOINT, LOSES}
    assert "+2.00 dB [+2.00, +2.00] for JPMAP() over CSGM from one start" in found[JOINT]
    assert "both from ten starts +1.00 dB [+1.00, +1.00], of JPMAP's G(z) +0.50" in found[JOINT]
    assert "It loses to PnP-ADMM in denoising." in found[LOSES]
    assert "TV +3.00 dB" in found[LOSES]
    assert answers({}) == []


def test_names_come_in_the_order_of_the_report_and_unknown_ones_are_refused() -> None:
    assert selected(["speed", "denoising"]) == ["denoising", "speed"]
    assert selected(["all"]) == list(EXPERIMENTS)
    with pytest.raises(ValueError, match="denoising.*got denoise"):
        selected(["denoise"])


class _Links(HTMLParser):
    """What a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "data") and value:
                self.found.append(value)


@pytest.fixture
def one_experiment(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A registry with one small experiment; the list tells how often it was run."""
    calls: list[str] = []

    def run(context: Context, name: str) -> Section:
        calls.append(name)
        figure, axes = axes_grid(1, 1)
        axes[0][0].plot([0, 1], [1, 0])
        section = Section(name, "Title <of it>", ["5 < 6 & 7"])
        section.figures.append(context.save("curve", figure, "a caption"))
        section.tables.append(Table("numbers", ["a", "b"], [[1.23456, None]]))
        return section

    monkeypatch.setattr(runner, "selected", lambda names: ["speed"])
    monkeypatch.setattr(runner, "runner", lambda name: run)
    return calls


def test_the_report_is_one_file_and_a_finished_experiment_is_not_done_again(
    tmp_path: Path, one_experiment: list[str]
) -> None:
    for _ in range(2):
        path = runner.reproduce(["speed"], tmp_path, Settings(), command="jpmap-fast x")
    assert one_experiment == ["speed"]
    html = path.read_text(encoding="utf-8")
    assert "Title &lt;of it&gt;" in html and "5 &lt; 6 &amp; 7" in html
    assert "jpmap-fast x" in html and "1.235" in html and torch.__version__ in html
    links = _Links()
    links.feed(html)
    assert links.found and all(link.startswith(("#", "data:image/")) for link in links.found)
    assert {p.suffix for p in (tmp_path / "speed").glob("curve.*")} == {".png", ".svg"}


def test_a_missing_extra_is_told_before_any_work(
    tmp_path: Path, one_experiment: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_EXTRA", ("matplotlib", "no_such_package"))
    with pytest.raises(ImportError, match=r"needs no_such_package.*\[experiments\]"):
        runner.reproduce(["speed"], tmp_path / "r", Settings())
    assert not one_experiment and not (tmp_path / "r").exists()


def test_a_folder_of_another_run_is_refused(tmp_path: Path, one_experiment: list[str]) -> None:
    runner.reproduce(["speed"], tmp_path, Settings())
    with pytest.raises(ValueError, match="seed = 0, not 1; choose another --output"):
        runner.reproduce(["speed"], tmp_path, Settings(seed=1))
    assert one_experiment == ["speed"]


def test_a_wheel_says_where_the_experiments_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jpmap_fast.experiments", None)
    told = CliRunner().invoke(app, ["reproduce", "speed"])
    assert told.exit_code == 2 and "Traceback" not in told.output
    assert len(told.output.splitlines()) == 1
    assert "in the repository and not in the wheel" in told.output
    assert "pip install -e '.[experiments]'" in told.output
