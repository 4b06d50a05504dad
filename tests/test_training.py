"""Training: the loss, repeatability, resuming, and the command."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import small_mlp
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.training import Recipe, train
from jpmap_fast.training.loss import negative_elbo

SETTINGS = {"latent_dim": 2, "hidden": (12,), "batch_size": 16, "learning_rate": 1e-2}


def digits(number: int) -> torch.Tensor:
    return jf.mnist_test_digits(number)[0]


def parameters(prior: jf.MLPVAE) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in prior.parameters()])


def test_loss_is_the_negative_elbo_of_the_clean_image_given_the_noisy_one():
    prior = small_mlp()
    g = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1, 6, 5, generator=g, dtype=torch.float64)
    corruption = torch.randn(4, 1, 6, 5, generator=g, dtype=torch.float64)
    noise = torch.randn(4, 3, generator=g, dtype=torch.float64)
    nll, kl, mse = negative_elbo(prior, clean, corruption, noise, 0.3)
    mean, log_std = prior.encode(clean + 0.3 * corruption)
    posterior = torch.distributions.Normal(mean, log_std.exp())
    observed = torch.distributions.Normal(prior.decode(mean + log_std.exp() * noise), prior.gamma)
    expected_kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1))
    torch.testing.assert_close(nll, -observed.log_prob(clean).flatten(1).sum(1).mean())
    torch.testing.assert_close(kl, expected_kl.sum(1).mean())
    torch.testing.assert_close(mse, (observed.mean - clean).square().mean())


def test_closed_form_gamma_is_the_one_with_the_least_loss():
    prior = small_mlp()
    g = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1, 6, 5, generator=g, dtype=torch.float64)
    corruption = torch.zeros_like(clean)
    noise = torch.randn(4, 3, generator=g, dtype=torch.float64)
    best, _, mse = negative_elbo(prior, clean, corruption, noise, 0.3, closed_form=True)
    for factor in (0.99, 1.0, 1.01):
        with torch.no_grad():
            prior.log_gamma.fill_(0.5 * math.log(float(mse)) + math.log(factor))
        nll, _, _ = negative_elbo(prior, clean, corruption, noise, 0.3)
        assert (nll > best) if factor != 1 else torch.isclose(nll, best, rtol=1e-12)


def test_training_lowers_the_loss_and_learns_gamma():
    images = digits(100)
    prior = train(images, epochs=30, **SETTINGS)
    with torch.no_grad():
        error = (prior.decode(prior.encode(images)[0]) - images).square().mean().sqrt()
    assert error < 0.9 * images.std()
    # The best gamma is the root mean square error over samples of z, near that of the mean.
    assert float(error) * 0.7 < prior.gamma < float(error) * 1.5


def test_same_seed_same_bits_and_another_seed_others():
    images = digits(40)
    first = parameters(train(images, epochs=2, seed=5, **SETTINGS))
    assert torch.equal(first, parameters(train(images, epochs=2, seed=5, **SETTINGS)))
    assert not torch.equal(first, parameters(train(images, epochs=2, seed=6, **SETTINGS)))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, schedule):
    images, path = digits(40), tmp_path / "run.pt"
    whole = train(images, epochs=4, schedule=schedule, **SETTINGS)

    class Interrupted(Exception):
        pass

    # Interrupted after two epochs, as by a user: the checkpoint of the second stands.
    from jpmap_fast.training import trainer

    written = trainer.write_checkpoint
    calls = []

    def interrupting(*arguments):
        written(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted

    trainer.write_checkpoint = interrupting
    try:
        with pytest.raises(Interrupted):
            train(images, epochs=4, schedule=schedule, checkpoint=path, **SETTINGS)
    finally:
        trainer.write_checkpoint = written
    resumed = train(images, epochs=4, schedule=schedule, checkpoint=path, resume=True, **SETTINGS)
    assert torch.equal(parameters(whole), parameters(resumed))
    assert torch.equal(parameters(jf.load_prior(path)), parameters(whole))


def test_checkpoint_of_another_recipe_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(digits(20), epochs=1, checkpoint=path, **SETTINGS)
    with pytest.raises(ValueError, match="differs in seed"):
        train(digits(20), epochs=1, checkpoint=path, resume=True, seed=3, **SETTINGS)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"sigma_dvae": -0.1}, "sigma_dvae"),
        ({"schedule": "step"}, "constant"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        train(digits(4), **{**SETTINGS, **settings})


def test_defaults_are_the_authors_recipe():
    default = Recipe()
    assert default.latent_dim == 8 and default.hidden == (512, 512)
    assert default.epochs == 200 and default.batch_size == 128
    assert default.learning_rate == 1e-4 and math.isclose(default.sigma_dvae, 15 / 255)


def test_command_trains_resumes_and_writes_a_card(tmp_path):
    data, out, run = tmp_path / "d.npz", tmp_path / "mine.safetensors", tmp_path / "run.pt"
    np.savez(data, x_train=(digits(30)[:, 0] * 255).round().byte().numpy())
    common = ["train", str(data), "--output", str(out), "--hidden", "12", "--latent-dim", "2"]
    common += ["--checkpoint", str(run), "--device", "cpu", "--terms", "public digits"]
    done = CliRunner().invoke(app, [*common, "--epochs", "2"])
    assert done.exit_code == 0, done.output
    assert "gamma" in done.output and "PSNR" in done.output
    first = jf.load_prior(out)
    card = out.with_suffix(".md").read_text()
    assert "public digits" in card and "30" in card
    done = CliRunner().invoke(app, [*common, "--epochs", "3", "--resume"])
    assert done.exit_code == 0, done.output
    assert not torch.equal(parameters(first), parameters(jf.load_prior(out)))


def test_command_says_in_one_line_what_is_wrong(tmp_path):
    out = tmp_path / "mine.safetensors"
    done = CliRunner().invoke(app, ["train", str(tmp_path / "none.npz"), "--output", str(out)])
    assert done.exit_code != 0 and "no such file" in done.output
    assert "Traceback" not in done.output
