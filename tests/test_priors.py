"""Priors: what they compute, how they are stored, and what is refused."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from problems import IMAGE_SHAPE, small_mlp
from safetensors.torch import save_file
from torch import nn

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast._prepared import prepare
from jpmap_fast.priors.load import BUNDLED
from jpmap_fast.priors.weights import save_prior


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def original_folder(folder: Path, prior: jf.MLPVAE) -> Path:
    """A folder as the original research code writes it."""
    folder.mkdir()
    tensors = {}
    layers = len(prior.encoder_layers)
    for name, value in prior.state_dict().items():
        name = name.replace("encoder_mean.", f"encoder_layers.{layers}.")
        name = name.replace("encoder_log_std.", f"encoder_layers.{layers + 1}.")
        tensors[name] = value
    tensors["gamma_x"] = tensors.pop("log_gamma").exp()
    torch.save(tensors, folder / "model")
    arguments = {
        "network_structure": "VAEfc",
        "x_shape": list(prior.image_shape),
        "latent_dim": prior.latent_dim,
        "enc_hidden_dims": list(prior.hidden),
    }
    (folder / "training_args.json").write_text(json.dumps(arguments))
    return folder


def same(a: jf.MLPVAE, b: jf.MLPVAE) -> bool:
    z, x = torch.ones(2, a.latent_dim), torch.full((2, *a.image_shape), 0.3)
    close = math.isclose(a.gamma, b.gamma, rel_tol=1e-6)
    decoded = torch.equal(a.decode(z), b.decode(z))
    return close and decoded and torch.equal(a.encode(x)[0], b.encode(x)[0])


def test_bundled_prior_reconstructs_digits_as_its_card_says():
    prior = jf.load_prior("mnist")
    digits, _ = jf.mnist_test_digits()
    with torch.no_grad():
        decoded = prior.decode(prior.encode(digits)[0])
    assert prior.gamma <= 0.112
    # The card's figure is over 10,000 digits; these are a sample of them.
    assert float(psnr(decoded, digits).mean()) > 19.5
    card = (BUNDLED / "mnist.md").read_text()
    assert f"{prior.gamma:.4f}" in card
    assert prior.latent_dim == 8 and prior.image_shape == (1, 28, 28)
    assert sum(p.numel() for p in prior.parameters()) == 1_342_241


def test_safetensors_file_reads_back_the_same(tmp_path):
    prior = small_mlp(dtype=torch.float32)
    save_prior(prior, tmp_path / "mine.safetensors", {"epochs": 3})
    assert same(jf.load_prior(tmp_path / "mine.safetensors"), prior)
    assert jf.load_prior(tmp_path / "mine.safetensors", dtype=torch.float64).log_gamma.dtype == (
        torch.float64
    )


@pytest.mark.parametrize("first_bytes", [b"\x80", b"PK"])
def test_a_file_that_begins_like_a_pickle_is_told_by_its_header(tmp_path, first_bytes):
    """A safetensors file begins with the length of its header, whatever bytes that gives."""
    prior, path = small_mlp(dtype=torch.float32), tmp_path / "mine.safetensors"
    jf.save_prior(prior, path, {"note": ""})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    unit = 256 ** len(first_bytes)
    more = (int.from_bytes(first_bytes, "little") - length) % unit
    jf.save_prior(prior, path, {"note": "x" * more})
    assert path.read_bytes().startswith(first_bytes)
    assert same(jf.load_prior(path), prior)


def test_half_precision_rounds_the_weights_and_keeps_gamma(tmp_path):
    prior = small_mlp(dtype=torch.float32)
    path = tmp_path / "half.safetensors"
    jf.save_prior(prior, path, half=True)
    found = jf.load_prior(path)
    assert torch.equal(found.log_gamma, prior.log_gamma)
    for name, value in found.state_dict().items():
        expected = prior.state_dict()[name]
        assert value.dtype == torch.float32
        assert torch.equal(value, expected.half().float() if expected.dim() else expected), name


def test_folder_of_the_original_code_reads(tmp_path):
    prior = small_mlp(dtype=torch.float32)
    found = jf.load_prior(original_folder(tmp_path / "folder", prior))
    assert same(found, prior)


def test_reference_folder_reads(reference_folder):
    prior = jf.load_prior(reference_folder / "original_mnist_model")
    assert abs(prior.gamma - 0.1098) < 1e-4


@pytest.mark.parametrize("where", ["bare", "zip", "folder"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, where):
    mark = tmp_path / "executed"
    if where == "folder":
        path = original_folder(tmp_path / "folder", small_mlp(dtype=torch.float32))
        torch.save({"encoder_layers.0.weight": Trap(mark)}, path / "model")
    else:
        path = tmp_path / "weights.pt"
        if where == "zip":
            torch.save({"model": Trap(mark)}, path)
        else:
            path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ValueError, match="holds code, which is never run"):
        jf.load_prior(path)
    assert not mark.exists()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    good = tmp_path / "good.safetensors"
    save_prior(small_mlp(dtype=torch.float32), good)
    content = good.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged, truncated or of another kind"):
        jf.load_prior(cut)
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(ValueError, match="damaged, truncated or of another kind"):
        jf.load_prior(noise)
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(ValueError, match="damaged, truncated or of another kind"):
        jf.load_prior(tmp_path / "empty.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2)}, str(foreign))
    with pytest.raises(ValueError, match="foreign"):
        jf.load_prior(foreign)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("log_gamma"), r"missing \['log_gamma'\]"),
        (lambda t: t.update(extra=torch.ones(1)), r"unexpected \['extra'\]"),
        (lambda t: t.update({"decoder_layers.0.bias": torch.ones(3)}), "expected decoder_layers.0"),
        (lambda t: t["decoder_layers.0.bias"].fill_(torch.nan), "NaN or infinity"),
        (lambda t: t["log_gamma"].fill_(-1000.0), r"expected gamma within exp"),
        (lambda t: t["log_gamma"].fill_(1e30), r"expected gamma within exp"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    from safetensors import safe_open

    path = tmp_path / "prior.safetensors"
    save_prior(small_mlp(dtype=torch.float32), path)
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, str(path), metadata=header)
    with pytest.raises(ValueError, match=message):
        jf.load_prior(path)


def test_unknown_names_and_missing_paths_say_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="unknown prior 'minst'; known: .*mnist"):
        jf.load_prior("minst")
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        jf.load_prior(tmp_path / "none.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected a folder of the original code"):
        jf.load_prior(tmp_path / "empty")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"hidden": ()}, "hidden"),
        ({"hidden_activation": "gelu"}, "elu"),
        ({"output_activation": "tanh"}, "sigmoid"),
        ({"image_shape": (28, 28)}, "image_shape"),
        ({"image_shape": (1, 28, 0)}, "image_shape: expected at least 1, got 0"),
    ],
)
def test_impossible_architectures_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        jf.MLPVAE(**settings)


def test_integer_images_and_wrong_shapes_are_refused_by_the_encoder():
    prior = small_mlp()
    with pytest.raises(TypeError, match="255"):
        prior.encode(torch.zeros(1, *IMAGE_SHAPE, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected shape \[B, 1, 6, 5\]"):
        prior.encode(torch.zeros(1, 1, 6, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expected shape \[B, 3\]"):
        prior.decode(torch.zeros(1, 4, dtype=torch.float64))


@pytest.mark.parametrize("where", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.BatchNorm1d])
def test_a_prior_in_training_mode_is_refused_where_that_matters(where, kind):
    def pair():
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(30, 16), nn.Linear(16, 6))
        decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 30))
        return {"encoder": encoder, "decoder": decoder}

    y = torch.rand(2, *IMAGE_SHAPE)
    for parts, fine in ((pair(), True), (pair(), False)):
        if not fine:
            layer = nn.Dropout() if kind is nn.Dropout else nn.BatchNorm1d(16)
            parts[where].insert(len(parts[where]) - 1, layer)
        prior = jf.ModulePrior(**parts, gamma=0.1, latent_dim=3, image_shape=IMAGE_SHAPE)
        assert prior.training
        if not fine:
            message = rf"expected evaluation mode, got {where}_network.\d \({kind.__name__}\) in tr"
            with pytest.raises(ValueError, match=message):
                jf.restore(y, jf.Denoising(), prior, 0.1)
            with pytest.raises(ValueError, match=message):
                jf.Restorer(jf.Denoising(), prior, 0.1, batch_size=2)
            prior.eval()
        assert jf.restore(y, jf.Denoising(), prior, 0.1).converged.all()


@pytest.mark.parametrize("loaded_inside", [False, True])
def test_inference_mode_changes_nothing(tmp_path, loaded_inside):
    """torch.inference_mode forbids what derivatives need; restorations leave it on their own."""
    path = tmp_path / "conv.safetensors"
    jf.save_prior(jf.ConvVAE((1, 8, 8), 2, (4, 4)), path)
    for name, shape in (("mnist", (1, 28, 28)), (path, (1, 8, 8))):
        y = torch.rand(2, *shape)
        prior = jf.load_prior(name)
        expected = jf.restore(y, jf.Denoising(), prior, 0.3)
        with torch.inference_mode():
            prior = jf.load_prior(name) if loaded_inside else prior
            found = jf.restore(y + 0, jf.Denoising(), prior, 0.3)
            restorer = jf.Restorer(jf.Denoising(), prior, 0.3, batch_size=2, steps=100)
            again = restorer(y + 0)
        assert torch.equal(found.x, expected.x)
        torch.testing.assert_close(again.objective, expected.objective, rtol=1e-5, atol=0)


def test_any_pair_of_modules_is_a_prior():
    """Restoring with a wrapped copy gives what the MLP gives, through torch.func."""
    inner = small_mlp()
    outputs = {
        "pair": inner.encode,
        "joined": lambda x: torch.cat(inner.encode(x), dim=1),
        "mean": lambda x: inner.encode(x)[0],
    }
    clean = inner.decode(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())
    y = jf.Denoising().measure(clean, 0.1, generator=torch.Generator().manual_seed(2))
    # Only the MLP offers second derivatives.
    method = jf.JPMAP(z_solver=jf.GaussNewton(second_order=False))
    expected = jf.restore(y, jf.Denoising(), inner, 0.1, method=method)
    for encoder in outputs.values():
        prior = jf.ModulePrior(encoder, inner.decode, inner.gamma, 3, IMAGE_SHAPE)
        found = jf.restore(y, jf.Denoising(), prior, 0.1, method=method)
        torch.testing.assert_close(found.x, expected.x, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="gamma"):
        jf.ModulePrior(inner.encode, inner.decode, 0.0, 3, IMAGE_SHAPE)


def test_a_prior_says_how_many_starts_it_wants(tmp_path):
    path = tmp_path / "p.safetensors"
    jf.save_prior(small_mlp(), path, restoration={"starts": 4, "n2": 0})
    prior = jf.load_prior(path)
    assert prior.restoration == {"starts": 4, "n2": 0}
    jf.save_prior(prior, path)  # kept when written again
    assert jf.load_prior(path).restoration == prior.restoration
    y = torch.rand(2, 1, 6, 5)
    problem = prepare(y, jf.Denoising(), prior, 0.1).problem
    beta = torch.full((2,), prior.gamma**-2)
    assert jf.JPMAP().bind(problem) == jf.JPMAP(beta=beta, starts=4, n2=0)
    assert jf.MAPz(n2=1).bind(problem) == jf.MAPz(beta0=0.1 * beta, starts=4, n2=1)
    assert jf.JPMAP(starts=3).bind(problem).starts == 3
    silent = prepare(y, jf.Denoising(), small_mlp(dtype=torch.float32), 0.1).problem
    beta = torch.full((2,), silent.prior.gamma**-2)
    assert jf.JPMAP().bind(silent) == jf.JPMAP(beta=beta, starts=2, n2=3)
    assert jf.JPMAP().number_of_starts == 2


@pytest.mark.parametrize("bad", [{"starts": 0}, {"n2": -1}, {"betas": 3}, {"starts": "two"}])
def test_impossible_recommendations_are_refused(bad, tmp_path):
    with pytest.raises((ValueError, TypeError), match="restoration"):
        jf.save_prior(small_mlp(), tmp_path / "p.safetensors", restoration=bad)


@pytest.mark.parametrize("name", jf.available_priors())
def test_bundled_priors_have_a_card_and_restore(name):
    weights, card = BUNDLED / f"{name}.safetensors", (BUNDLED / f"{name}.md").read_text()
    assert weights.stat().st_size <= 20e6
    prior = jf.load_prior(name)
    assert f"{prior.gamma:.4f}" in card and "Recipe" in card and "terms" in card.lower()
    if not prior.latent_dim:
        return  # tests/test_photographs.py restores with it
    generator = torch.Generator().manual_seed(0)
    clean = prior.decode(torch.randn(2, prior.latent_dim, generator=generator))
    operator = jf.Inpainting((torch.rand(prior.image_shape[1:], generator=generator) < 0.3).float())
    y = operator.measure(clean, 10 / 255, generator=generator)
    result = jf.restore(y, operator, prior, 10 / 255)
    assert result.converged.all()
    # Images that the prior draws are found again to within the noise of 30% of the pixels.
    assert (psnr(result.decoded, clean) > 27).all()


def test_a_prior_by_name_is_nobody_elses_to_change():
    deepinv = pytest.importorskip("deepinv")
    digits = jf.mnist_test_digits(1)[0]
    before = jf.restore(digits, jf.Denoising(), "mnist", 0.3).x
    model = jf.Reconstructor("mnist", sigma=0.3).double()
    model(digits.double(), deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.3)))
    assert torch.equal(jf.restore(digits, jf.Denoising(), "mnist", 0.3).x, before)
