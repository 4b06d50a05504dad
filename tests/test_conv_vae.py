"""The convolutional prior: its size, shapes, settings, and how it is stored."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import jpmap_fast as jf
from jpmap_fast.priors.weights import save_prior

PAPER = {"channels": (64, 128, 256, 512), "latent_dim": 64, "blocks": "plain"}
SMALL = {
    "plain": {"channels": (4, 6, 6, 8), "latent_dim": 3, "blocks": "plain", "hidden": 10},
    "residual": {"channels": (4, 6), "latent_dim": 3, "blocks": "residual"},
}


def small(blocks: str = "residual", shape: tuple[int, int, int] = (3, 8, 16)) -> jf.ConvVAE:
    """A random network whose every tensor counts."""
    torch.manual_seed(1)
    prior = jf.ConvVAE(shape, **SMALL[blocks]).eval().requires_grad_(False)
    for name, value in prior.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(std=0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    for module in prior.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.2)
        if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            module.weight.normal_(std=0.1)
    prior.log_gamma.fill_(math.log(0.0712345))
    return prior


def test_the_papers_network_has_its_number_of_parameters():
    with torch.device("meta"):
        prior = jf.ConvVAE((3, 64, 64), **PAPER)
    assert sum(p.numel() for p in prior.parameters()) == 75_955_850
    assert prior.hidden == 1024 and prior.activation == "elu"


@pytest.mark.parametrize("blocks", ["plain", "residual"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 24), (2, 32, 8)])
def test_codes_and_images_have_the_shapes_asked_for(blocks, shape):
    prior = jf.ConvVAE(shape, **SMALL[blocks]).eval()
    mean, log_std = prior.encode(torch.rand(5, *shape))
    assert mean.shape == log_std.shape == (5, 3)
    image = prior.decode(mean)
    assert image.shape == (5, *shape)
    assert ((image >= 0) & (image <= 1)).all()
    assert prior.image_shape == shape and prior.latent_dim == 3
    assert prior.encode(torch.rand(0, *shape))[0].shape == (0, 3)
    assert prior.decode(torch.zeros(0, 3)).shape == (0, *shape)


@pytest.mark.parametrize("levels", [1, 3])
def test_residual_blocks_take_any_number_of_levels(levels):
    side = 2**levels
    prior = jf.ConvVAE((3, side, 3 * side), 2, (4,) * levels).eval()
    assert prior.decode(torch.zeros(1, 2)).shape == (1, 3, side, 3 * side)
    with pytest.raises(ValueError, match=rf"multiples of {2 * side}"):
        jf.ConvVAE((3, side, 3 * side), 2, (4,) * (levels + 1))


def test_residual_blocks_begin_as_the_identity():
    prior = jf.ConvVAE((3, 8, 8), 3, (4, 6))
    from jpmap_fast.priors.residual import Residual

    blocks = [module for module in prior.modules() if isinstance(module, Residual)]
    assert len(blocks) == 4
    for block in blocks:
        h = torch.randn(2, block.body[1].in_channels, 4, 4)
        bias = block.body[-1].bias[None, :, None, None]
        torch.testing.assert_close(block(h), h + bias)


@pytest.mark.parametrize("activation", ["elu", "relu", "silu", "softplus", "tanh"])
def test_the_activation_is_the_one_asked_for(activation):
    prior = jf.ConvVAE((1, 8, 8), 2, (4,), activation=activation)
    names = {type(module).__name__.lower() for module in prior.decoder_network.modules()}
    assert activation in names
    assert prior.settings["activation"] == activation


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"latent_dim": 0}, ValueError, "latent_dim: expected at least 1, got 0"),
        ({"latent_dim": 1.5}, TypeError, "latent_dim: expected an integer, got 1.5"),
        ({"hidden": 0}, ValueError, "hidden: expected at least 1, got 0"),
        ({"channels": ()}, ValueError, r"channels: expected .* got \(\)"),
        ({"channels": 32}, TypeError, "channels: expected .*, got 32"),
        ({"channels": (8, 0)}, ValueError, "channels: expected at least 1, got 0"),
        ({"channels": (8, "x")}, TypeError, "channels: expected an integer, got 'x'"),
        (
            {"channels": (8, 8, 8), "blocks": "plain"},
            ValueError,
            r"channels: expected four widths for plain blocks, got \(8, 8, 8\)",
        ),
        ({"blocks": "dense"}, ValueError, "blocks: expected one of 'plain', .* got 'dense'"),
        ({"activation": "gelu"}, ValueError, "activation: expected one of 'elu', .* got 'gelu'"),
        ({"image_shape": (3, 64)}, ValueError, r"image_shape: expected \(C, H, W\), got \(3, 64\)"),
        ({"image_shape": 64}, TypeError, "image_shape: expected a sequence of integers, got 64"),
        ({"image_shape": (0, 64, 64)}, ValueError, "image_shape: expected at least 1, got 0"),
        ({"image_shape": (3, 6.5, 64)}, TypeError, "image_shape: expected an integer, got 6.5"),
        (
            {"image_shape": (3, 64, 60)},
            ValueError,
            r"sides that are multiples of 16 for 4 levels, got \(3, 64, 60\)",
        ),
        (
            {"image_shape": (3, 12, 16), "blocks": "plain"},
            ValueError,
            r"sides that are multiples of 8 for .* got \(3, 12, 16\)",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        jf.ConvVAE(**settings)


@pytest.mark.parametrize("blocks", ["plain", "residual"])
def test_integer_images_and_wrong_shapes_are_refused(blocks):
    prior = small(blocks)
    with pytest.raises(TypeError, match="expected floating-point images, got torch.uint8.*255"):
        prior.encode(torch.zeros(1, 3, 8, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"x: expected shape \[B, 3, 8, 16\], got \[1, 3, 16, 8\]"):
        prior.encode(torch.zeros(1, 3, 16, 8))
    with pytest.raises(ValueError, match=r"x: expected shape \[B, 3, 8, 16\], got \[3, 8, 16\]"):
        prior.encode(torch.zeros(3, 8, 16))
    with pytest.raises(ValueError, match=r"z: expected shape \[B, 3\], got \[1, 4\]"):
        prior.decode(torch.zeros(1, 4))


def test_gamma_follows_its_parameter():
    prior = small()
    assert prior.gamma == pytest.approx(0.0712345, rel=1e-6)
    prior.log_gamma.fill_(math.log(0.3))
    assert prior.gamma == pytest.approx(0.3, rel=1e-6)
    prior.log_gamma = torch.nn.Parameter(torch.tensor(math.log(0.2)))
    assert prior.gamma == pytest.approx(0.2, rel=1e-6)
    prior.load_state_dict({**prior.state_dict(), "log_gamma": torch.tensor(math.log(0.4))})
    assert prior.gamma == pytest.approx(0.4, rel=1e-6)
    assert prior.double().gamma == pytest.approx(0.4, rel=1e-6)
    prior.train().log_gamma.data.fill_(math.log(0.5))
    assert prior.gamma == pytest.approx(0.5, rel=1e-6)


# Files


@pytest.mark.parametrize("blocks", ["plain", "residual"])
def test_a_file_reads_back_the_same(tmp_path, blocks):
    prior = small(blocks)
    path = tmp_path / "mine.safetensors"
    save_prior(prior, path, {"epochs": 3})
    found = jf.load_prior(path)
    assert isinstance(found, jf.ConvVAE) and found.settings == prior.settings
    assert not found.training and not any(p.requires_grad for p in found.parameters())
    expected = prior.state_dict()
    assert found.state_dict().keys() == expected.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected[name]), name
    with safe_open(str(path), framework="pt") as file:
        assert json.loads(file.metadata()["recipe"]) == {"epochs": 3}


@pytest.mark.parametrize("blocks", ["plain", "residual"])
def test_half_precision_rounds_the_weights_and_keeps_gamma(tmp_path, blocks):
    prior = small(blocks)
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_prior(prior, whole)
    save_prior(prior, half, half=True)
    found = jf.load_prior(half)
    assert torch.equal(found.log_gamma, prior.log_gamma)
    for name, value in found.state_dict().items():
        expected = prior.state_dict()[name]
        assert value.dtype == expected.dtype
        rounded = expected.half().to(expected.dtype) if expected.dim() else expected
        assert torch.equal(value, rounded), name
    # The header, about 100 bytes a tensor, does not shrink.
    header = 8 + int.from_bytes(whole.read_bytes()[:8], "little")
    assert half.stat().st_size - header < 0.52 * (whole.stat().st_size - header)


def test_weights_beyond_half_precision_are_refused_and_nothing_is_written(tmp_path):
    prior = small()
    prior.encoder_mean.weight[0, 0] = 1e5
    path = tmp_path / "half.safetensors"
    with pytest.raises(ValueError, match="encoder_mean.weight.* float16"):
        save_prior(prior, path, half=True)
    assert not path.exists()
    save_prior(prior, path)
    assert float(jf.load_prior(path).encoder_mean.weight[0, 0]) == 1e5


def test_weights_that_are_not_finite_are_refused_when_read(tmp_path):
    prior = small()
    prior.encoder_mean.bias[0] = torch.nan
    save_prior(prior, tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="encoder_mean.bias contains NaN or infinity"):
        jf.load_prior(tmp_path / "p.safetensors")


def rewritten(path: Path, **header: str | None) -> Path:
    """The file with entries of its header replaced, or removed if None."""
    with safe_open(str(path), framework="pt") as file:
        found = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = {key: value for key, value in {**found, **header}.items() if value is not None}
    save_file(tensors, str(path), metadata=found)
    return path


@pytest.mark.parametrize(
    "header, message",
    [
        ({"format": "other"}, "foreign"),
        ({"class": "GAN"}, "foreign"),
        ({"architecture": None}, "architecture"),
        ({"architecture": "{"}, "architecture"),
        ({"architecture": "[3]"}, "architecture"),
        ({"architecture": '{"channels": 5}'}, "architecture cannot be built: channels"),
        ({"architecture": '{"depth": 5}'}, "architecture cannot be built"),
        ({"architecture": '{"channels": [4, 6, 8]}'}, "do not fit the architecture"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, message):
    path = tmp_path / "p.safetensors"
    save_prior(small(), path)
    with pytest.raises(ValueError, match=message):
        jf.load_prior(rewritten(path, **header))


def test_truncated_files_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    save_prior(small(), path, half=True)
    content = path.read_bytes()
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="damaged, truncated or of another kind"):
            jf.load_prior(path)


# Folders of the original research code


ORIGINAL = {"x_shape": (3, 16, 24), "latent_dim": 3, "n_channels": [4, 6, 6, 8]}


def original_tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random tensors under the original code's names."""
    g = torch.Generator().manual_seed(5)
    colours, height, width = ORIGINAL["x_shape"]
    widths, k, hidden = ORIGINAL["n_channels"], ORIGINAL["latent_dim"], 10
    flat = widths[-1] * height // 8 * width // 8
    found: dict[str, Tensor] = {}

    def layer(name: str, *shape: int, outputs: int) -> None:
        found[f"{name}.weight"] = torch.randn(shape, generator=g, dtype=dtype) / 5
        found[f"{name}.bias"] = torch.randn(outputs, generator=g, dtype=dtype) / 5

    def norm(name: str, channels: int) -> None:
        found[f"{name}.weight"] = 0.5 + torch.rand(channels, generator=g, dtype=dtype)
        found[f"{name}.bias"] = torch.randn(channels, generator=g, dtype=dtype) / 5
        found[f"{name}.running_mean"] = torch.randn(channels, generator=g, dtype=dtype) / 5
        found[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=g, dtype=dtype)
        found[f"{name}.num_batches_tracked"] = torch.tensor(77)

    for i, (before, after) in enumerate(zip([colours, *widths], widths, strict=False), 1):
        layer(f"conv_enc{i}", after, before, 5, 5, outputs=after)
        norm(f"batchnorm_enc{i}", after)
    layer("fc_enc", hidden, flat, outputs=hidden)
    layer("fc_mu_z", k, hidden, outputs=k)
    layer("fc_logsd_z", k, hidden, outputs=k)
    layer("fc_dec1", hidden, k, outputs=hidden)
    layer("fc_dec2", flat, hidden, outputs=flat)
    down = widths[::-1]
    for i, (before, after) in enumerate(zip(down, [*down[1:], colours], strict=True), 1):
        layer(f"convtrans_dec{i}", before, after, 5, 5, outputs=after)
        norm(f"batchnorm_dec{i}", after)
    found["gamma_x"] = torch.tensor([0.0834567], dtype=dtype)
    return found


def original_folder(folder: Path, tensors: dict[str, Tensor], **arguments: Any) -> Path:
    folder.mkdir()
    torch.save(tensors, folder / "model")
    settings = {"network_structure": "ConvVAE", **ORIGINAL, "epochs": 50, **arguments}
    settings = {name: value for name, value in settings.items() if value is not None}
    (folder / "training_args.json").write_text(json.dumps(settings))
    return folder


def normalised(t: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    mean, variance = t[f"{name}.running_mean"], t[f"{name}.running_var"]
    return F.batch_norm(h, mean, variance, t[f"{name}.weight"], t[f"{name}.bias"], eps=1e-5)


def original_encode(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The original network written out."""
    h = x
    for i, stride in enumerate((1, 2, 2, 2), 1):
        h = F.conv2d(h, t[f"conv_enc{i}.weight"], t[f"conv_enc{i}.bias"], stride, padding=2)
        h = F.elu(normalised(t, f"batchnorm_enc{i}", h))
    h = F.elu(F.linear(h.flatten(1), t["fc_enc.weight"], t["fc_enc.bias"]))
    mean = F.linear(h, t["fc_mu_z.weight"], t["fc_mu_z.bias"])
    return mean, F.linear(h, t["fc_logsd_z.weight"], t["fc_logsd_z.bias"])


def original_decode(t: dict[str, Tensor], z: Tensor) -> Tensor:
    """The original network written out."""
    _, height, width = ORIGINAL["x_shape"]
    h = F.elu(F.linear(z, t["fc_dec1.weight"], t["fc_dec1.bias"]))
    h = F.elu(F.linear(h, t["fc_dec2.weight"], t["fc_dec2.bias"]))
    h = h.reshape(len(z), -1, height // 8, width // 8)
    for i in (1, 2, 3):
        weight, bias = t[f"convtrans_dec{i}.weight"], t[f"convtrans_dec{i}.bias"]
        h = F.conv_transpose2d(h, weight, bias, stride=2, padding=2, output_padding=1)
        h = F.elu(normalised(t, f"batchnorm_dec{i}", h))
    h = F.conv_transpose2d(h, t["convtrans_dec4.weight"], t["convtrans_dec4.bias"], padding=2)
    return torch.sigmoid(normalised(t, "batchnorm_dec4", h))


def test_an_original_folder_is_the_network_written_out(tmp_path):
    """float64, so that nothing but the order of sums is left: 1e-12."""
    tensors = original_tensors(torch.float64)
    singles = {name: value.float() if value.dim() else value for name, value in tensors.items()}
    singles["gamma_x"] = singles["gamma_x"] * -1  # the original code takes its modulus
    prior = jf.load_prior(original_folder(tmp_path / "conv", singles), dtype=torch.float64)
    t = {name: value.double() for name, value in singles.items()}
    g = torch.Generator().manual_seed(0)
    x = torch.rand(4, *ORIGINAL["x_shape"], generator=g, dtype=torch.float64)
    z = torch.randn(4, 3, generator=g, dtype=torch.float64)
    close = {"rtol": 1e-12, "atol": 1e-12}
    for found, expected in zip(prior.encode(x), original_encode(t, x), strict=True):
        torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(prior.decode(z), original_decode(t, z), **close)
    assert prior.gamma == pytest.approx(0.0834567, rel=1e-6)
    assert prior.blocks == "plain" and prior.hidden == 10 and prior.channels == (4, 6, 6, 8)
    assert not prior.training


def test_an_original_folder_can_be_stored_and_read_again(tmp_path):
    prior = jf.load_prior(original_folder(tmp_path / "conv", original_tensors()))
    save_prior(prior, tmp_path / "conv.safetensors")
    again = jf.load_prior(tmp_path / "conv.safetensors")
    z = torch.randn(2, 3)
    assert torch.equal(again.decode(z), prior.decode(z)) and again.gamma == prior.gamma


@pytest.mark.parametrize(
    "missing",
    ["conv_enc1.weight", "batchnorm_dec4.running_var", "fc_dec1.weight", "fc_logsd_z.bias"],
)
def test_a_missing_tensor_is_named_as_in_the_folder(tmp_path, missing):
    tensors = original_tensors()
    del tensors[missing]
    with pytest.raises(ValueError, match=rf"conv: its ConvVAE lacks '{missing}'"):
        jf.load_prior(original_folder(tmp_path / "conv", tensors))


@pytest.mark.parametrize("missing", ["x_shape", "latent_dim", "n_channels"])
def test_a_missing_argument_is_named(tmp_path, missing):
    folder = original_folder(tmp_path / "conv", original_tensors(), **{missing: None})
    with pytest.raises(ValueError, match=rf"conv: its ConvVAE lacks '{missing}'"):
        jf.load_prior(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("gamma_x"), "expected one positive number gamma_x, got None"),
        (lambda t: t["gamma_x"].zero_(), "expected one positive number gamma_x"),
        (lambda t: t["gamma_x"].fill_(torch.nan), "expected one positive number gamma_x"),
        (lambda t: t.update(gamma_x=torch.ones(2)), "expected one positive number gamma_x"),
        (lambda t: t.update({"conv_enc5.weight": torch.ones(1)}), "unexpected .*conv_enc5.weight"),
        (lambda t: t.update({"conv_enc1.bias": torch.ones(9)}), r"of shape \[4\], got \[9\]"),
        (lambda t: t["fc_dec2.bias"].fill_(torch.inf), "NaN or infinity"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path, change, message):
    tensors = original_tensors()
    change(tensors)
    with pytest.raises(ValueError, match=message):
        jf.load_prior(original_folder(tmp_path / "conv", tensors))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n_channels": [4, 6, 8]}, "expected four widths"),
        ({"x_shape": [3, 16, 20]}, "multiples of 8"),
        ({"latent_dim": 4}, r"of shape \[4, 10\], got \[3, 10\]"),
        ({"network_structure": "GAN"}, "expected network_structure 'VAEfc' or 'ConvVAE', got"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, arguments, message):
    folder = original_folder(tmp_path / "conv", original_tensors(), **arguments)
    with pytest.raises(ValueError, match=message):
        jf.load_prior(folder)
