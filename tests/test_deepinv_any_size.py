"""One physics object, pictures of several sizes, and a prior of any size."""

from __future__ import annotations

import math

import pytest
import torch
from small_photos import small_photo_prior
from torch.utils.data import DataLoader

import jpmap_fast as jf

deepinv = pytest.importorskip("deepinv", reason="needs deepinv, the extra [deepinv]")
physics_ = deepinv.physics

from jpmap_fast.deepinv import translation  # noqa: E402
from jpmap_fast.deepinv.layout import Layout  # noqa: E402

SIZES = [(24, 20), (18, 28), (24, 20)]
SIGMA = 0.05
KERNEL = jf.gaussian_kernel(1.2)


pytestmark = pytest.mark.usefixtures("quiet")


def noise(sigma: float = SIGMA):
    return physics_.GaussianNoise(sigma, rng=torch.Generator().manual_seed(0))


def blur(padding: str = "circular", sigma: float = SIGMA):
    return physics_.Blur(KERNEL[None, None], padding=padding, noise_model=noise(sigma))


def downsampling(sigma: float = SIGMA):
    return physics_.Downsampling(
        filter="gaussian", factor=2, padding="circular", noise_model=noise(sigma)
    )


def pictures(size: tuple[int, int], count: int = 2) -> torch.Tensor:
    t, u = torch.linspace(0, 3, size[0])[:, None], torch.linspace(0, 2, size[1])
    wave = 0.5 + 0.4 * torch.sin(2 * t + u)
    return torch.stack([wave, wave.flip(0)])[:count, None]


# A physics, and what this package has in its place at any size.
SAME = {
    "denoising": (physics_.Denoising(noise()), jf.Denoising()),
    "circular blur": (blur(), jf.Blur(KERNEL)),
    "valid blur": (blur("valid"), jf.Blur(KERNEL, "valid")),
    "replicate blur": (blur("replicate"), jf.Blur(KERNEL, "replicate")),
}


@pytest.mark.parametrize("name", SAME)
def test_one_physics_is_right_for_pictures_of_two_sizes(name):
    physics, operator = SAME[name]
    prior = small_photo_prior()
    model = jf.Reconstructor(prior)
    for size in SIZES:
        y = physics(pictures(size))
        expected = jf.restore(y, operator, prior, SIGMA)
        torch.testing.assert_close(model(y, physics), expected.x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(jf.restore(y, physics, prior).x, expected.x)
        assert expected.x.shape[2:] == size
    assert prior.image_shape is None


STACKS = {
    "one shape": lambda: [physics_.Denoising(noise()), blur()],
    "two shapes and levels": lambda: [physics_.Denoising(noise()), downsampling(2 * SIGMA)],
}


@pytest.mark.parametrize("name", STACKS)
def test_stacked_physics_take_two_sizes(name):
    physics, prior = physics_.stack(*STACKS[name]()), small_photo_prior()
    model = jf.Reconstructor(prior)
    for size in SIZES:
        y = physics(pictures(size))
        expected = jf.restore(y, physics, prior.bind((1, *size)))
        assert torch.equal(model(y, physics), expected.x)
        assert torch.equal(jf.restore(y, physics, prior).x, expected.x)


def test_measurements_tell_the_image_shape_whatever_was_measured_before():
    physics = downsampling()
    y = [physics(pictures(size)) for size in SIZES[:2]]
    assert translation.image_shape_of(physics, y[0]) == (1, *SIZES[0])
    assert translation.image_shape_of(physics, y[1]) == (1, *SIZES[1])
    assert translation.image_shape_of(physics, y[0][1]) == (1, *SIZES[0])
    assert translation.image_shape_of(physics, y[0].numpy()) == (1, *SIZES[0])
    stacked = physics_.stack(*STACKS["two shapes and levels"]())
    measured = stacked(pictures(SIZES[1]))
    assert translation.image_shape_of(stacked, measured) == (1, *SIZES[1])
    assert translation.image_shape_of(stacked, list(measured)) == (1, *SIZES[1])


def test_a_layout_fits_measurements_of_its_shapes():
    stacked = physics_.stack(*STACKS["two shapes and levels"]())
    small, other = (stacked(pictures(size)) for size in SIZES[:2])
    layout = Layout.of(small)
    assert layout.fits(small) and layout.fits(stacked(pictures(SIZES[0], 1)))
    assert not layout.fits(other) and not layout.fits(small[0])
    assert Layout.of(small[0]).fits(small[0]) and not Layout.of(small[0]).fits(other[0])


def test_what_is_made_of_a_physics_is_kept_for_one_size(monkeypatch):
    made = []
    real = translation.translate

    def counted(physics, shape, batch):
        made.append(shape)
        return real(physics, shape, batch)

    monkeypatch.setattr(translation, "translate", counted)
    physics, model = blur(), jf.Reconstructor(small_photo_prior())
    for size in (SIZES[0], SIZES[0], SIZES[1], SIZES[1]):
        model(physics(pictures(size)), physics)
    assert made == [(1, *SIZES[0]), (1, *SIZES[1])]


def test_measurements_of_another_size_than_the_physics_are_refused():
    mask = torch.ones(1, *SIZES[0])
    physics = physics_.Inpainting((1, *SIZES[0]), mask=mask, noise_model=noise())
    y = pictures(SIZES[1])
    for call in (
        lambda: jf.restore(y, physics, small_photo_prior()),
        lambda: jf.Reconstructor(small_photo_prior())(y, physics),
    ):
        with pytest.raises(ValueError, match=r"y: expected measurements of the Inpainting.*one si"):
            call()


def _inpainting(size: tuple[int, int]):
    mask = (torch.rand(1, *size, generator=torch.Generator().manual_seed(0)) < 0.7).float()
    return physics_.Inpainting((1, *size), mask=mask, noise_model=noise())


@pytest.mark.parametrize(
    "make",
    [lambda size: blur(), _inpainting, lambda size: downsampling()],
    ids=["blur", "inpainting", "downsampling"],
)
def test_it_runs_in_the_benchmark_call_of_deepinverse(make):
    model = jf.Reconstructor(small_photo_prior())
    for size in SIZES[:2]:
        loader = DataLoader(list(pictures(size)), batch_size=1)
        found = deepinv.test(
            model,
            loader,
            make(size),
            online_measurements=True,
            metrics=deepinv.metric.PSNR(),
            device="cpu",
            verbose=False,
            show_progress_bar=False,
        )
        assert math.isfinite(found["PSNR"])


def test_the_noise_level_may_be_estimated():
    physics, model = (
        physics_.Denoising(noise()),
        jf.Reconstructor(small_photo_prior(), sigma="auto"),
    )
    y = physics(pictures((40, 32)))
    expected = jf.restore(y, jf.Denoising(), small_photo_prior(), sigma="auto")
    assert torch.equal(model(y, physics), expected.x)
    stacked = physics_.stack(*STACKS["one shape"]())
    with pytest.raises(ValueError, match="sigma: expected a number.*got PhysicsOperator"):
        model(stacked(pictures((40, 32))), stacked)
