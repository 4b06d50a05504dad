"""The experiment on posterior draws: a small run, and what its tests find out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jpmap_fast.experiments.context import Context, Settings
from jpmap_fast.experiments.posterior import Sizes, run
from jpmap_fast.experiments.posterior_ranks import BINS, chi_square_p, histogram
from jpmap_fast.experiments.posterior_report import p_values
from jpmap_fast.experiments.section import Section

pytest.importorskip("matplotlib", reason="needs the extra [experiments]")


def test_histograms_of_ranks_are_judged() -> None:
    g = torch.Generator().manual_seed(0)
    even = torch.randint(100, (2000,), generator=g)
    assert chi_square_p(even) > 0.01 and int(histogram(even).sum()) == 2000
    uneven = torch.cat((even, torch.randint(5, (200,), generator=g)))
    assert chi_square_p(uneven) < 1e-6 and len(histogram(uneven)) == BINS
    small = torch.stack([torch.randint(100, (400,), generator=g) for _ in range(300)])
    below = sum(chi_square_p(ranks) < 0.1 for ranks in small) / 300
    assert 0.05 < below < 0.15, "p-values are as uniform as they say"
    both = {"z1": even, "bare z1": uneven, "pixels": even.double()}
    assert list(p_values(both)) == ["z1"] and list(p_values(both, bare=True)) == ["bare z1"]


def test_a_small_run_passes_and_controls_do_not(tmp_path: Path) -> None:
    context = Context(Settings(), tmp_path)
    sizes = Sizes(truths=40, calibration=12, digits=8, problems=("denoising",))
    section = run(context, "posterior", sizes)
    assert Section.from_json(section.as_json()) is not None
    ranks, truths, real = section.tables
    assert [row[0] for row in ranks.rows] == [row[0] for row in real.rows]
    assert len(ranks.rows) == 1
    for row in ranks.rows:
        assert row[2] > 1e-4, "of thirteen histograms"
        assert row[5] < 1e-4, "gamma x 1.2"
    for row in truths.rows:  # four standard errors of 40 truths
        assert all(abs(float(cell) - 90) < 19 for cell in row[1:] if isinstance(cell, float))
    for figure in section.figures:
        assert (tmp_path / f"{figure.stem}.png").is_file()
    assert section.seconds > 0 and len(section.text) == 2
    again = run(Context(Settings(), tmp_path), "posterior", sizes)
    assert again.as_json()["tables"] == section.as_json()["tables"]
