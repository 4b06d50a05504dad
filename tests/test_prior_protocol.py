"""The optional half of what a prior is: methods that its class defines, no attribute by luck."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import IMAGE_SHAPE, PIXELS, LinearPrior, small_mlp
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast.priors import Decoder, MLPDecoder
from jpmap_fast.priors.chain_decoder import ChainDecoder
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.networks import renamed
from jpmap_fast.priors.protocol import make_decoder, make_encoder, restoration_of

K = 3
LIKE = torch.zeros(0, dtype=torch.float64)


class Minimal(nn.Module):
    """The five members, and a network for a decoder."""

    gamma, latent_dim, image_shape = 0.2, K, IMAGE_SHAPE

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(K, 8), nn.Tanh(), nn.Linear(8, PIXELS)).double()
        self.requires_grad_(False)

    def decode(self, z: Tensor) -> Tensor:
        return self.layers(z).reshape(-1, *IMAGE_SHAPE)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1)[:, :K], x.flatten(1)[:, :K]


class Knowing(Minimal):
    """It says what its decoder and its encoder are."""

    def decoder(self, like: Tensor) -> Decoder:
        return MLPDecoder.of(self.layers[::2], ["tanh", "identity"])

    def encoder(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: x.flatten(1)[:, :K]


class Overriding(Knowing):
    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z).clamp(0, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = super().encode(x)
        return mean + 1, log_std


class Modules(Minimal):
    """Modules of its own under the names of methods, one of which is the network."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.bind = nn.Identity(), self.layers, nn.Identity()


class Functions(Minimal):
    """Methods of these names that mean something else, as many a network has."""

    def decoder(self, z: Tensor) -> Tensor:
        return self.layers(z)

    def encoder(self, x: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("not the protocol's")


class Objects(Minimal):
    decoder = MLPDecoder  # a class is callable too
    encoder = staticmethod(lambda like: None)


def images() -> Tensor:
    return torch.rand(2, *IMAGE_SHAPE, dtype=torch.float64)


def test_a_prior_is_asked_by_its_methods():
    prior = Knowing()
    assert isinstance(make_decoder(prior), MLPDecoder)
    x = images()
    assert torch.equal(make_encoder(prior, LIKE)(x), x.flatten(1)[:, :K])
    for dtype, path in ((torch.float32, "compiled"), (torch.float64, "compiled")):
        found = jf.restore(x.to(dtype), jf.Denoising(), Knowing().to(dtype), 0.2)
        assert found.path == path
        torch.testing.assert_close(found.decoded, Knowing().to(dtype).decode(found.z))


@pytest.mark.parametrize("kind", [Minimal, Overriding, Modules, Functions, Objects])
def test_whoever_has_no_such_methods_is_asked_by_decode_and_encode(kind):
    prior, x = kind(), images()
    decoder = make_decoder(prior)
    assert type(decoder) is FunctionDecoder
    z = torch.randn(2, K, dtype=torch.float64)
    torch.testing.assert_close(decoder.value(z), prior.decode(z).flatten(1))
    assert torch.equal(make_encoder(prior, LIKE)(x), prior.encode(x)[0])
    found = jf.restore(x, jf.Denoising(), prior, 0.2)
    torch.testing.assert_close(found.decoded, prior.decode(found.z))


def test_an_object_that_decodes_in_a_way_of_its_own_is_asked_by_it():
    prior = Knowing()
    decode = prior.decode
    prior.decode = lambda z: 1 - decode(z)
    z = torch.randn(2, K, dtype=torch.float64)
    torch.testing.assert_close(make_decoder(prior).value(z), prior.decode(z).flatten(1))


def test_a_decoder_that_gives_other_images_is_refused():
    class Wrong(Knowing):
        def decoder(self, like: Tensor) -> Decoder:
            return MLPDecoder.of(self.layers[::2], ["tanh", "sigmoid"])

    class Short(Knowing):
        def decoder(self, like: Tensor) -> Decoder:
            return MLPDecoder.of([self.layers[0]], ["tanh"])

    class Single(Knowing):
        def decoder(self, like: Tensor) -> Decoder:
            return FunctionDecoder(lambda z: self.decode(z).float(), K, PIXELS)

    class Images(Knowing):
        def decoder(self, like: Tensor) -> Any:
            return self.layers

    with pytest.raises(ValueError, match="to give the images of decode, got some that differ by"):
        jf.restore(images(), jf.Denoising(), Wrong(), 0.2)
    with pytest.raises(ValueError, match=r"to give images as decode does, \(\[4, 30\], .*\[4, 8\]"):
        make_decoder(Short())
    with pytest.raises(ValueError, match="differ by"):
        make_decoder(Single())
    with pytest.raises(TypeError, match="to return a Decoder, .*got Sequential"):
        make_decoder(Images())
    hooked = LinearPrior()
    hooked.decoder_layers[0].register_forward_hook(lambda module, given, out: out + 1)
    with pytest.raises(ValueError, match="mend it, or leave it out"):
        make_decoder(hooked)


def test_what_a_network_says_itself_is_what_it_decodes():
    """``prior.decoder(like)`` is right for who asks it without ``make_decoder``."""

    class Halved(jf.MLPVAE):
        def decode(self, z: Tensor) -> Tensor:
            return 0.5 * super().decode(z)

    class Negative(jf.ConvVAE):
        def decode(self, z: Tensor) -> Tensor:
            return 1 - super().decode(z)

    z = torch.randn(2, K, dtype=torch.float64)
    for prior, kind in (
        (small_mlp(), MLPDecoder),
        (Halved(IMAGE_SHAPE, K, (4,)).double().eval(), FunctionDecoder),
        (jf.ConvVAE((1, 4, 8), K, (4,)).double().eval(), ChainDecoder),
        (Negative((1, 4, 8), K, (4,)).double().eval(), FunctionDecoder),
    ):
        decoder = prior.decoder(LIKE)
        assert type(decoder) is kind
        torch.testing.assert_close(decoder.value(z), prior.decode(z).flatten(1))
        x = torch.rand(2, *prior.image_shape, dtype=torch.float64)
        torch.testing.assert_close(prior.encoder(LIKE)(x), prior.encode(x)[0])


def test_low_precision_is_every_priors_to_refuse():
    prior = Minimal()
    prior.low_precision = False
    for network in (prior, Functions()):
        decoder = make_decoder(network)
        assert isinstance(decoder, FunctionDecoder)
        assert decoder.low_precision == (network is not prior)


def test_a_prior_of_ones_own_may_say_how_it_is_restored():
    prior, x = Minimal(), images()
    assert restoration_of(prior) == {}
    prior.restoration = {"starts": 1, "n2": 0}
    assert restoration_of(prior) == {"starts": 1, "n2": 0}
    found = jf.restore(x, jf.Denoising(), prior, 0.2)
    assert bool((found.candidates[:, 1] == 0).all())
    for wrong in ({"starts": 0}, {"restarts": 2}, nn.Identity(), lambda: None):
        other = Minimal()
        object.__setattr__(other, "restoration", wrong)
        with pytest.raises(ValueError, match="restoration: "):
            jf.restore(x, jf.Denoising(), other, 0.2)


@pytest.mark.parametrize(
    "layers, activations, message",
    [
        ([], [], "got 0 layers and 0 activations"),
        ([nn.Linear(2, 3)], ["tanh", "tanh"], "got 1 layers and 2 activations"),
        ([nn.Linear(2, 3)], ["gelu"], "out of elu, .*, got 'gelu'"),
        ([nn.Linear(2, 3), nn.Linear(2, 3)], ["elu"] * 2, r"shapes \[\(3, 2\), \(3, 2\)\]"),
    ],
)
def test_layers_that_are_no_perceptron_are_refused(layers, activations, message):
    with pytest.raises(ValueError, match=f"MLPDecoder: expected .*{message}"):
        MLPDecoder.of(layers, activations)


# Names that the networks had before


def named_before(state: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("coder_network", "coder"): value for name, value in state.items()}


def conv_vae() -> jf.ConvVAE:
    torch.manual_seed(2)
    return jf.ConvVAE((1, 4, 8), K, (4, 6)).eval()


def module_prior(decoder: Callable[[Tensor], Tensor] | None = None) -> jf.ModulePrior:
    torch.manual_seed(2)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, K))
    made = nn.Sequential(nn.Linear(K, 32), nn.Sigmoid())
    return jf.ModulePrior(encoder, decoder or made, 0.1, K, (1, 4, 8)).eval()


def half(z: Tensor) -> Tensor:
    return 0.5 + 0 * z.sum(dim=1, keepdim=True).expand(-1, 32)


@pytest.mark.parametrize("make", [conv_vae, module_prior])
def test_weights_under_old_names_load(make):
    old, z = make(), torch.randn(2, K)
    state = named_before(old.state_dict())
    assert any(name.startswith("decoder.") for name in state)
    kept = dict(state)
    new = make()
    for parameter in new.parameters():
        parameter.data.zero_()
    new.load_state_dict(state)
    assert state.keys() == kept.keys(), "the caller's dictionary is left alone"
    assert torch.equal(new.decode(z), old.decode(z))
    inside = nn.ModuleDict({"prior": make()})
    inside.load_state_dict({f"prior.{name}": value for name, value in state.items()})
    assert renamed(state).keys() == old.state_dict().keys()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*decoder_network\.9\.weight"):
        make().load_state_dict({**state, "decoder.9.weight": torch.zeros(1)})


def test_weights_files_under_old_names_load(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    prior, path = conv_vae(), tmp_path / "p.safetensors"
    jf.save_prior(prior, path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file(named_before(load_file(path)), path, metadata=header)
    z = torch.randn(2, K)
    assert torch.equal(jf.load_prior(path).decode(z), prior.decode(z))


@pytest.mark.parametrize("make", [conv_vae, module_prior, lambda: module_prior(half)])
def test_pickles_under_old_names_load(make):
    prior, z = make(), torch.randn(2, K)
    state = named_before(prior.__getstate__() if hasattr(prior, "__getstate__") else vars(prior))
    state["_modules"] = named_before(state["_modules"])
    assert "decoder" in state["_modules"] or "decoder" in state
    again = type(prior).__new__(type(prior))
    again.__setstate__(state)
    for found in (again, copy.deepcopy(again)):
        assert torch.equal(found.decode(z), prior.decode(z))
        assert found.state_dict().keys() == prior.state_dict().keys()
        assert isinstance(found.decoder(LIKE.float()), Decoder)
    assert torch.equal(pickle.loads(pickle.dumps(again)).decode(z), prior.decode(z))


@pytest.mark.parametrize("make", [conv_vae, module_prior])
def test_nothing_is_assigned_where_it_would_be_overlooked(make):
    prior = make()
    with pytest.raises(AttributeError, match="decoder: .*assign decoder_network"):
        prior.decoder = nn.Sequential(nn.Linear(K, 32))
    prior.decoder_network = nn.Sequential(nn.Linear(K, 32), nn.Unflatten(1, (1, 4, 8)))
    z = torch.randn(2, K)
    assert isinstance(make_decoder(prior), ChainDecoder)
    torch.testing.assert_close(make_decoder(prior).value(z), prior.decode(z).flatten(1))
