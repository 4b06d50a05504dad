"""What ``decode`` does is what is restored with, and decoders without a derivative are refused."""

from __future__ import annotations

import pytest
import torch
from problems import LinearPrior
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import jpmap_fast as jf

SHAPE, K = (1, 6, 5), 3


def mlp() -> jf.MLPVAE:
    torch.manual_seed(0)
    prior = jf.MLPVAE(SHAPE, K, (16, 12)).eval().requires_grad_(False)
    for layer in prior.decoder_layers:
        layer.weight.mul_(3)
    return prior


class Halved(jf.MLPVAE):
    def decode(self, z: Tensor) -> Tensor:
        return 0.5 * super().decode(z)


class Adapter(nn.Module):
    """A low-rank addition to a layer, which shows the layer's weight as its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    weight = property(lambda self: self.layer.weight)
    bias = property(lambda self: self.layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        return self.layer(h) + 0.3 * h.mean(dim=1, keepdim=True)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def subclassed() -> jf.MLPVAE:
    prior = Halved(SHAPE, K, (16, 12)).eval().requires_grad_(False)
    prior.load_state_dict(mlp().state_dict())
    return prior


def hooked() -> jf.MLPVAE:
    prior = mlp()
    prior.decoder_layers[-1].register_forward_hook(lambda module, given, out: out - 2)
    return prior


def pre_hooked() -> jf.MLPVAE:
    prior = mlp()
    prior.decoder_layers[0].register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    return prior


def adapted() -> jf.MLPVAE:
    prior = mlp()
    prior.decoder_layers[0] = Adapter(prior.decoder_layers[0])
    return prior


def parametrised() -> jf.MLPVAE:
    prior = mlp()
    parametrize.register_parametrization(prior.decoder_layers[1], "weight", Doubled())
    return prior.requires_grad_(False)


def weight_normed() -> jf.MLPVAE:
    prior = mlp()
    parametrizations.weight_norm(prior.decoder_layers[1])
    return prior.requires_grad_(False)


def patched() -> jf.MLPVAE:
    prior = mlp()
    decode = prior.decode
    prior.decode = lambda z: decode(z).clamp(0.2, 0.8)  # type: ignore[method-assign]
    return prior


def patched_layer() -> jf.MLPVAE:
    prior = mlp()
    layer = prior.decoder_layers[1]
    layer.forward = lambda h: F.linear(h, 0.5 * layer.weight, layer.bias)
    return prior


def chain_patched() -> jf.ConvVAE:
    torch.manual_seed(0)
    prior = jf.ConvVAE((1, 4, 8), K, (4, 6)).eval().requires_grad_(False)
    decode = prior.decode
    prior.decode = lambda z: 1 - decode(z)  # type: ignore[method-assign]
    return prior


def foreign_clipped() -> nn.Module:
    class Clipped(LinearPrior):
        def decode(self, z: Tensor) -> Tensor:
            return super().decode(z).clamp(0, 1)

    return Clipped().float()


OWN = [
    subclassed,
    hooked,
    pre_hooked,
    adapted,
    parametrised,
    weight_normed,
    patched,
    patched_layer,
    chain_patched,
    foreign_clipped,
]


@pytest.mark.parametrize("make", OWN, ids=lambda make: make.__name__)
def test_the_images_are_those_of_decode(make):
    prior = make()
    y = torch.rand(3, *prior.image_shape, generator=torch.Generator().manual_seed(1))
    for method in (jf.JPMAP(), jf.CSGM()):
        found = jf.restore(y, jf.Denoising(), prior, 0.2, method=method)
        asked = prior.decode(found.z)
        torch.testing.assert_close(found.decoded, asked, rtol=1e-5, atol=1e-5)
    restorer = jf.Restorer(jf.Denoising(), prior, 0.2, batch_size=3)(y)
    torch.testing.assert_close(restorer.decoded, prior.decode(restorer.z), rtol=1e-5, atol=1e-5)


def test_the_codes_are_those_of_encode():
    class Shifted(jf.MLPVAE):
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_std = super().encode(x)
            return mean + 1, log_std

    prior = Shifted(SHAPE, K, (16, 12)).eval().requires_grad_(False)
    prior.load_state_dict(mlp().state_dict())
    y = torch.rand(2, *SHAPE)
    method = jf.AlternateConvexSearch(max_iterations=1)
    found = jf.restore(y, jf.Denoising(), prior, 0.2, method=method, record=True)
    assert found.history is not None
    taken = found.history.candidate[1] == 1
    torch.testing.assert_close(found.z[taken], prior.encode(y)[0][taken])


def test_untouched_networks_keep_their_fast_path():
    y = torch.rand(2, *SHAPE)
    assert jf.restore(y, jf.Denoising(), mlp(), 0.2).path == "compiled"


# Decoders that torch cannot differentiate as they are


def body() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(K, 32), nn.ELU(), nn.Linear(32, 30), nn.Sigmoid())
    with torch.no_grad():
        layers[2].weight.mul_(8)
    return layers.eval()


def prior_of(decode) -> jf.ModulePrior:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(30, K)).eval()
    return jf.ModulePrior(encoder, decode, 0.1, K, SHAPE)


def no_grad(z: Tensor) -> Tensor:
    with torch.no_grad():
        return body()(z)


def inference(z: Tensor) -> Tensor:
    with torch.inference_mode():
        return body()(z)


def through_numpy(z: Tensor) -> Tensor:
    return body()(torch.from_numpy(z.numpy()))


def half_detached(z: Tensor) -> Tensor:
    h = body()[:2](z)
    h = torch.cat((h[:, :16].detach(), h[:, 16:]), dim=1)
    return body()[2:](h)


CUTS = {
    "no_grad": no_grad,
    "detach": lambda z: body()(z).detach(),
    "data": lambda z: body()(z.data),
    "inference_mode": inference,
    "numpy": through_numpy,
    "half detached": half_detached,
    "rounded": lambda z: (body()(z) * 255).round() / 255,
    "bytes": lambda z: (body()(z) * 255).byte().float() / 255,
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("method", [jf.JPMAP(), jf.JPMAP(z_solver=jf.Adam()), jf.CSGM()])
def test_a_decoder_that_cuts_the_gradient_is_refused(cut, method):
    y = torch.rand(2, *SHAPE)
    with pytest.raises(ValueError, match="prior: expected decode to pass derivatives on"):
        jf.restore(y, jf.Denoising(), prior_of(CUTS[cut]), 0.1, method=method)
    if not isinstance(method, jf.JPMAP) or method.z_solver == jf.GaussNewton():
        with pytest.raises(ValueError, match="prior: expected decode to pass derivatives on"):
            jf.Restorer(jf.Denoising(), prior_of(CUTS[cut]), 0.1, batch_size=2, method=method)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.last = nn.Linear(K, 64), nn.Linear(16, 48), nn.Linear(64, 30)

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(z).reshape(-1, 1, 4, 16)).chunk(3, -1)
        return torch.sigmoid(self.last(F.scaled_dot_product_attention(q, k, v).flatten(1)))


class WrittenOut(Attention):
    """The same with the attention as two products and a softmax."""

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(z).reshape(-1, 1, 4, 16)).chunk(3, -1)
        weights = torch.softmax(q @ k.mT / 4, dim=-1)
        return torch.sigmoid(self.last((weights @ v).flatten(1)))


class Resampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(K, 30)

    def forward(self, z: Tensor) -> Tensor:
        images = torch.sigmoid(self.layer(z)).reshape(-1, *SHAPE)
        grid = F.affine_grid(
            0.9 * torch.eye(2, 3).expand(len(z), 2, 3), list(images.shape), align_corners=False
        )
        return F.grid_sample(images, grid, align_corners=False)


class _Cube(torch.autograd.Function):
    """As extensions write them: reverse mode, and none of functorch's rules."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient * ctx.saved_tensors[0] ** 2


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(K, 30)

    def forward(self, z: Tensor) -> Tensor:
        return _Cube.apply(torch.tanh(self.layer(z)))


def expected_path(prior: jf.ModulePrior) -> str:
    """Releases of torch differ in what has a forward-mode rule."""
    z = torch.zeros(2, K)
    try:
        torch.func.jvp(prior.decode, (z,), (torch.ones_like(z),))
    except (RuntimeError, NotImplementedError):
        return "torch (reverse mode)"
    return "torch"


@pytest.mark.parametrize("kind", [Attention, Resampled, Custom])
@pytest.mark.parametrize("solver", ["auto", "conjugate-gradient"])
def test_decoders_without_forward_mode_fall_back_and_say_so(kind, solver):
    torch.manual_seed(0)
    prior = prior_of(kind().eval())
    path = expected_path(prior)
    assert path == "torch (reverse mode)" or kind is not Custom
    y = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    method = jf.JPMAP(starts=1, z_solver=jf.GaussNewton(linear_solver=solver))
    found = jf.restore(y, jf.Denoising(), prior, 0.1, method=method)
    assert found.path == path
    assert bool(found.converged.all()), found.status
    adam = jf.JPMAP(starts=1, z_solver=jf.Adam(tolerance=1e-6, max_steps=20_000))
    slow = jf.restore(y, jf.Denoising(), prior, 0.1, method=adam, z0=found.z)
    assert bool((found.objective <= slow.objective * (1 + 1e-4)).all())
    restorer = jf.Restorer(jf.Denoising(), prior, 0.1, batch_size=4, method=method)
    assert restorer.path == path
    torch.testing.assert_close(restorer(y).objective, found.objective)


def test_the_fall_back_finds_what_forward_mode_finds():
    torch.manual_seed(0)
    fused = Attention().eval()
    written = WrittenOut().eval()
    written.load_state_dict(fused.state_dict())
    y = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    operator = jf.Inpainting((torch.rand(SHAPE[1:]) < 0.6).float())
    one = jf.restore(y, operator, prior_of(fused), 0.1)
    other = jf.restore(y, operator, prior_of(written), 0.1)
    assert (one.path, other.path) == ("torch (reverse mode)", "torch")
    torch.testing.assert_close(one.objective, other.objective, rtol=1e-4, atol=0)
