"""A second stage: two networks as one, and codes that become N(0, I)."""

from __future__ import annotations

import math

import pytest
import torch
from problems import IMAGE_SHAPE, small_mlp
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.priors.two_stage import composed

QUICK = {"hidden": (8,), "steps": 3, "batch_size": 16, "progress": False}


def second_of(first: jf.MLPVAE, latent_dim: int = 2, **settings) -> jf.MLPVAE:
    shape = (first.latent_dim, 1, 1)
    options = {"hidden": (7, 5), "output_activation": "identity", **settings}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return jf.MLPVAE(shape, latent_dim, **options).to(first.log_gamma)


def test_both_stages_are_one_perceptron():
    first = small_mlp()
    second = second_of(first)
    both = composed(first, second)
    g = torch.Generator().manual_seed(0)
    u = torch.randn(6, 2, generator=g, dtype=torch.float64)
    x = torch.rand(6, *IMAGE_SHAPE, generator=g, dtype=torch.float64)
    assert both.hidden == (16, 12, 7, 5) and both.latent_dim == 2
    torch.testing.assert_close(both.decode(u), first.decode(second.decode(u).flatten(1)))
    codes = first.encode(x)[0].reshape(6, -1, 1, 1)
    for mine, theirs in zip(both.encode(x), second.encode(codes), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert both.gamma == pytest.approx(first.gamma)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"output_activation": "sigmoid"}, "second: expected images .* and an identity output"),
        ({"hidden_activation": "tanh"}, "second: expected 'elu' units, as first has, got 'tanh'"),
    ],
)
def test_stages_that_do_not_fit_are_refused(settings, text):
    first = small_mlp()
    with pytest.raises(ValueError, match=text):
        composed(first, second_of(first, **settings))
    with pytest.raises(ValueError, match=r"second: expected images \(3, 1, 1\)"):
        composed(first, second_of(small_mlp(latent_dim=4)))


def curved(number: int = 3000) -> tuple[jf.MLPVAE, torch.Tensor]:
    """A prior whose encoder reads two pixels, and images whose codes lie on a thick arc."""
    prior = jf.MLPVAE((1, 1, 2), 2, (2,), "elu", "identity")
    with torch.no_grad():
        prior.encoder_layers[0].weight.copy_(torch.eye(2))
        prior.encoder_layers[0].bias.fill_(1.0)  # where ELU is the identity
        prior.encoder_mean.weight.copy_(8 * torch.eye(2))
        prior.encoder_mean.bias.fill_(-12.0)
        prior.encoder_log_std.weight.zero_()
        prior.encoder_log_std.bias.fill_(math.log(0.05))
        prior.decoder_layers[0].weight.copy_(torch.eye(2) / 8)
        prior.decoder_layers[0].bias.fill_(1.0)
        prior.decoder_layers[1].weight.copy_(torch.eye(2))
        prior.decoder_layers[1].bias.fill_(-0.5)
        prior.log_gamma.fill_(math.log(0.01))
    g = torch.Generator().manual_seed(0)
    angle = math.pi * torch.rand(number, generator=g)
    radius = 0.4 + 0.02 * torch.randn(number, generator=g)
    points = 0.5 + torch.stack((angle.cos(), angle.sin() - 0.5), dim=1) * radius[:, None]
    return prior.eval(), points.clamp(0, 1).reshape(-1, 1, 1, 2)


def test_draws_of_the_second_stage_lie_where_the_images_do():
    prior, images = curved()
    torch.testing.assert_close(prior.decode(prior.encode(images)[0]), images)
    settings = {"hidden": (32, 32), "steps": 1500, "batch_size": 256, "learning_rate": 4e-3}
    both = jf.train_second_stage(prior, images, **settings, deviation=0.1, progress=False)
    g = torch.Generator().manual_seed(1)

    def strays(decode, latent_dim):
        """How far draws are from the nearest image, root mean square."""
        with torch.no_grad():
            made = decode(torch.randn(2000, latent_dim, generator=g))
        nearest = torch.cdist(made.flatten(1), images.flatten(1)).amin(dim=1)
        return float(nearest.square().mean().sqrt())

    before, after = strays(prior.decode, 2), strays(both.decode, 2)
    assert after < 0.5 * before
    codes = both.encode(images)[0]
    assert 0.8 < float(codes.square().mean().sqrt()) < 1.2
    # No dimension is lost, and images still come back.
    error = float((both.decode(codes) - images).square().mean().sqrt())
    assert error < 0.03 and error / 2 < both.gamma < 0.05


def test_the_first_stage_stays_as_it_is_and_a_seed_gives_the_same_bits():
    first = jf.load_prior("mnist")
    before = {name: value.clone() for name, value in first.state_dict().items()}
    images = jf.mnist_test_digits(32)[0]
    one, same = (jf.train_second_stage(first, images, **QUICK, seed=4) for _ in range(2))
    other = jf.train_second_stage(first, images, **QUICK, seed=5)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    assert torch.equal(one.decoder_layers[0].weight, same.decoder_layers[0].weight)
    assert not torch.equal(one.decoder_layers[0].weight, other.decoder_layers[0].weight)
    found = jf.restore(images[:2], jf.Denoising(), one, 0.1)
    assert found.path == "compiled"


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        ({"hidden": ()}, ValueError, "hidden"),
        ({"hidden": (0,)}, ValueError, "hidden: expected at least 1"),
        ({"steps": 0}, ValueError, "steps: expected at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1"),
        ({"deviation": 0}, ValueError, "deviation: expected a finite number > 0"),
        ({"learning_rate": -1}, ValueError, "learning_rate: expected a finite number > 0"),
        ({"images": torch.zeros(2, 1, 4, 4)}, ValueError, "images: expected shape"),
        ({"prior": jf.ConvVAE((1, 16, 16), 4, (4, 4))}, TypeError, "prior: expected an MLPVAE"),
    ],
)
def test_what_cannot_be_trained_is_refused(bad, error, text):
    given = {"prior": jf.load_prior("mnist"), "images": jf.mnist_test_digits(2)[0], **QUICK, **bad}
    with pytest.raises(error, match=text):
        jf.train_second_stage(given.pop("prior"), given.pop("images"), **given)


def test_a_rate_that_is_too_large_is_told():
    with pytest.raises(ValueError, match="training diverged by step"):
        jf.train_second_stage(
            jf.load_prior("mnist"),
            jf.mnist_test_digits(32)[0],
            **{**QUICK, "steps": 60},
            learning_rate=1e6,
        )


def test_the_command_trains_one(tmp_path):
    import numpy as np

    digits = (255 * jf.mnist_test_digits(64)[0][:, 0]).byte().numpy()
    np.savez(tmp_path / "digits.npz", x=digits)
    output = tmp_path / "both.safetensors"
    command = ["train", str(tmp_path / "digits.npz"), "-o", str(output), "--second-stage", "mnist"]
    few = ["--hidden", "8,8", "--steps", "3", "--residuals", "0", "--no-progress"]
    result = CliRunner().invoke(app, [*command, *few])
    assert result.exit_code == 0, result.output
    prior = jf.load_prior(output)
    assert prior.hidden == (512, 512, 8, 8)
    assert "second autoencoder" in output.with_suffix(".md").read_text()
    for extra in (["--epochs", "3"], ["--network", "mlp"], ["--sigma-dvae", "3"]):
        result = CliRunner().invoke(app, [*command, *few, *extra])
        assert result.exit_code != 0
        assert f"{extra[0]}: expected none with --second-stage" in result.output
    unknown = [*command[:-1], "letters", *few]
    assert "unknown prior 'letters'" in CliRunner().invoke(app, unknown).output
