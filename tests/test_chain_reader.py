"""What is read as a chain of known modules, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from chains import (
    CHAINS,
    K,
    check_derivatives,
    codes,
    decoder_of,
    image,
    named,
    prepared,
    residual,
    wrapped,
)
from torch import Tensor, nn

from jpmap_fast.priors.chain_decoder import ChainDecoder
from jpmap_fast.priors.chain_reader import read_chain
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.priors.residual import Residual


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
