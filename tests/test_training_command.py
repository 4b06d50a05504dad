"""``jpmap-fast train``: priors, cards, and errors in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from training_images import colours, digits, parameters
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app


def test_command_trains_resumes_and_writes_a_card(tmp_path):
    data, out, run = tmp_path / "d.npz", tmp_path / "mine.safetensors", tmp_path / "run.pt"
    np.savez(data, x_train=(digits(30)[:, 0] * 255).round().byte().numpy())
    common = ["train", str(data), "--output", str(out), "--hidden", "12", "--latent-dim", "2"]
    common += ["--checkpoint", str(run), "--device", "cpu", "--terms", "public digits"]
    done = CliRunner().invoke(app, [*common, "--epochs", "2"])
    assert done.exit_code == 0, done.output
    assert "gamma" in done.output and "PSNR" in done.output
    first = jf.load_prior(out)
    card = out.with_suffix(".md").read_text()
    assert "public digits" in card and "30" in card
    done = CliRunner().invoke(app, [*common, "--epochs", "3", "--resume"])
    assert done.exit_code == 0, done.output
    assert not torch.equal(parameters(first), parameters(jf.load_prior(out)))


def test_command_trains_a_convolutional_prior(tmp_path):
    data, out = tmp_path / "d.npz", tmp_path / "mine.safetensors"
    images = (colours(40) * 255).round().byte().permute(0, 2, 3, 1)
    np.savez(data, x=images.numpy())
    common = ["train", str(data), "--output", str(out), "--latent-dim", "2", "--epochs", "30"]
    common += ["--network", "conv-residual", "--channels", "4,6", "--gamma", "closed-form"]
    common += ["--augment", "--held-out", "0.2", "--patience", "2", "--learning-rate", "0.3"]
    common += ["--precision", "bfloat16", "--device", "cpu", "--checkpoint", str(tmp_path / "r")]
    done = CliRunner().invoke(app, [*common, "--half"])
    assert done.exit_code == 0, done.output
    prior = jf.load_prior(out)
    assert isinstance(prior, jf.ConvVAE) and prior.channels == (4, 6) and prior.latent_dim == 2
    assert prior.image_shape == (3, 8, 16) and prior.blocks == "residual"
    assert f"gamma: {prior.gamma:.4f}" in done.output
    with safe_open(str(out), framework="pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert torch.float16 in kinds
    assert recipe["network"] == "conv-residual" and recipe["augment"] is True
    assert recipe["held_out"] == 0.2 and recipe["patience"] == 2
    epochs = torch.load(tmp_path / "r", weights_only=True)["epochs_done"]
    assert epochs < 30, "patience should have ended the run"
    card = out.with_suffix(".md").read_text()
    assert "- network: conv-residual" in card and "- gamma: closed-form" in card
    done = CliRunner().invoke(app, common)
    assert done.exit_code == 0, done.output
    whole = jf.load_prior(out)
    assert whole.gamma == prior.gamma  # the same run, stored without rounding
    assert any(not torch.equal(p, p.half().float()) for p in whole.parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--network", "conv"], "network: expected one of 'mlp'"),
        (["--channels", "4,x"], "--channels: expected widths such as"),
        (["--gamma", "2"], "gamma: expected one of"),
        (["--held-out", "1.5"], "held_out: expected a share"),
        (["--patience", "2"], "patience: needs images to judge by"),
        (["--precision", "int8"], "precision: expected one of"),
        (["--network", "conv-plain"], "multiples of 8"),
        (["--resume"], "--checkpoint"),
    ],
)
def test_bad_options_of_the_command_end_with_one_line(tmp_path, options, message):
    data, out = tmp_path / "d.npy", tmp_path / "mine.safetensors"
    np.save(data, digits(8)[:, 0].numpy())
    done = CliRunner().invoke(app, ["train", str(data), "--output", str(out), *options])
    errors = [line for line in done.output.splitlines() if line.startswith("Error")]
    assert done.exit_code == 2 and len(errors) == 1 and message in errors[0], done.output
    assert "Traceback" not in done.output and not out.exists()


def test_command_says_in_one_line_what_is_wrong(tmp_path):
    out = tmp_path / "mine.safetensors"
    done = CliRunner().invoke(app, ["train", str(tmp_path / "none.npz"), "--output", str(out)])
    assert done.exit_code != 0 and "no such file" in done.output
    assert "Traceback" not in done.output
