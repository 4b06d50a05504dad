"""Training: the loss, repeatability, and resuming."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from problems import small_mlp
from training_images import colours, digits, parameters

import jpmap_fast as jf
from jpmap_fast.training import Recipe, train
from jpmap_fast.training.augmentation import augment
from jpmap_fast.training.loss import negative_elbo

SETTINGS = {"latent_dim": 2, "hidden": (12,), "batch_size": 16, "learning_rate": 1e-2}
CONV = {"latent_dim": 2, "batch_size": 16, "learning_rate": 3e-3, "progress": False}
NETWORKS = {
    "conv-residual": {**CONV, "network": "conv-residual", "channels": (4, 6)},
    "conv-plain": {**CONV, "network": "conv-plain", "channels": (4, 4, 6, 6)},
}
JUDGED = {"held_out": 0.25, "augment": True, "gamma": "closed-form", "patience": 3}


class Interrupted(Exception):
    """As by a user."""


@pytest.fixture
def epochs_seen(monkeypatch):
    """What every epoch writes to its checkpoint; a number in ``stop`` interrupts after it."""
    from jpmap_fast.training import trainer

    written, seen = trainer.write_checkpoint, []

    def noting(path, content):
        written(path, content)
        seen.append(copy.deepcopy(content))
        if len(seen) == noting.stop:
            raise Interrupted

    noting.stop = 0
    monkeypatch.setattr(trainer, "write_checkpoint", noting)
    seen_with_stop = SimpleNamespace(contents=seen, stop=lambda n: setattr(noting, "stop", n))
    return seen_with_stop


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


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        {**SETTINGS, "schedule": "cosine"},
        {**SETTINGS, **JUDGED},
        {**NETWORKS["conv-residual"], **JUDGED, "schedule": "cosine"},
        {**NETWORKS["conv-plain"], **JUDGED, "weight_decay": 0.1},
    ],
    ids=["constant", "cosine", "judged", "conv-residual", "conv-plain"],
)
def test_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, settings, epochs_seen):
    images = colours(41) if "network" in settings else digits(40)
    path = tmp_path / "run.pt"
    whole = train(images, epochs=5, **settings)
    epochs_seen.stop(2)
    with pytest.raises(Interrupted):
        train(images, epochs=5, checkpoint=path, **settings)
    assert epochs_seen.contents[-1]["epochs_done"] == 2
    resumed = train(images, epochs=5, checkpoint=path, resume=True, **settings)
    assert torch.equal(parameters(whole), parameters(resumed))
    assert torch.equal(parameters(jf.load_prior(path)), parameters(whole))
    # Resumed once more it has nothing left to do.
    again = train(images, epochs=5, checkpoint=path, resume=True, **settings)
    assert torch.equal(parameters(whole), parameters(again))


# Fast enough to find its best in a few epochs, and to lose it again.
RESTLESS = {**SETTINGS, "learning_rate": 0.04, "held_out": 0.3, "epochs": 20}


@pytest.mark.parametrize("gamma", ["learned", "closed-form"])
def test_the_weights_of_the_best_epoch_are_returned(tmp_path, gamma, epochs_seen):
    path = tmp_path / "run.pt"
    prior = train(digits(60), checkpoint=path, gamma=gamma, **RESTLESS)
    contents = epochs_seen.contents
    assert len(contents) == 20
    _, best, loss = contents[-1]["best"]
    assert 1 <= best < 20, "the case should have its best epoch before its last"
    assert all(content["best"][2] >= loss for content in contents)
    expected = contents[best - 1]["model"]
    for name, value in prior.state_dict().items():
        assert torch.equal(value, expected[name]), name
    loaded = jf.load_prior(path)
    assert torch.equal(parameters(loaded), parameters(prior))
    assert not torch.equal(contents[-1]["model"]["log_gamma"], prior.log_gamma)


def test_a_run_that_diverges_says_so_and_leaves_its_last_good_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(
        ValueError, match="training diverged in epoch .*smaller learning_rate than 9"
    ):
        train(digits(60), checkpoint=path, epochs=30, **{**SETTINGS, "learning_rate": 9.0})
    assert not path.exists() or torch.isfinite(parameters(jf.load_prior(path))).all()


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_the_run_so_many_epochs_after_its_best(tmp_path, patience, epochs_seen):
    path = tmp_path / "run.pt"
    settings = {**RESTLESS, "epochs": 60, "patience": patience}
    prior = train(digits(60), checkpoint=path, **settings)
    contents = epochs_seen.contents
    best = contents[-1]["best"][1]
    assert len(contents) == best + patience < 60
    resumed = train(digits(60), checkpoint=path, resume=True, **settings)
    assert torch.equal(parameters(prior), parameters(resumed))
    assert len(contents) == best + patience


def test_images_held_out_are_not_trained_on(monkeypatch):
    """Nor shown twice: the two sets are the images."""
    from jpmap_fast.training.step import TrainingStep

    images = torch.rand(30, 1, 4, 4)
    trained, judged = [], []
    step, losses = TrainingStep.__call__, TrainingStep.losses

    def noted_step(self, clean, *rest):
        trained.extend(clean.clone())
        return step(self, clean, *rest)

    def noted_losses(self, clean, *rest):
        if not torch.is_grad_enabled():
            judged.extend(clean.clone())
        return losses(self, clean, *rest)

    monkeypatch.setattr(TrainingStep, "__call__", noted_step)
    monkeypatch.setattr(TrainingStep, "losses", noted_losses)
    train(images, epochs=1, held_out=0.2, **SETTINGS)
    assert len(trained) == 24 and len(judged) == 6
    shown = torch.stack(trained + judged).flatten(1)
    distance = (shown[:, None] - images.flatten(1)).abs().amax(2)
    assert torch.equal((distance == 0).sum(0), torch.ones(30, dtype=torch.int64))


def test_closed_form_gamma_is_the_error_on_the_images_held_out():
    """Over codes drawn from the encoder, so a little above that of their means."""
    from jpmap_fast.training.trainer import _split

    settings = {**SETTINGS, "gamma": "closed-form", "held_out": 0.25, "epochs": 30}
    images = digits(96)
    prior = train(images, progress=False, **settings)
    _, held_out = _split(images, Recipe(**settings))
    assert held_out is not None and len(held_out) == 24
    with torch.no_grad():
        error = float((prior.decode(prior.encode(held_out)[0]) - held_out).square().mean().sqrt())
    assert 0.95 * error < prior.gamma < 1.3 * error


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("gamma", ["learned", "closed-form"])
def test_convolutional_networks_learn_in_seconds(network, gamma):
    images = colours(64)
    settings = {**NETWORKS[network], "gamma": gamma, "batch_size": 8}
    torch.manual_seed(0)

    def error(prior) -> float:
        with torch.no_grad():
            return float((prior.decode(prior.encode(images)[0]) - images).square().mean().sqrt())

    first = train(images, epochs=1, **settings)
    prior = train(images, epochs=15, **settings)
    assert isinstance(prior, jf.ConvVAE) and prior.image_shape == (3, 8, 16)
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())
    assert error(prior) < 0.75 * error(first) and error(prior) < 0.75 * float(images.std())
    if gamma == "closed-form":
        assert 0.9 * error(prior) < prior.gamma < 1.6 * error(prior)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_last_batch_of_one_image_is_no_obstacle(network):
    """A batch normalisation of one pixel of one image would have no variance."""
    settings = {**NETWORKS[network], "batch_size": 4}
    images = colours(9)[:, :, :, :8]
    if network == "conv-residual":
        settings["channels"] = (4, 4, 4)
    assert math.isfinite(train(images, epochs=2, **settings).gamma)


def test_bfloat16_is_a_matter_of_gpus():
    images = colours(16)
    one, other = (
        train(images, epochs=1, precision=precision, **NETWORKS["conv-residual"])
        for precision in ("float32", "bfloat16")
    )
    assert torch.equal(parameters(one), parameters(other))


def test_cosine_schedule_falls_from_the_learning_rate_to_nothing():
    recipe = Recipe(learning_rate=0.1, schedule="cosine", epochs=10)
    rates = [recipe.learning_rate_of(epoch) for epoch in range(11)]
    assert rates[0] == 0.1 and math.isclose(rates[5], 0.05) and abs(rates[10]) < 1e-12
    assert rates == sorted(rates, reverse=True)
    assert Recipe(learning_rate=0.1).learning_rate_of(7) == 0.1


def test_augmentation_is_for_training_images_alone(monkeypatch):
    from jpmap_fast.training import trainer

    sizes = []

    def noted(images, generator):
        sizes.append(len(images))
        return augment(images, generator)

    monkeypatch.setattr(trainer, "augment", noted)
    train(digits(40), epochs=1, held_out=0.25, augment=True, **SETTINGS)
    assert sum(sizes) == 30
    sizes.clear()
    train(digits(40), epochs=1, **SETTINGS)
    assert not sizes


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
        ({"network": "conv"}, "network: expected one of 'mlp', .* got 'conv'"),
        ({"gamma": "fixed"}, "gamma: expected one of 'learned', .* got 'fixed'"),
        ({"precision": "half"}, "precision: expected one of 'float32', .* got 'half'"),
        ({"held_out": 1.0}, r"held_out: expected a share in \[0, 1\), got 1.0"),
        ({"held_out": -0.1}, r"held_out: expected a share in \[0, 1\), got -0.1"),
        ({"held_out": 0.1}, "held_out: expected images on both sides, got 0 of 4 held out"),
        ({"held_out": 0.9}, "held_out: expected images on both sides, got 4 of 4 held out"),
        ({"patience": 2}, "patience: needs images to judge by; set held_out"),
        ({"patience": -1}, "patience: expected at least 0, got -1"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number >= 0, got -1.0"),
        ({"network": "conv-residual", "channels": (4, 4, 4)}, "multiples of 8 .*got"),
        ({"network": "conv-plain", "channels": (4, 4)}, "expected four widths"),
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


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_convolutional_networks_learn_on_a_gpu(network, precision, tmp_path):
    """By a captured graph, the best epoch by images held out, and resumed."""
    images = colours(70)
    settings = {**NETWORKS[network], "held_out": 0.25, "gamma": "closed-form", "batch_size": 8}
    settings |= {"precision": precision, "schedule": "cosine", "device": "cuda", "epochs": 40}
    path = tmp_path / "run.pt"
    prior = train(images, checkpoint=path, **settings)
    with torch.no_grad():
        x = images.cuda()
        error = float((prior.decode(prior.encode(x)[0]) - x).square().mean().sqrt())
    assert error < 0.75 * float(images.std()) and 0.5 * error < prior.gamma < 2 * error
    again = train(images, checkpoint=path, resume=True, **settings)
    assert torch.equal(parameters(again), parameters(prior))
    assert jf.load_prior(path).gamma == pytest.approx(prior.gamma, rel=1e-6)
