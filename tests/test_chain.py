"""Chains of known modules: their derivatives are those of ``torch.func``, and what is no chain.

Everything is float64 and compared to 1e-10, the rounding of a few thousand products.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast.priors.chain_decoder import ChainDecoder
from jpmap_fast.priors.chain_reader import read_chain
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.priors.residual import Residual

K = 3  # latent dimensions
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def conv_vae(blocks: str, activation: str = "elu") -> nn.Module:
    channels = (4, 6, 6, 8) if blocks == "plain" else (4, 6)
    return jf.ConvVAE((2, 8, 16), K, channels, blocks, 10, activation).decoder_network


def image(*modules: nn.Module, channels: int = 4, height: int = 3, width: int = 2) -> nn.Sequential:
    """Modules behind a linear one that makes images of the code."""
    return nn.Sequential(
        nn.Linear(K, channels * height * width),
        nn.Unflatten(1, (channels, height, width)),
        nn.SiLU(),
        *modules,
    )


def residual(*modules: nn.Module) -> Residual:
    return Residual(nn.Sequential(*modules))


CHAINS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"conv-vae-{blocks}-{activation}": lambda b=blocks, a=activation: conv_vae(b, a)
        for blocks in ("plain", "residual")
        for activation in ("elu", "relu", "silu", "softplus", "tanh")
    },
    **{
        type(module).__name__: lambda m=module: nn.Sequential(
            nn.Linear(K, 7), m, nn.Linear(7, 5), m
        )
        for module in (nn.ELU(), nn.ReLU(), nn.SiLU(), nn.Softplus(), nn.Tanh(), nn.Sigmoid())
    },
    "in-place": lambda: nn.Sequential(
        nn.Linear(K, 7), nn.ELU(inplace=True), nn.Linear(7, 5), nn.SiLU(inplace=True)
    ),
    "linear": lambda: nn.Sequential(nn.Linear(K, 7), nn.Linear(7, 5, bias=False)),
    "starts-with-activation": lambda: nn.Sequential(nn.Tanh(), nn.Linear(K, 5)),
    "one-activation-twice": lambda: nn.Sequential(nn.Linear(K, 5), nn.Tanh(), nn.Tanh()),
    "linear-on-images": lambda: image(nn.Linear(2, 5), nn.Tanh()),
    "conv-bias": lambda: image(nn.Conv2d(4, 5, 3, padding=1), nn.Tanh()),
    "conv-no-bias": lambda: image(nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.Tanh()),
    "conv-same": lambda: image(nn.Conv2d(4, 5, 3, padding="same"), nn.Tanh()),
    "conv-strided": lambda: image(nn.Conv2d(4, 5, (3, 1), stride=(2, 1), padding=(1, 0)), nn.ELU()),
    "conv-groups": lambda: image(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Sigmoid()),
    "conv-depthwise": lambda: image(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Sigmoid()),
    "conv-dilation": lambda: image(nn.Conv2d(4, 5, 3, padding=2, dilation=2), nn.Sigmoid()),
    "transposed": lambda: image(nn.ConvTranspose2d(4, 5, 3), nn.ELU()),
    "transposed-strided": lambda: image(
        nn.ConvTranspose2d(4, 5, 5, stride=2, padding=2, output_padding=1, bias=False), nn.ELU()
    ),
    "transposed-groups": lambda: image(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.ELU()),
    "transposed-dilation": lambda: image(nn.ConvTranspose2d(4, 5, 3, dilation=2), nn.ELU()),
    "norm-after-conv": lambda: image(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ELU(), width=4),
    "norm-after-conv-groups": lambda: image(
        nn.Conv2d(4, 6, 1, groups=2), nn.BatchNorm2d(6), nn.ELU()
    ),
    "norm-after-transposed": lambda: image(
        nn.ConvTranspose2d(4, 5, 3), nn.BatchNorm2d(5), nn.Sigmoid()
    ),
    "norm-after-transposed-groups": lambda: image(
        nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Sigmoid()
    ),
    "norm-after-linear": lambda: image(nn.Linear(2, 4), nn.BatchNorm2d(4), nn.Tanh()),
    "norm-alone": lambda: image(nn.BatchNorm2d(4), nn.Tanh(), nn.BatchNorm2d(4)),
    "norm-twice": lambda: image(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
    "norm-without-weights": lambda: image(
        nn.Conv2d(4, 5, 1),
        nn.BatchNorm2d(5, affine=False),
        nn.Tanh(),
        nn.BatchNorm2d(5, affine=False, eps=0.1),
    ),
    "norm-last": lambda: image(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)),
    "nearest": lambda: image(nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3), nn.Tanh()),
    "nearest-old": lambda: image(nn.UpsamplingNearest2d(scale_factor=2), nn.Tanh()),
    "bilinear": lambda: image(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Tanh()),
    "bilinear-corners": lambda: image(
        nn.Upsample(size=(7, 5), mode="bilinear", align_corners=True), nn.Tanh()
    ),
    "bicubic": lambda: image(nn.Upsample(scale_factor=2, mode="bicubic"), nn.Tanh()),
    "shuffle": lambda: image(nn.Conv2d(4, 8, 3, padding=1), nn.PixelShuffle(2), nn.Tanh()),
    "shuffle-norm": lambda: image(
        nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.PixelShuffle(2), nn.Tanh()
    ),
    "shuffle-groups": lambda: image(nn.Conv2d(4, 8, 1, groups=2), nn.PixelShuffle(2), nn.Tanh()),
    "shuffle-last": lambda: image(nn.Conv2d(4, 8, 1), nn.PixelShuffle(2)),
    "shuffle-alone": lambda: image(nn.PixelShuffle(2), nn.Conv2d(1, 2, 3), nn.Tanh()),
    "shuffle-by-three": lambda: image(nn.Conv2d(4, 9, 1), nn.PixelShuffle(3), nn.Tanh()),
    "flatten": lambda: image(nn.Flatten(), nn.Linear(24, 5), nn.Tanh()),
    "flatten-some": lambda: image(nn.Flatten(2), nn.Linear(6, 5), nn.Tanh()),
    "flatten-from-the-end": lambda: image(nn.Flatten(-2), nn.Linear(6, 5), nn.Tanh()),
    "unflatten-last": lambda: nn.Sequential(
        nn.Linear(K, 12), nn.Unflatten(-1, (3, 2, 2)), nn.Conv2d(3, 2, 2), nn.Tanh()
    ),
    "dropout": lambda: image(nn.Dropout(0.5), nn.Conv2d(4, 5, 1), nn.Dropout2d(0.5), nn.Tanh()),
    "identity": lambda: image(nn.Identity(), nn.Conv2d(4, 5, 1), nn.Identity(), nn.Tanh()),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(K, 8), nn.Sequential(nn.ELU())),
        nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 1)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Sequential()),
    ),
    "residual-linear": lambda: image(residual(nn.Conv2d(4, 4, 3, padding=1)), nn.Tanh()),
    "residual-twice": lambda: image(
        residual(nn.ELU(), nn.Conv2d(4, 4, 1)), residual(nn.Tanh(), nn.Conv2d(4, 4, 1)), nn.Tanh()
    ),
    "residual-in-residual": lambda: image(
        residual(nn.ELU(), residual(nn.Tanh(), nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 4, 1)),
        nn.SiLU(),
        nn.Conv2d(4, 2, 1),
    ),
    "residual-of-residual": lambda: image(residual(residual(nn.Tanh())), nn.SiLU()),
    "residual-first": lambda: nn.Sequential(residual(nn.Linear(K, K), nn.Tanh()), nn.Linear(K, 5)),
    "residual-last": lambda: image(residual(nn.Tanh(), nn.Conv2d(4, 4, 1))),
    "residual-of-nothing": lambda: image(residual(), nn.Tanh()),
    "residual-after-shuffle": lambda: image(
        nn.Conv2d(4, 8, 1),
        nn.PixelShuffle(2),
        residual(nn.ELU(), nn.Conv2d(2, 2, 3, padding=1)),
        nn.Tanh(),
    ),
    "residual-with-shuffle": lambda: image(
        residual(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 4, 2, 2)), nn.Tanh()
    ),
}


def named(table):
    """Names of a table as parameters."""
    return pytest.mark.parametrize("name", list(table))


def prepared(module: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, every parameter and statistic random."""
    module = module.double().eval().requires_grad_(False)
    torch.manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            if part.running_var is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.3, 3)
            if part.weight is not None:
                part.weight.normal_()
                part.bias.normal_()
        elif hasattr(part, "weight"):
            fan_in = part.weight[0].numel()
            part.weight.normal_(std=1.5 / math.sqrt(fan_in))
            if part.bias is not None:
                part.bias.normal_(std=0.5)
    return module


def codes(batch: int = 4) -> Tensor:
    return torch.randn(batch, K, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def decoder_of(module: nn.Module) -> ChainDecoder:
    size = module(codes(1)).numel()
    found = ChainDecoder.of(module, K, size, True)
    assert found is not None, "not read as a chain"
    return found


def jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Transposed Jacobians [B, k, n] by torch.func alone."""
    one = torch.func.jacrev(lambda code: function(code[None]).flatten())
    return torch.func.vmap(one)(z).mT


def weighted_hessian(function: Callable[[Tensor], Tensor], z: Tensor, c: Tensor) -> Tensor:
    """sum_j c_j times the Hessian of output j, [B, k, k], by torch.func alone."""

    def weighted(code: Tensor, weight: Tensor) -> Tensor:
        return (function(code[None]).flatten() * weight).sum()

    return torch.func.vmap(torch.func.hessian(weighted))(z, c)


def check_derivatives(
    decoder: FunctionDecoder, function: Callable[[Tensor], Tensor], z: Tensor
) -> None:
    """Everything a solver asks of a decoder, against torch.func on ``function``."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        expected = function(z).flatten(1)
    columns = jacobian(function, z)
    c = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    pulled = torch.einsum("bkn,bn->bk", columns, c)
    torch.testing.assert_close(decoder.value(z), expected, **CLOSE)
    assert decoder.exact_tangents(z)

    value, found = decoder.linearise(z)
    torch.testing.assert_close(value, expected, **CLOSE)
    torch.testing.assert_close(found, columns, **CLOSE)

    value, found = decoder.pullback(z, lambda decoded: c * decoded)
    torch.testing.assert_close(value, expected, **CLOSE)
    torch.testing.assert_close(found, torch.einsum("bkn,bn->bk", columns, c * expected), **CLOSE)

    linear = decoder.linearisation(z)
    for _ in range(2):  # a linearisation serves many products
        v = torch.randn(z.shape, generator=g, dtype=torch.float64)
        torch.testing.assert_close(linear.push(v), torch.einsum("bkn,bk->bn", columns, v), **CLOSE)
        torch.testing.assert_close(linear.pull(c), pulled, **CLOSE)

    for second_order in (False, True):
        with torch.no_grad():
            expansion = decoder.expand(z, lambda decoded: c + 0 * decoded, second_order)
        torch.testing.assert_close(expansion.columns, columns, **CLOSE)
        torch.testing.assert_close(expansion.pulled, pulled, **CLOSE)
        if not second_order:
            assert expansion.curvature is None
        elif isinstance(decoder, ChainDecoder):
            curvature = expansion.curvature
            if curvature is None:  # no activation in the chain
                curvature = torch.zeros(len(z), K, K, dtype=torch.float64)
            torch.testing.assert_close(curvature, weighted_hessian(function, z, c), **CLOSE)


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


# What a chain is not


class Doubled(nn.Module):
    """A module of the user's own."""

    def forward(self, h: Tensor) -> Tensor:
        return 2 * h


class Backwards(nn.Sequential):
    """A sequence that is none."""

    def forward(self, h: Tensor) -> Tensor:
        for module in reversed(self):
            h = module(h)
        return h


class OwnLinear(nn.Linear):
    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h) ** 2


class OwnResidual(Residual):
    def forward(self, h: Tensor) -> Tensor:
        return h - self.body(h)


def with_hook(module: nn.Module, *, before: bool = False) -> nn.Module:
    if before:
        module.register_forward_pre_hook(lambda _, inputs: (3 * inputs[0],))
    else:
        module.register_forward_hook(lambda _, inputs, out: 3 * out)
    return module


def with_forward(module: nn.Module) -> nn.Module:
    """A module whose forward was replaced, not its class."""
    inner = module.forward
    module.forward = lambda h: 3 * inner(h)
    return module


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "own-module": lambda: nn.Sequential(nn.Linear(K, 5), Doubled()),
    "own-module-inside": lambda: image(nn.Sequential(nn.Conv2d(4, 2, 1), Doubled())),
    "own-sequence": lambda: Backwards(nn.Tanh(), nn.Linear(K, 5)),
    "own-sequence-inside": lambda: nn.Sequential(
        Backwards(nn.Tanh(), nn.Linear(K, 5)), nn.Linear(5, 5)
    ),
    "own-linear": lambda: nn.Sequential(OwnLinear(K, 5), nn.Tanh()),
    "own-residual": lambda: image(OwnResidual(nn.Sequential(nn.Conv2d(4, 4, 1)))),
    "residual-of-own-module": lambda: image(residual(Doubled())),
    "residual-of-own-sequence": lambda: nn.Sequential(
        nn.Linear(K, 5), Residual(Backwards(nn.Linear(5, 5), nn.Tanh()))
    ),
    "gelu": lambda: nn.Sequential(nn.Linear(K, 5), nn.GELU()),
    "leaky": lambda: nn.Sequential(nn.Linear(K, 5), nn.LeakyReLU()),
    "layer-norm": lambda: nn.Sequential(nn.Linear(K, 5), nn.LayerNorm(5)),
    "max-pool": lambda: image(nn.MaxPool2d(2)),
    "elu-alpha": lambda: nn.Sequential(nn.Linear(K, 5), nn.ELU(alpha=0.5)),
    "softplus-beta": lambda: nn.Sequential(nn.Linear(K, 5), nn.Softplus(beta=2)),
    "softplus-threshold": lambda: nn.Sequential(nn.Linear(K, 5), nn.Softplus(threshold=0.1)),
    "padding-circular": lambda: image(nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")),
    "padding-reflect": lambda: image(nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")),
    "hook": lambda: nn.Sequential(with_hook(nn.Linear(K, 5)), nn.Tanh()),
    "pre-hook": lambda: nn.Sequential(with_hook(nn.Linear(K, 5), before=True), nn.Tanh()),
    "hook-on-norm": lambda: image(nn.Conv2d(4, 4, 1), with_hook(nn.BatchNorm2d(4))),
    "hook-on-shuffle": lambda: image(nn.Conv2d(4, 4, 1), with_hook(nn.PixelShuffle(2))),
    "hook-on-residual": lambda: image(with_hook(residual(nn.Conv2d(4, 4, 1)))),
    "hook-on-body": lambda: image(Residual(with_hook(nn.Sequential(nn.Conv2d(4, 4, 1))))),
    "hook-on-sequence": lambda: with_hook(nn.Sequential(nn.Linear(K, 5), nn.Tanh())),
    "pre-hook-on-sequence": lambda: with_hook(
        nn.Sequential(nn.Linear(K, 5), nn.Tanh()), before=True
    ),
    "hook-on-nested": lambda: nn.Sequential(with_hook(nn.Sequential(nn.Linear(K, 5))), nn.Tanh()),
    "forward-replaced": lambda: nn.Sequential(with_forward(nn.Linear(K, 5)), nn.Tanh()),
    "forward-replaced-on-norm": lambda: image(nn.Conv2d(4, 4, 1), with_forward(nn.BatchNorm2d(4))),
    "forward-replaced-on-sequence": lambda: with_forward(nn.Sequential(nn.Linear(K, 5))),
    "weight-norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(K, 5)), nn.Tanh()
    ),
}


def wrapped(module: nn.Module) -> jf.ModulePrior:
    size = module(codes(2)).shape[1:].numel()
    return jf.ModulePrior(lambda x: x.flatten(1)[:, :K], module, 0.1, K, (1, 1, size))


@named(UNKNOWN)
def test_what_is_not_known_is_differentiated_by_torch_func(name):
    module = UNKNOWN[name]()
    module = prepared(module) if name != "weight-norm" else module.double().eval()
    decoder = make_decoder(wrapped(module))
    assert type(decoder) is FunctionDecoder
    check_derivatives(decoder, module, codes())


def test_a_norm_without_statistics_is_no_chain():
    """It normalises by the batch, so that nothing could differentiate it image by image."""
    module = prepared(image(nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh()))
    assert read_chain(module, torch.float64) is None


@pytest.mark.parametrize("after_conv", [True, False])
def test_a_norm_in_training_mode_is_no_chain(after_conv):
    module = prepared(image(*[nn.Conv2d(4, 4, 1)] * after_conv, nn.BatchNorm2d(4), nn.Tanh()))
    assert read_chain(module, torch.float64) is not None
    module[-2].train()
    assert read_chain(module, torch.float64) is None


def test_a_dropout_in_training_mode_is_no_chain():
    module = prepared(nn.Sequential(nn.Linear(K, 5), nn.Dropout(), nn.Tanh()))
    assert read_chain(module, torch.float64) is not None
    module[1].train()
    assert read_chain(module, torch.float64) is None


def test_training_mode_is_no_matter_where_it_changes_nothing():
    module = prepared(CHAINS["residual-in-residual"]()).train()
    check_derivatives(decoder_of(module), module, codes())


def test_a_sequence_without_parameters_is_no_chain():
    assert ChainDecoder.of(nn.Sequential(nn.Tanh()), K, K, True) is None
    decoder = make_decoder(wrapped(nn.Sequential(nn.Tanh())))
    check_derivatives(decoder, nn.Sequential(nn.Tanh()), codes())


def test_chain_decoders_refuse_other_modules():
    with pytest.raises(ValueError, match="expected a sequence of modules that read_chain knows"):
        ChainDecoder(prepared(nn.Sequential(nn.Linear(K, 5), nn.GELU())), K, 5)


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
