"""Training of the hierarchical prior: loss, learning, pieces, command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_photos import small_hierarchical_prior as small
from test_photo_training import waves
from torch.distributions import Normal, kl_divergence
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.training import (
    HierarchicalRecipe,
    denoising_psnr,
    photo_trainer,
    train_hierarchical_photos,
    train_photos,
)

TINY: dict[str, Any] = {
    "batch_size": 4,
    "crop": 16,
    "warm_up": 2,
    "widths": (8, 12),
    "encoder_blocks": (1, 1),
    "latent_blocks": (1, 1),
    "latent_channels": 4,
    "precision": "float32",
    "learning_rate": 5e-3,
    "rate_warm_up": 100,
    "progress": False,
}


@pytest.mark.parametrize("free", [0.0, 0.05, 1e3])
def test_the_loss_is_the_bound_with_its_best_gamma(free: float) -> None:
    prior, recipe = small().double(), HierarchicalRecipe(free_nats=free)
    g = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 1, 8, 8, generator=g, dtype=torch.float64)
    s = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    found = recipe.forward(prior.network, clean + 0.1, s, g)
    decoded, posteriors = found
    weights = (1 + s * 255 / 2)[:, None, None, None]
    gamma = ((clean - decoded).square() / weights).mean().sqrt() * weights.sqrt()
    likelihood = Normal(decoded, gamma).log_prob(clean).mean()
    rates = [
        kl_divergence(Normal(d, log_r.exp()), Normal(0.0, 1.0)).sum() / (3 * 64)
        for d, log_r in zip(posteriors.shifts, posteriors.log_scales, strict=True)
    ]
    weight = torch.tensor(0.3, dtype=torch.float64)
    constant = 0.5 * math.log(2 * math.pi) + 0.5 + 0.5 * weights.log().mean()
    expected = -likelihood - constant + 0.3 * sum(max(float(rate), free) for rate in rates)
    assert float(recipe.loss(found, clean, s, weight)) == pytest.approx(float(expected), rel=1e-10)


def test_it_learns_to_describe_and_to_denoise() -> None:
    untrained = train_hierarchical_photos(waves(), steps=1, **TINY)[0]
    prior, done = train_hierarchical_photos(waves(), steps=300, ema=0.9, **TINY)
    assert done == 300 and prior.gamma < 0.5 * untrained.gamma
    x = waves()[0][None].float() / 255
    assert prior.log_likelihood_bound(x) < untrained.log_likelihood_bound(x) - 1
    assert denoising_psnr(prior, waves(), 50 / 255) > -20 * math.log10(50 / 255) + 1


def test_pieces_end_with_the_bits_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_trainer, "_EACH", 4)
    whole, _ = train_hierarchical_photos(waves(), steps=12, **TINY)
    clock = iter(range(1000))
    monkeypatch.setattr(photo_trainer.time, "monotonic", lambda: float(next(clock)))
    counts = []
    options = {"checkpoint": tmp_path / "run", "resume": True}
    for _ in range(3):
        part, done = train_hierarchical_photos(waves(), steps=12, seconds=2.5, **options, **TINY)
        counts.append(done)
    assert counts == [4, 8, 12] and part.gamma == whole.gamma
    for own, other in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(own, other)
    with pytest.raises(ValueError, match="it differs in free_nats"):
        train_hierarchical_photos(waves(), steps=12, free_nats=0.1, **options, **TINY)
    with pytest.raises(ValueError, match="a checkpoint of such a network for photographs"):
        train_photos(waves(), steps=12, crop=16, progress=False, **options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"free_nats": -1.0}, "free_nats: expected a number >= 0"),
        ({"free_nats": math.inf}, "free_nats: expected a number >= 0"),
        ({"crop": 0}, "crop"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HierarchicalRecipe(**settings)


def test_the_command_trains_a_prior_that_restores(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n, picture in enumerate(waves(2, 3)):
        Image.fromarray(np.tile(picture.permute(1, 2, 0).numpy(), (1, 2, 1))).save(
            folder / f"{n}.png"
        )
    out = tmp_path / "mine.safetensors"
    arguments = ["train", str(folder), "-o", str(out), "--network", "hierarchical-photos"]
    arguments += ["--steps", "2", "--batch-size", "2", "--crop", "16", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "--no-progress"])
    assert done.exit_code == 0, done.output
    assert "2 of 2 steps" in done.output
    card = out.with_suffix(".md").read_text()
    assert "A hierarchical variational autoencoder" in card and "- free_nats: 0.002" in card
    prior = jf.load_prior(out)
    assert isinstance(prior, jf.HierarchicalPhotoPrior)
    assert jf.restore(torch.rand(1, 1, 9, 11), jf.Denoising(), prior, 0.1).x.shape == (1, 1, 9, 11)


@pytest.mark.cuda
def test_a_captured_step_trains_as_an_eager_one() -> None:
    settings = {**TINY, "steps": 30, "learning_rate": 1e-3}
    eager, _ = train_hierarchical_photos(waves(), device="cuda", cuda_graph=False, **settings)
    held, _ = train_hierarchical_photos(waves(), device="cuda", **settings)
    for own, other in zip(eager.network.parameters(), held.network.parameters(), strict=True):
        assert torch.allclose(own, other, rtol=0.05, atol=5e-3)
