"""jpmap_fast.skimage keeps the rules of scikit-image, and restores as restore does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_photos import small_photo_prior

import jpmap_fast as jf

HEIGHT, WIDTH = 40, 52
TYPES = ("bool", "uint8", "uint16", "uint32", "int16", "float16", "float32", "float64")


def picture(kind: str = "float32", channels: int | None = None) -> Any:
    """Waves with some noise, over the range of a type."""
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    wave = np.sin(np.arange(WIDTH) / 5)[None] * np.cos(np.arange(HEIGHT) / 4)[:, None]
    values = 0.5 + 0.3 * (wave if channels is None else wave[..., None])
    values = np.clip(values + np.random.default_rng(0).normal(0, 0.03, shape), 0, 1)
    if kind == "bool":
        return values > 0.5
    if kind.startswith("float"):
        return values.astype(kind)
    return np.rint(values * np.iinfo(kind).max).astype(kind)


def hole() -> Any:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:14, 20:30] = True
    return mask


def calls(channels: int | None) -> list[Any]:
    """Each function, of a picture alone."""
    own = {"prior": small_photo_prior(channels or 1)}
    own |= {} if channels is None else {"channel_axis": -1}
    psf = np.full((3, 3), 1 / 9)
    return [
        lambda image, **more: jf.skimage.denoise(image, **{**own, **more}),
        lambda image, **more: jf.skimage.inpaint(image, hole(), **{**own, **more}),
        lambda image, **more: jf.skimage.deblur(image, psf, **{**own, **more}),
    ]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_types_and_shapes_are_those_of_scikit_image(kind: str, channels: int | None) -> None:
    inpaint = pytest.importorskip("skimage.restoration").inpaint_biharmonic
    image = picture(kind, channels)
    axis = None if channels is None else -1
    theirs = inpaint(image, hole(), channel_axis=axis)
    for call in calls(channels):
        ours = call(image, sigma=0.03)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert ours.min() >= 0 and ours.max() <= 1
        assert ours.flags.c_contiguous and ours.flags.writeable


@pytest.mark.parametrize("kind", TYPES)
def test_known_pixels_are_those_of_img_as_float(kind: str) -> None:
    util = pytest.importorskip("skimage.util")
    image, mask = picture(kind), hole()
    filled = calls(None)[1](image, sigma=0.03)
    expected = util.img_as_float(image)
    np.testing.assert_allclose(filled[~mask], expected[~mask], rtol=1e-12)
    assert not np.allclose(filled[mask], expected[mask])


def test_the_mask_says_what_is_missing_as_there() -> None:
    """Non-zero is filled, of any type; a mask of this package says the opposite."""
    image, mask = picture(), hole()
    found = calls(None)[1](image, sigma=0.03)
    assert ((found != image) <= mask).all() and (found != image)[mask].all()
    operator = jf.Inpainting(torch.from_numpy(~mask).float())
    y = torch.from_numpy(np.where(mask, 0, image))[None]
    restored = jf.restore(y, operator, small_photo_prior(), 0.03).x[0].clamp(0, 1).numpy()
    np.testing.assert_array_equal(found[mask], restored[mask])
    for other in (mask.astype(np.uint8) * 7, mask.astype(float), mask.tolist()):
        again = jf.skimage.inpaint(image, other, sigma=0.03, prior=small_photo_prior())
        np.testing.assert_array_equal(again, found)


def test_known_pixels_are_restored_where_they_are_not_kept() -> None:
    image = picture()
    restored = calls(None)[1](image, sigma=0.03, keep=False)
    assert (restored != image).mean() > 0.9


def test_what_is_in_missing_pixels_does_not_matter() -> None:
    image, mask = picture(), hole()
    call = calls(None)[1]
    expected = call(image, sigma=0.03)
    for junk in (np.nan, np.inf, -1e9):
        np.testing.assert_array_equal(call(np.where(mask, junk, image), sigma=0.03), expected)


def test_nothing_missing_is_the_picture() -> None:
    image = picture("uint8")
    found = jf.skimage.inpaint(image, np.zeros(image.shape))
    np.testing.assert_array_equal(found, image / 255)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_channels_may_be_anywhere(axis: int) -> None:
    image = picture("float32", 3)
    for call in calls(3):
        last = call(image, sigma=0.03)
        moved = call(np.moveaxis(image, -1, axis), sigma=0.03, channel_axis=axis)
        np.testing.assert_array_equal(np.moveaxis(moved, axis, -1), last)


def test_sigma_is_estimated_as_by_restore() -> None:
    image = picture()
    y = torch.from_numpy(image)[None]
    expected = jf.restore(y, jf.Denoising(), small_photo_prior(), "auto").x[0].clamp(0, 1)
    np.testing.assert_array_equal(calls(None)[0](image), expected.numpy())


def test_a_psf_is_that_of_wiener_even_ones_too() -> None:
    """A picture convolved as scikit-image's wiener takes it is that which is deblurred here."""
    restoration = pytest.importorskip("skimage.restoration")
    psf = np.random.default_rng(1).random((4, 5))
    psf /= psf.sum()
    sharp = picture("float64")
    blurred = jf.Blur(torch.from_numpy(psf)).A(torch.from_numpy(sharp)[None, None])[0, 0].numpy()
    theirs = restoration.wiener(blurred, psf, 1e-9, clip=False)
    np.testing.assert_allclose(theirs, sharp, atol=1e-3)
    found = jf.skimage.deblur(blurred, psf, sigma=0.01, prior=small_photo_prior())
    operator, y = jf.Blur(torch.from_numpy(psf)), torch.from_numpy(blurred)[None]
    expected = jf.restore(y, operator, small_photo_prior(), 0.01).x[0].clamp(0, 1).numpy()
    np.testing.assert_array_equal(found, expected.astype(np.float64))


def test_photographs_come_back_better_by_the_priors_of_their_kind() -> None:
    clean = jf.data.photograph()[0, :, 60:124, 80:144].permute(1, 2, 0).numpy()
    noisy = clean + np.random.default_rng(0).normal(0, 0.08, clean.shape).astype(np.float32)
    for image, truth, axis in ((noisy, clean, -1), (noisy[..., 1], clean[..., 1], None)):
        found = jf.skimage.denoise(image, sigma=0.08, channel_axis=axis)
        assert np.square(found - truth).mean() < 0.25 * np.square(image - truth).mean()
        mask = np.zeros(truth.shape[:2], bool)
        mask[20:24, 20:40] = True
        damaged = np.where(mask if axis is None else mask[..., None], 0, truth)
        filled = jf.skimage.inpaint(damaged, mask, channel_axis=axis)
        assert np.square(filled - truth)[mask].mean() < 0.05 * np.square(truth)[mask].mean()


BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (picture("float32", 3), {}, ValueError, r"image: expected \[H, W\].*channel_axis is -1"),
    (picture(), {"channel_axis": -1}, ValueError, r"an axis of channels, got shape \[40, 52\]"),
    (picture("uint8", 4), {"channel_axis": -1}, ValueError, "1 or 3 channels along axis -1, got 4"),
    (picture("uint8", 3), {"channel_axis": 3}, ValueError, "channel_axis: expected one of 3 axes"),
    (picture("uint8", 3), {"channel_axis": -4}, ValueError, "channel_axis: expected at least -3"),
    (picture("uint8", 3), {"channel_axis": 1.5}, TypeError, "channel_axis: expected an integer"),
    (255 * picture(), {}, ValueError, r"image: expected measurements .* divide by 255"),
    (2 * picture() - 1.5, {}, ValueError, "image: expected measurements"),
    (picture("uint8").astype(np.int64), {}, TypeError, "image: expected integers of 8, 16 or 32"),
    (picture("uint8").astype(np.uint16), {}, ValueError, "image: .*the picture would be black"),
    (-picture("int16"), {}, ValueError, "image: expected integers >= 0"),
    (picture().astype(complex), {}, TypeError, "image: expected integers"),
    (np.where(hole(), np.nan, picture()), {}, ValueError, "inpaint.image, np.isnan.image"),
    (np.ma.array(picture(), mask=hole()), {}, TypeError, "inpaint.image.data, image.mask"),
    (picture(), {"sigma": 0}, ValueError, "sigma: expected finite values > 0"),
    (picture(), {"sigma": 20}, ValueError, "sigma: expected the deviation"),
    (picture()[:8, :8], {"sigma": None}, ValueError, "sigma: expected a number"),
    (picture("float32", 3), {"channel_axis": -1}, ValueError, "prior: expected grey pictures"),
]


@pytest.mark.parametrize(("image", "own", "kind", "message"), BAD)
def test_what_is_no_picture_is_refused(
    image: Any, own: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        jf.skimage.denoise(image, **{"prior": small_photo_prior(), "sigma": 0.03, **own})


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (hole()[1:], "mask: expected the shape of the image without channels"),
        (np.ones((HEIGHT, WIDTH, 3)), "mask: expected the shape of the image without channels"),
        (np.ones((HEIGHT, WIDTH)), "non-zero where pixels are missing"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jf.skimage.inpaint(picture("float32", 3), mask, channel_axis=-1, sigma=0.03)


@pytest.mark.parametrize(
    ("psf", "message"),
    [
        (np.ones((3, 3)), "sum 1.* got sum 9; give psf / psf.sum"),
        (np.full((3, 3), np.nan), "sum 1"),
        (np.ones(3) / 3, r"psf: expected numbers \[h, w\]"),
        (np.eye(100) / 100, "kernel"),
    ],
)
def test_psfs_that_do_not_fit_are_refused(psf: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jf.skimage.deblur(picture(), psf, sigma=0.03, prior=small_photo_prior())


def test_a_border_that_changes_the_size_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps the size"):
        jf.skimage.deblur(picture(), np.full((3, 3), 1 / 9), boundary="valid")


def test_a_dark_picture_is_told() -> None:
    image = picture("uint16") // 16
    with pytest.warns(UserWarning, match="image: dark: uint16 values up to"):
        jf.skimage.denoise(image, sigma=0.01, prior=small_photo_prior())


def test_the_picture_that_came_is_left_alone() -> None:
    image, mask = picture(), hole()
    before = image.copy()
    for call in calls(None):
        call(image, sigma=0.03)
    np.testing.assert_array_equal(image, before)
    assert mask.sum() == 40
