"""Training of priors for photographs: crops, steps, pieces, checkpoints, command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.training import denoising_psnr, photo_trainer, shards, train_photos
from jpmap_fast.training.crops import Crops
from jpmap_fast.training.photo_recipe import PhotoRecipe
from jpmap_fast.training.photo_step import PhotoStep

TINY: dict[str, Any] = {
    "batch_size": 4,
    "crop": 16,
    "warm_up": 2,
    "widths": (8, 12),
    "encoder_blocks": (1, 1),
    "decoder_blocks": (1, 1),
    "precision": "float32",
    "learning_rate": 2e-3,
    "progress": False,
}


def waves(count: int = 4, channels: int = 1) -> list[Tensor]:
    """Smooth pictures of several sizes, uint8 [C, H, W]."""
    found = []
    for n in range(count):
        rows, columns = torch.arange(40 + n)[:, None], torch.arange(30 + 2 * n)
        planes = [torch.sin((rows + 2 * columns) / (3 + n + c)) for c in range(channels)]
        found.append((127 + 100 * torch.stack(planes)).round().byte())
    return found


def test_crops_lie_in_their_pictures_and_everywhere_in_them() -> None:
    # Every pixel tells its picture, row and column, in three channels.
    pictures = []
    for n, (height, width) in enumerate(((20, 33), (16, 16), (40, 17))):
        rows = torch.arange(height)[:, None].expand(height, width)
        columns = torch.arange(width).expand(height, width)
        pictures.append(torch.stack([torch.full_like(rows, n), rows, columns]).byte())
    crops = (255 * Crops(pictures, 16).draw(2000, torch.Generator().manual_seed(0))).round().int()
    assert crops.shape == (2000, 3, 16, 16)
    seen = set()
    for picture, rows, columns in crops:
        n = int(picture[0, 0])
        assert bool((picture == n).all())
        down = rows.diff(dim=0).abs().max() == 1
        first, second = (rows, columns) if down else (rows.T, columns.T)
        assert bool((first.diff(dim=0).abs() == 1).all() and (second.diff(dim=1).abs() == 1).all())
        seen.add((n, bool(down), int(rows.min()), int(columns.min())))
    assert {entry[0] for entry in seen} == {0, 1, 2} and {entry[1] for entry in seen} == {
        True,
        False,
    }
    tops, lefts = {e[2] for e in seen if e[0] == 2}, {e[3] for e in seen if e[0] == 0}
    assert tops == set(range(25)) and lefts == set(range(18))


def test_reduced_copies_are_drawn_as_well() -> None:
    picture = torch.zeros(1, 40, 40).byte()
    picture[:, ::2] = 255  # goes grey where it is reduced by half
    crops = Crops([picture], 16, (1.0, 0.5)).draw(100, torch.Generator().manual_seed(0))
    grey = (crops - 0.5).abs().flatten(1).amax(dim=1) < 0.3
    assert 20 < int(grey.sum()) < 80


def test_pictures_smaller_than_a_crop_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 16 x 16 pixels"):
        Crops([torch.zeros(1, 15, 40).byte()], 16)


def test_it_learns_to_denoise() -> None:
    prior, done = train_photos(waves(), steps=400, **{**TINY, "learning_rate": 1e-2})
    assert done == 400 and 0 < prior.gamma < 25 / 255
    noisy = -20 * math.log10(25 / 255)
    assert denoising_psnr(prior, waves(), 25 / 255) > noisy + 1


def test_pieces_end_with_the_bits_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_trainer, "_EACH", 4)
    whole, _ = train_photos(waves(), steps=12, **TINY)
    clock = iter(range(1000))
    monkeypatch.setattr(photo_trainer.time, "monotonic", lambda: float(next(clock)))
    counts = []
    for _ in range(3):
        part, done = train_photos(
            waves(), steps=12, checkpoint=tmp_path / "run", resume=True, seconds=2.5, **TINY
        )
        counts.append(done)
    assert counts == [4, 8, 12]
    for own, other in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(own, other)
    with pytest.raises(
        ValueError, match="expected a checkpoint of this recipe, it differs in crop"
    ):
        train_photos(
            waves(), steps=12, checkpoint=tmp_path / "run", resume=True, **{**TINY, "crop": 12}
        )


def test_a_bad_batch_changes_nothing() -> None:
    recipe = PhotoRecipe(**{n: v for n, v in TINY.items() if n != "progress"})
    crops = Crops(waves(), 16)
    prior = recipe.build(1)
    step = PhotoStep(prior.network, crops, recipe)
    for _ in range(5):
        step(1e-3)
    before = [p.clone() for p in step.parameters]
    draw = crops.draw
    for factor in (math.nan, 1e30):
        crops.draw = lambda *a, factor=factor: draw(*a) * factor  # type: ignore[method-assign]
        step(1e-3)
        assert all(torch.equal(p, q) for p, q in zip(before, step.parameters, strict=True))
    crops.draw = lambda *a: draw(*a) * 1e4  # type: ignore[method-assign]
    step(1e-3)
    moved = max(float((p - q).abs().max()) for p, q in zip(before, step.parameters, strict=True))
    assert 0 < moved < 0.1


def test_weights_to_begin_with() -> None:
    first, _ = train_photos(waves(), steps=40, **TINY)
    after, _ = train_photos(waves(), steps=1, initial=first, **{**TINY, "learning_rate": 1e-9})
    for own, other in zip(first.network.parameters(), after.network.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)
    with pytest.raises(ValueError, match="initial: expected weights of a network with"):
        train_photos(waves(), steps=1, initial=jf.load_prior("mnist"), **TINY)


def test_shards_are_small_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 4000)
    tensors = {
        "a": torch.randn(3, 700),
        "b": torch.arange(5),
        "c": torch.zeros(()),
        "d": torch.zeros(0),
    }
    for _ in range(2):  # the second time over the first
        shards.write_shards(tmp_path / "run", tensors, {"n": 1}, "form")
    files = list((tmp_path / "run").glob("*.safetensors"))
    assert len(files) > 2 and all(file.stat().st_size < 5000 for file in files)
    header, found = shards.read_shards(tmp_path / "run", "form", "a checkpoint")
    assert header == {"n": 1}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    files[0].unlink()
    with pytest.raises(FileNotFoundError):
        shards.read_shards(tmp_path / "run", "form", "a checkpoint")
    index = tmp_path / "run/index.json"
    index.write_text(json.dumps({"files": 0, "shapes": {"a": [2]}, "header": {}}))
    with pytest.raises(ValueError, match="tensor a is damaged"):
        shards.read_shards(tmp_path / "run", "form", "a checkpoint")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"noise": 0.0}, "noise"),
        ({"ema": 1.0}, "ema: expected a decay"),
        ({"scales": (1.5,)}, "scales: expected factors"),
        ({"precision": "half"}, "precision"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhotoRecipe(**settings)


def test_the_command_trains_a_prior_that_restores(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n, picture in enumerate(waves(2, 3)):
        array = np.tile(picture.permute(1, 2, 0).numpy(), (3, 4, 1))
        Image.fromarray(array).save(folder / f"{n}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "mine.safetensors"
    arguments = ["train", str(folder), "-o", str(out), "--network", "photos-grey", "--steps", "2"]
    arguments += ["--batch-size", "2", "--crop", "32", "--device", "cpu", "--no-progress"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "left out broken.png" in done.output and "2 of 2 steps" in done.output
    card = out.with_suffix(".md").read_text()
    assert "2 pictures of `pictures`" in card and "- 25/255:" in card
    prior = jf.load_prior(out)
    assert jf.restore(torch.rand(1, 1, 9, 11), jf.Denoising(), prior, 0.1).x.shape == (1, 1, 9, 11)


@pytest.mark.cuda
def test_a_captured_step_trains_as_an_eager_one() -> None:
    settings = {**TINY, "steps": 30}
    eager, _ = train_photos(waves(), device="cuda", cuda_graph=False, **settings)
    held, _ = train_photos(waves(), device="cuda", **settings)
    for own, other in zip(eager.network.parameters(), held.network.parameters(), strict=True):
        assert torch.allclose(own, other, rtol=0.05, atol=5e-3)
