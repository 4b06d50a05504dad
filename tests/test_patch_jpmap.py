"""Joint MAP by patches: the formula, its table, every operator, and its commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_photos import small_patch_prior as small
from small_photos import small_photo_prior
from test_encoder_continuation import SIGMA, operators, pictures
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.algorithms.encoder_schedule import levels_of, patch_levels_of
from jpmap_fast.cli import app


def test_denoising_is_what_the_formula_says() -> None:
    prior, x = small().double(), pictures().double()
    sigma = torch.tensor([0.05, 0.2], dtype=torch.float64)
    y = x + sigma[:, None, None, None] * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    method = jf.PatchJPMAP(steps=3, first=1e-3, last=0.25, weight=0.4)
    found = jf.restore(y, jf.Denoising(), prior, sigma, method=method)
    expected = prior.autoencode(y, sigma)  # from sigma on, however small ``first`` is
    for share in (0.5, 0.25):
        weight = 0.4 / share**2
        x = (y + weight * expected) / (1 + weight)
        expected = prior.autoencode(x, share * sigma)
    assert torch.allclose(found.x, expected, atol=1e-9)
    assert found.iterations.tolist() == [3, 3] and bool(found.objective.isnan().all())


@pytest.mark.parametrize("name", operators())
def test_every_operator_runs_and_a_picture_restores_as_it_does_alone(name: str) -> None:
    prior, x, operator = small().bind((1, 24, 24)), pictures(2), operators()[name]
    sigma = torch.tensor([0.02, 0.1])
    y = operator.measure(x, sigma, torch.Generator().manual_seed(1))
    method = jf.PatchJPMAP(steps=2)
    together = jf.restore(y, operator, prior, sigma, method=method).x
    assert bool(torch.isfinite(together).all())
    for i in range(2):
        alone = jf.restore(y[i], operator, prior, float(sigma[i]), method=method).x
        assert torch.allclose(alone, together[i], rtol=0, atol=2e-5)


def test_it_is_the_method_of_these_priors_and_has_a_table_of_its_own() -> None:
    prior, y = small(), pictures() + 0.1
    found = jf.restore(y, jf.Denoising(), prior, SIGMA)
    levels = patch_levels_of(jf.Denoising())
    assert found.iterations.tolist() == [levels.steps] * 2
    named = jf.restore(y, jf.Denoising(), prior, SIGMA, method="patch-jpmap")
    given = jf.PatchJPMAP(levels.steps, levels.first, levels.last, levels.weight)
    written = jf.restore(y, jf.Denoising(), prior, SIGMA, method=given)
    assert torch.equal(found.x, named.x) and torch.equal(found.x, written.x)
    assert levels != levels_of(jf.Denoising())


def test_the_encoder_s_method_takes_them_too_and_the_other_way_round() -> None:
    y = pictures() + 0.1
    found = jf.restore(y, jf.Denoising(), small(), SIGMA, method="encoder")
    assert torch.allclose(found.x, small().autoencode(y, torch.full((2,), SIGMA)), atol=1e-6)
    other = jf.restore(y, jf.Denoising(), small_photo_prior(), SIGMA, method="patch-jpmap")
    assert bool(torch.isfinite(other.x).all())


@pytest.mark.parametrize("name", ["denoising", "inpainting", "blur"])
def test_a_restorer_gives_the_same(name: str) -> None:
    prior, operator = small(), operators()[name]
    y = operator.measure(pictures(), SIGMA, torch.Generator().manual_seed(1))
    served = jf.Restorer(operator, prior, SIGMA, batch_size=2, image_shape=(1, 24, 24))
    assert torch.equal(served(y).x, jf.restore(y, operator, prior, SIGMA).x)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["denoising", "inpainting", "blur"])
def test_a_restorer_captures_it(name: str) -> None:
    device = torch.device("cuda")
    prior, operator = small().to(device), operators()[name].to(device)
    x = pictures().to(device)
    y = operator.measure(x, SIGMA, torch.Generator(device).manual_seed(1))
    served = jf.Restorer(operator, prior, SIGMA, batch_size=2, image_shape=(1, 24, 24))
    assert served.captured
    for shift in (0.0, 0.1):
        expected = jf.restore(y + shift, operator, prior, SIGMA).x
        assert torch.allclose(served(y + shift).x, expected, atol=1e-4)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="got 'patch-jpmap', which needs .* such as 'patches'"):
        jf.restore(torch.rand(1, 1, 28, 28), jf.Denoising(), "mnist", 0.1, method="patch-jpmap")
    with pytest.raises(ValueError, match="expected 'patch-jpmap' .* no latent codes, got JPMAP"):
        jf.restore(pictures(), jf.Denoising(), small(), 0.1, method="jpmap")
    with pytest.raises(ValueError, match="expected grey pictures"):
        jf.restore(torch.rand(1, 3, 8, 8), jf.Denoising(), small(), 0.1)
    for settings in ({"steps": 0}, {"first": 0.0}, {"last": -1.0}, {"weight": 0.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            jf.PatchJPMAP(**settings)


# The bundled prior


def test_the_bundled_prior_denoises_and_deblurs() -> None:
    x = jf.data.photograph()[..., 84:116, 54:86].mean(dim=1, keepdim=True)
    prior, generator = jf.load_prior("patches"), torch.Generator().manual_seed(0)
    assert prior.channels == 1 and prior.image_shape is None
    for level, least in ((15, 4.0), (50, 9.0)):
        y = x + level / 255 * torch.randn(x.shape, generator=generator)
        found = jf.restore(y, jf.Denoising(), prior, level / 255).x
        assert float(jf.psnr(found, x) - jf.psnr(y, x)) > least, level
    blur = jf.Blur(jf.gaussian_kernel(1.6))
    y = blur.measure(x, 2.55 / 255, generator)
    found = jf.restore(y, blur, prior, 2.55 / 255).x
    assert float(jf.psnr(found, x) - jf.psnr(y, x)) > 1.5


def test_the_commands_train_and_restore(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for n, picture in enumerate(pictures(3, 30)):
        Image.fromarray((255 * picture[0]).byte().numpy()).save(folder / f"{n}.png")
    weights = tmp_path / "mine.safetensors"
    arguments = ["train", str(folder), "-o", str(weights), "--network", "patches", "--seed", "1"]
    arguments += ["--components", "3", "--patch-size", "4", "--patches", "500", "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    card = weights.with_suffix(".md").read_text()
    assert "3 pictures of `pictures`" in card and "- components: 3" in card and "- 25/255:" in card
    for prior in (str(weights), "patches"):
        out = tmp_path / "restored"
        arguments = ["restore", str(folder / "0.png"), "--operator", "denoising", "--sigma", "10"]
        done = CliRunner().invoke(app, [*arguments, "--prior", prior, "--output", str(out)])
        assert done.exit_code == 0, done.output
    for extra in (["--minutes", "0"], ["--checkpoint", str(tmp_path / "run")]):
        done = CliRunner().invoke(app, ["train", str(folder), "-o", str(weights), "--network",
                                        "patches", *extra])  # fmt: skip
        assert done.exit_code == 2 and extra[0] in done.output


def test_a_reconstructor_of_deepinv_runs_it() -> None:
    deepinv = pytest.importorskip("deepinv")
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    y = pictures() + 0.1
    found = jf.Reconstructor("patches")(y, physics)
    assert torch.equal(found, jf.restore(y, jf.Denoising(), "patches", 0.1).x)
