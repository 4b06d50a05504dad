"""Priors of any image size, with codes that are images themselves."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast.priors import derivatives

CHANNELS = 2  # of a code, at half the resolution of the image
SIZES = [(1, 8, 6), (1, 4, 12)]
SIGMA, GAMMA = 0.1, 0.15


class Convolutional(nn.Module):
    """Codes [B, 2, H / 2, W / 2] of grey images of even sides."""

    image_shape: tuple[int, ...] | None = None
    latent_dim = 0
    code_shape: tuple[int, ...] = ()
    gamma = GAMMA

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = nn.Conv2d(1, CHANNELS, 2, stride=2)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, 4, 4, stride=2, padding=1),
            nn.ELU(),
            nn.Conv2d(4, 1, 3, padding=1),
            nn.Sigmoid(),
        )
        for parameter in self.parameters():
            parameter.data.normal_(std=0.4, generator=generator)

    def bind(self, image_shape: Sequence[int]) -> Convolutional:
        channels, height, width = image_shape
        if channels != 1 or height % 2 or width % 2:
            raise ValueError(f"image_shape: expected (1, even, even), got {tuple(image_shape)}")
        new = copy.copy(self)
        new.image_shape = tuple(image_shape)
        new.code_shape = (CHANNELS, height // 2, width // 2)
        new.latent_dim = math.prod(new.code_shape)
        return new

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encoder(x)
        return mean, torch.zeros_like(mean)

    def decode(self, z: Tensor) -> Tensor:
        assert tuple(z.shape[1:]) == self.code_shape
        return self.decoder(z)


class Denoising(jf.Denoising):
    """It tells the shape of the images by that of the measurements."""

    def image_shape_of(self, measured_shape: Sequence[int]) -> tuple[int, ...] | None:
        return tuple(measured_shape) if len(measured_shape) == 3 else None


class Silent(jf.Denoising):
    """It tells nothing."""

    def image_shape_of(self, measured_shape: Sequence[int]) -> None:
        return None


def prior(dtype: torch.dtype = torch.float64) -> Convolutional:
    return Convolutional().to(dtype).eval().requires_grad_(False)


def measured(shape: tuple[int, ...], batch: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(1)
    bound = prior().bind(shape)
    codes = torch.randn(batch, *bound.code_shape, generator=g, dtype=torch.float64)
    clean = bound.decode(codes)
    return clean + SIGMA * torch.randn(clean.shape, generator=g, dtype=torch.float64)


def joint(y: Tensor, x: Tensor, z: Tensor, decoded: Tensor) -> Tensor:
    """J1 of denoising from its definition [B]."""
    data = (x - y).flatten(1).square().sum(1) / (2 * SIGMA**2)
    coupling = (x - decoded).flatten(1).square().sum(1) / (2 * GAMMA**2)
    return data + coupling + 0.5 * z.flatten(1).square().sum(1)


METHODS = {
    "newton": jf.JPMAP(),
    "products": jf.JPMAP(z_solver=jf.GaussNewton(linear_solver="conjugate-gradient")),
    "columns": jf.JPMAP(z_solver=jf.GaussNewton(linear_solver="direct")),
    "adam": jf.JPMAP(z_solver=jf.Adam(learning_rate=0.05, max_steps=3000, tolerance=1e-6)),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", SIZES)
def test_one_prior_restores_images_of_two_sizes(name, shape):
    y, p = measured(shape), prior()
    found = jf.restore(y, Denoising(), p, SIGMA, method=METHODS[name], record=True)
    bound = p.bind(shape)
    assert found.z.shape == (3, *bound.code_shape) and found.x.shape == y.shape
    torch.testing.assert_close(found.decoded, bound.decode(found.z))
    expected = joint(y, found.x, found.z, found.decoded)
    torch.testing.assert_close(found.objective, expected, rtol=1e-6, atol=0)
    assert found.history is not None
    assert found.history.z.shape[1:] == found.z.shape
    # At a minimum over x and z the gradient is zero: what a descent by autograd would follow.
    z = found.z.clone().requires_grad_()
    with torch.enable_grad():
        gradient = torch.autograd.grad(joint(y, found.x, z, bound.decode(z)).sum(), z)[0]
    assert float(gradient.abs().max()) < 1e-2 * float(found.z.abs().max())
    assert p.image_shape is None, "the caller's prior is bound to nothing"


def test_all_methods_know_such_codes():
    y = measured(SIZES[0])
    for method in (jf.MAPz(starts=1), jf.MAPzSplitting(betas=[10.0, 100.0]), jf.CSGM(starts=3)):
        found = jf.restore(y, Denoising(), prior(), SIGMA, method=method)
        assert found.z.shape == (3, CHANNELS, 4, 3) and bool(found.z.isfinite().all())
    slow = jf.restore(y, Denoising(), prior(), SIGMA, method="alternate-convex-search")
    assert slow.z.shape == found.z.shape


def test_an_image_is_restored_alone_as_in_its_batch_and_goes_on_from_its_code():
    y, p = measured(SIZES[0]), prior()
    whole = jf.restore(y, Denoising(), p, SIGMA)
    alone = jf.restore(y[1], Denoising(), p, SIGMA)
    assert alone.z.shape == (CHANNELS, 4, 3)
    torch.testing.assert_close(alone.z, whole.z[1], rtol=1e-5, atol=1e-5)
    again = jf.restore(y, Denoising(), p, SIGMA, z0=whole.z)
    torch.testing.assert_close(again.objective, whole.objective, rtol=1e-6, atol=0)
    one = jf.restore(y[1], Denoising(), p, SIGMA, z0=whole.z[1])
    assert one.z.shape == alone.z.shape
    with pytest.raises(ValueError, match=r"z0: expected shape \[3, 2, 4, 3\], .* \[3, 24\]"):
        jf.restore(y, Denoising(), p, SIGMA, z0=whole.z.flatten(1))


def test_a_failed_image_has_no_code_and_the_others_keep_theirs():
    y, p = measured(SIZES[0]), prior()
    clean = jf.restore(y, Denoising(), p, SIGMA)
    y[1, 0, 2, 3] = torch.nan
    found = jf.restore(y, Denoising(), p, SIGMA)
    assert found.z.shape == clean.z.shape and bool(found.z[1].isnan().all())
    torch.testing.assert_close(found.z[::2], clean.z[::2], rtol=1e-5, atol=1e-5)


def test_a_restorer_takes_a_bound_prior():
    y, p = measured(SIZES[0]), prior()
    restorer = jf.Restorer(Denoising(), p.bind(SIZES[0]), SIGMA, batch_size=3)
    expected = jf.restore(y, Denoising(), p, SIGMA)
    torch.testing.assert_close(restorer(y).objective, expected.objective, rtol=1e-5, atol=0)
    warm = restorer(y[:2], expected.z[:2])
    assert warm.z.shape == (2, CHANNELS, 4, 3)
    with pytest.raises(ValueError, match=r"image_shape: expected \(C, H, W\)"):
        jf.Restorer(Denoising(), p, SIGMA, batch_size=3)


def test_a_restorer_reads_the_shape_that_its_operator_is_bound_to():
    y, p = measured(SIZES[0]), prior()
    expected = jf.restore(y, Denoising(), p, SIGMA)
    for operator in (jf.Denoising(), Silent()):
        made = jf.Restorer(operator.bind(SIZES[0]), p, SIGMA, batch_size=3)
        for restorer in (made, pickle.loads(pickle.dumps(made))):
            torch.testing.assert_close(restorer(y).objective, expected.objective, rtol=1e-5, atol=0)
    found = jf.restore(y, Silent().bind(SIZES[0]), p, SIGMA)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-5, atol=0)
    with pytest.raises(TypeError, match=r"operator: expected an operator .*, got str"):
        jf.Restorer("denoising", p, SIGMA, batch_size=3)


def test_what_bind_returns_is_looked_at_as_what_was_given():
    class Dropping(Convolutional):
        def bind(self, image_shape: Sequence[int]) -> Convolutional:
            new = super().bind(image_shape)
            new.decoder = nn.Sequential(*self.decoder, nn.Dropout(0.5))
            return new

    class Narrow(Convolutional):
        def bind(self, image_shape: Sequence[int]) -> Convolutional:
            return copy.deepcopy(super().bind(image_shape)).float()

    y = measured(SIZES[0])
    for kind, message in (
        (Dropping, r"prior: expected evaluation mode, got decoder.4 \(Dropout\) in training mode"),
        (Narrow, "expected bind to return a prior in torch.float64 on cpu, got .*float32 on cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            jf.restore(y, Denoising(), kind().double().eval(), SIGMA)
        with pytest.raises(ValueError, match=message):
            jf.Restorer(Denoising().bind(SIZES[0]), kind().double().eval(), SIGMA, batch_size=3)


def test_sizes_that_are_not_told_or_do_not_fit_are_refused():
    y, p = measured(SIZES[0]), prior()
    with pytest.raises(ValueError, match="prior: expected one of a fixed image shape.*do not tell"):
        jf.restore(y, Silent(), p, SIGMA)
    jf.restore(y, Silent(), p.bind(SIZES[0]), SIGMA)
    with pytest.raises(ValueError, match=r"image_shape: expected \(1, even, even\), got \(1, 7, 6"):
        jf.restore(y[:, :, 1:], Denoising(), p, SIGMA)
    with pytest.raises(ValueError, match=r"y: expected shape \[B, 1, 4, 12\]"):
        jf.restore(y, Denoising(), p.bind(SIZES[1]), SIGMA)


def test_a_prior_of_any_size_has_to_be_bound_rightly():
    class Unbindable(Convolutional):
        bind = None  # type: ignore[assignment]

    class Elsewhere(Convolutional):
        def bind(self, image_shape: Sequence[int]) -> Convolutional:
            return super().bind((1, 2, 2))

    class Nothing(Convolutional):
        def bind(self, image_shape: Sequence[int]) -> None:  # type: ignore[override]
            return None

    class OtherCodes(Convolutional):
        def bind(self, image_shape: Sequence[int]) -> Convolutional:
            new = super().bind(image_shape)
            new.code_shape = (CHANNELS, 4, 4)
            return new

    y = measured(SIZES[0])
    for kind, error, message in (
        (Unbindable, ValueError, "or a method bind"),
        (Elsewhere, ValueError, r"for images of shape \[1, 8, 6\], got \[1, 2, 2\]"),
        (Nothing, TypeError, "expected bind to return a prior.*got NoneType"),
        (OtherCodes, ValueError, r"a code_shape of latent_dim = 24 entries, got \(2, 4, 4\)"),
    ):
        with pytest.raises(error, match=message):
            jf.restore(y, Denoising(), kind().double().eval(), SIGMA)


def test_large_jacobians_are_not_written_out_to_be_looked_at(monkeypatch):
    y = measured(SIZES[0])
    expected = jf.restore(y, Denoising(), prior(), SIGMA)
    monkeypatch.setattr(derivatives, "MOST_NUMBERS", 100)

    def never(*_: object) -> None:
        raise AssertionError("all columns were asked for")

    method = METHODS["products"]
    with monkeypatch.context() as patch:
        patch.setattr("jpmap_fast.priors.function_decoder.FunctionDecoder.forward_mode", never)
        found = jf.restore(y, Denoising(), prior(), SIGMA, method=method)
    assert found.path == expected.path == "torch"
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-5, atol=0)

    class Cut(Convolutional):
        def decode(self, z: Tensor) -> Tensor:
            return super().decode(z.detach())

    with pytest.raises(ValueError, match="prior: expected decode to pass derivatives on"):
        jf.restore(y, Denoising(), Cut().double().eval(), SIGMA, method=method)
