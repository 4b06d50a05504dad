"""Chains of known modules: their derivatives are those of ``torch.func``.

Everything is float64 and compared to 1e-10, the rounding of a few thousand products.
"""

from __future__ import annotations

import pytest
import torch
from chains import (
    CHAINS,
    CLOSE,
    K,
    check_derivatives,
    codes,
    decoder_of,
    named,
    prepared,
    wrapped,
)
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast.priors.chain import Linear
from jpmap_fast.priors.chain_decoder import ChainDecoder
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.priors.sweep import Places, Sweep, Tangents


@named(CHAINS)
def test_derivatives_are_those_of_torch_func(name):
    module = prepared(CHAINS[name]())
    check_derivatives(decoder_of(module), module, codes())


@pytest.mark.parametrize("name", ["conv-vae-plain-elu", "conv-vae-residual-elu", "Tanh"])
def test_restricted_to_rows_a_chain_is_a_chain_of_those_pixels(name):
    module = prepared(CHAINS[name]())
    whole = decoder_of(module)
    z = codes()
    rows = torch.tensor([4, 0, 3, 2])
    some = whole.restrict(rows)
    assert isinstance(some, ChainDecoder) and some.size == 4
    check_derivatives(some, lambda code: module(code).flatten(1)[:, rows], z)
    one = some.restrict(torch.tensor([2]))
    assert one.size == 1
    check_derivatives(one, lambda code: module(code).flatten(1)[:, 3:4], z)


@pytest.mark.parametrize("name", ["conv-vae-plain-elu", "conv-vae-residual-elu"])
def test_batches_of_one(name):
    module = prepared(CHAINS[name]())
    check_derivatives(decoder_of(module), module, codes(1))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("plus", [False, True])
def test_some_outputs_are_read_wherever_they_lie(shuffled, plus):
    g = torch.Generator().manual_seed(7)
    lying = torch.randn(6, 4, 6, 16, generator=g).permute(0, 3, 1, 2)[:, :12]  # channels innermost
    tangents = Tangents(lying.unflatten(0, (2, 3)), shuffled)
    if plus:
        tangents = Tangents(tangents.t, shuffled, Tangents(torch.randn(2, 3, 12, 4, 6), False))
    if plus and shuffled:
        tangents = Tangents(tangents.t, True, Tangents(tangents.t + 1, True))
    rows = torch.randperm(288, generator=g)[:50]
    places = Places(rows)
    for _ in range(2):  # the second time from what is kept
        assert torch.equal(places.of(tangents), tangents.settle().flatten(2)[..., rows])
    flat = Tangents(torch.randn(1, 3, 288, generator=g))
    assert torch.equal(places.of(flat), flat.t[..., rows])


@pytest.mark.parametrize("outputs", [12, 16, 3])
def test_channels_filled_up_for_matrix_units_are_not_seen(outputs):
    g = torch.Generator().manual_seed(8)
    convolution = nn.Conv2d(8, outputs, 3, padding=1).requires_grad_(False)
    shuffle = nn.PixelShuffle(2) if outputs % 4 == 0 else None
    t = torch.randn(2, 5, 8, 4, 6, generator=g)
    link = Linear(convolution, None, shuffle, torch.bfloat16)
    assert link.weight.shape[0] % 8 == 0
    found = link.tangents(Tangents(t.bfloat16()), Sweep([], torch.bfloat16)).settle()
    expected = convolution(t.flatten(0, 1)) - convolution.bias[:, None, None]
    expected = (expected if shuffle is None else shuffle(expected)).unflatten(0, (2, 5))
    assert found.shape == expected.shape
    assert distance(found.float(), expected.double()) < 0.01


def test_an_images_expansion_does_not_depend_on_its_batch():
    """Library convolutions sum in an order that depends on the shape: float64 rounding remains."""
    decoder = decoder_of(prepared(CHAINS["conv-vae-residual-elu"]()))
    z = codes(7)
    whole = decoder.expand(z, lambda decoded: 1 - decoded, True)
    for rows in (slice(0, 1), slice(2, 5)):
        part = decoder.expand(z[rows], lambda decoded: 1 - decoded, True)
        for mine, all_ in zip(vars(part).values(), vars(whole).values(), strict=True):
            torch.testing.assert_close(mine, all_[rows], rtol=1e-12, atol=1e-12)


def test_an_expansion_leaves_gradients_and_modules_alone():
    module = prepared(CHAINS["conv-vae-plain-elu"]()).requires_grad_(True)
    decoder, z = decoder_of(module), codes()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        expansion = decoder.expand(z, lambda decoded: decoded, True)
        decoder.linearise(z)
        decoder.pullback(z, lambda decoded: decoded)
    assert not z.requires_grad
    assert not any(value.requires_grad for value in vars(expansion).values())
    assert all(parameter.grad is None for parameter in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


# Which decoder a prior gets


@pytest.mark.parametrize("blocks", ["plain", "residual"])
def test_a_conv_vae_is_read_as_a_chain(blocks):
    prior = jf.ConvVAE((2, 8, 16), K, (4,) * 4 if blocks == "plain" else (4, 6), blocks)
    prior = prior.double().eval()
    decoder = make_decoder(prior)
    assert isinstance(decoder, ChainDecoder) and decoder.size == 256
    torch.testing.assert_close(decoder.value(codes()), prior.decode(codes()).flatten(1), **CLOSE)


def test_a_module_prior_of_a_sequence_is_read_as_a_chain():
    module = prepared(CHAINS["transposed-strided"]())
    assert isinstance(make_decoder(wrapped(module)), ChainDecoder)
    assert type(make_decoder(wrapped(module.forward), codes())) is FunctionDecoder


@pytest.mark.parametrize("base", [jf.ConvVAE, jf.ModulePrior])
def test_a_prior_with_a_decode_of_its_own_is_asked_by_it(base):
    class Negative(base):
        def decode(self, z: Tensor) -> Tensor:
            return 1 - super().decode(z)

    if base is jf.ConvVAE:
        prior = Negative((1, 4, 8), K, (4, 6)).double().eval()
    else:
        inner = prepared(nn.Sequential(nn.Linear(K, 32), nn.Sigmoid()))
        prior = Negative(lambda x: x.flatten(1)[:, :K], inner, 0.1, K, (1, 4, 8))
    check_derivatives(make_decoder(prior), prior.decode, codes())


def test_low_precision_is_a_matter_of_gpus_and_can_be_refused():
    prior = jf.ConvVAE((1, 4, 8), K, (4, 6)).eval()
    z = codes().float()
    assert make_decoder(prior).exact_tangents(z)
    prior.low_precision = False
    decoder = make_decoder(prior)
    assert decoder.low_precision is False and decoder.restrict(torch.tensor([1])).exact_tangents(z)


# On a GPU


@pytest.fixture
def on_gpu():
    """A random network with its float64 twin on the CPU, and codes."""

    def make(blocks: str) -> tuple[jf.ConvVAE, jf.ConvVAE, Tensor]:
        torch.manual_seed(7)
        channels = (8, 16, 16, 24) if blocks == "plain" else (8, 16, 24)
        prior = jf.ConvVAE((3, 32, 32), 12, channels, blocks, 64).eval().requires_grad_(False)
        for part in prior.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(std=0.2)
                part.running_var.uniform_(0.5, 2)
            elif isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)) and not part.weight.any():
                part.weight.normal_(std=0.05)
        twin = jf.ConvVAE(**prior.settings).eval().requires_grad_(False)
        twin.load_state_dict(prior.state_dict())
        z = torch.randn(5, 12, generator=torch.Generator().manual_seed(8))
        return prior.cuda(), twin.double(), z

    return make


def distance(found: Tensor, exact: Tensor) -> float:
    """Relative, in the norm of Frobenius."""
    return float((found.cpu().double() - exact).norm() / exact.norm())


@pytest.mark.cuda
@pytest.mark.parametrize("rows", [None, 200])
@pytest.mark.parametrize("blocks", ["plain", "residual"])
def test_tangents_are_good_to_one_percent_and_the_gradient_to_single_precision(
    on_gpu, blocks, rows
):
    prior, twin, z = on_gpu(blocks)
    mine, exact = make_decoder(prior), make_decoder(twin)
    if rows is not None:
        chosen = torch.randperm(exact.size, generator=torch.Generator().manual_seed(9))[:rows]
        mine, exact = mine.restrict(chosen.cuda()), exact.restrict(chosen)
    g = torch.Generator().manual_seed(10)
    c = torch.randn(5, exact.size, generator=g)
    assert isinstance(mine, ChainDecoder) and not mine.exact_tangents(z.cuda())
    found = mine.expand(z.cuda(), lambda decoded: c.cuda(), True)
    best = exact.expand(z.double(), lambda decoded: c.double(), True)
    assert distance(found.columns, best.columns) < 0.01
    assert distance(found.pulled, best.pulled) < 1e-5
    assert distance(found.curvature, best.curvature) < 0.02
    assert distance(mine.linearise(z.cuda())[1], best.columns) < 0.01
    assert distance(mine.value(z.cuda()), exact.value(z.double())) < 1e-6
    pulled = mine.pullback(z.cuda(), lambda decoded: c.cuda())[1]
    assert distance(pulled, best.pulled) < 1e-5
    # Products one by one are in tf32.
    v = torch.randn(5, 12, generator=g)
    linear, reference = mine.linearisation(z.cuda()), exact.linearisation(z.double())
    assert distance(linear.push(v.cuda()), reference.push(v.double())) < 2e-3
    assert distance(linear.pull(c.cuda()), reference.pull(c.double())) < 2e-3


@pytest.mark.cuda
@pytest.mark.parametrize("blocks", ["plain", "residual"])
def test_without_low_precision_tangents_are_single(on_gpu, blocks):
    prior, twin, z = on_gpu(blocks)
    prior.low_precision = False
    found = make_decoder(prior).linearise(z.cuda())
    best = make_decoder(twin).linearise(z.double())
    for mine, exact in zip(found, best, strict=True):
        assert distance(mine, exact) < 1e-5


@pytest.mark.cuda
def test_any_function_has_tangents_good_to_one_percent(on_gpu):
    prior, twin, z = on_gpu("residual")
    mine = FunctionDecoder(prior.decode, 12, twin.decode(z.double())[0].numel())
    exact = make_decoder(twin).linearise(z.double())
    value, columns = mine.linearise(z.cuda())
    assert columns.dtype == torch.float32
    assert distance(columns, exact[1]) < 0.01
    assert distance(value, exact[0]) < 1e-6


@pytest.mark.cuda
def test_the_precision_of_a_users_own_products_is_left_as_it_was(on_gpu):
    prior, _, z = on_gpu("residual")
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    decoder = make_decoder(prior)
    decoder.expand(z.cuda(), lambda decoded: decoded, True)
    decoder.linearisation(z.cuda()).push(z.cuda())
    assert [setting.fp32_precision for setting in settings] == before
