"""Images changed at random for training: range, seeds, and what is changed how often."""

from __future__ import annotations

import numpy as np
import torch

from jpmap_fast.training.augmentation import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmented_images_keep_shape_and_range_and_are_reproducible():
    images = torch.rand(40, 3, 6, 9)
    kept = images.clone()
    found = augment(images, generator())
    assert found.shape == images.shape and found.dtype == images.dtype
    assert ((found >= 0) & (found <= 1)).all()
    assert torch.equal(images, kept)
    assert torch.equal(found, augment(images, generator()))
    assert not torch.equal(found, augment(images, generator(1)))
    changed = (found - images).abs().flatten(1).amax(1) > 0.01
    assert changed.all()


STILL = {"shift": 0, "gain": 0.0, "offset": 0.0}


def test_half_of_the_images_are_mirrored():
    images = torch.rand(200, 3, 4, 5)
    found = augment(images, generator(), **STILL)
    as_is = torch.isclose(found, images, rtol=0, atol=1e-6).flatten(1).all(1)
    mirrored = torch.isclose(found, images.flip(3), rtol=0, atol=1e-6).flatten(1).all(1)
    assert (as_is ^ mirrored).all()
    assert 70 <= int(mirrored.sum()) <= 130  # 100 +- 4 standard deviations


def test_shifted_images_are_crops_of_the_reflected_ones_and_every_shift_occurs():
    images = torch.rand(300, 2, 6, 7)
    found = augment(images, generator(), **{**STILL, "shift": 2})
    wide = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="symmetric")
    wide = torch.from_numpy(wide)
    seen, explained = set(), torch.zeros(300, dtype=torch.bool)
    for down in range(5):
        for right in range(5):
            crop = wide[:, :, down : down + 6, right : right + 7]
            for mirrored in (False, True):
                expected = crop.flip(3) if mirrored else crop
                same = torch.isclose(found, expected, rtol=0, atol=1e-6).flatten(1).all(1)
                if same.any():
                    seen.add((down, right, mirrored))
                explained |= same
    assert explained.all()
    assert len(seen) == 50


def test_contrast_changes_by_channel_about_the_mean():
    images = 0.4 + 0.2 * torch.rand(30, 3, 4, 5)
    found = augment(images, generator(), **{**STILL, "gain": 0.3})
    torch.testing.assert_close(found.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=1e-6)
    ratio = found.std((2, 3)) / images.std((2, 3))
    assert (ratio > 0.7 - 1e-5).all() and (ratio < 1.3 + 1e-5).all()
    assert ratio.std() > 0.1 and (ratio.std(1) > 1e-3).all()
    centred = images - images.mean((2, 3), keepdim=True)
    moved = found - found.mean((2, 3), keepdim=True)
    scaled = centred * ratio[:, :, None, None]
    as_is = torch.isclose(moved, scaled, rtol=0, atol=1e-5).flatten(1).all(1)
    mirrored = torch.isclose(moved, scaled.flip(3), rtol=0, atol=1e-5).flatten(1).all(1)
    assert (as_is | mirrored).all()


def test_brightness_changes_alike_in_all_channels():
    images = 0.4 + 0.2 * torch.rand(30, 3, 4, 5)
    found = augment(images, generator(), **{**STILL, "offset": 0.1})
    change = found.mean((2, 3)) - images.mean((2, 3))
    torch.testing.assert_close(change, change[:, :1].expand(-1, 3), rtol=0, atol=1e-6)
    assert change.abs().max() <= 0.1 + 1e-6 and change.std() > 0.03
    bright = augment(torch.full((50, 1, 4, 4), 0.99), generator(), **{**STILL, "offset": 0.1})
    assert bright.max() == 1
