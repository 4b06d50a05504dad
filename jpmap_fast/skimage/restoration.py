"""What stands beside ``skimage.restoration``."""

from __future__ import annotations

from typing import Any

import numpy as np

from jpmap_fast._prepared import AUTO, parameter_of, prior_of
from jpmap_fast._restore import restore
from jpmap_fast._validate import switch
from jpmap_fast.data.picture import Array
from jpmap_fast.operators import Blur, Denoising, Inpainting, Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.skimage._pictures import ArrayPicture

# Of the sum of a psf, what may have been cut off.
LOST = 0.05


def denoise(
    image: Any,
    *,
    sigma: float | None = None,
    channel_axis: int | None = None,
    prior: Prior | str | None = None,
    method: Any = None,
) -> Array:
    """A picture without its noise, as ``skimage.restoration.denoise_wavelet`` takes and gives it.

    Args:
        image: [H, W] of any size, or [H, W, 3] with ``channel_axis=-1``. Integers count over the
            largest of their type, as for ``skimage.util.img_as_float``; floats as they are, in
            [0, 1].
        sigma: standard deviation of the noise, > 0, in the units of [0, 1]; None estimates it, see
            ``estimate_sigma``.
        channel_axis: of the channels, 1 or 3 of them; None for a grey picture without.
        prior: a prior, its name or path, as ``restore`` takes it; None for "photos" or
            "photos-grey". It works on the prior's device.
        method: as ``restore`` takes it.

    Returns:
        Of the shape of ``image``, values in [0, 1]: float32 of floats up to 32 bits, else float64;
        computed in the precision of the prior.

    Raises:
        ValueError: another shape, values that are not those of a picture in [0, 1], NaN, or a sigma
            that cannot be estimated. TypeError: other types, or a masked array.

    It warns of integers that use a sixteenth of their range or less, as of a 12-bit camera.

    Example:
        >>> import numpy as np, jpmap_fast as jf
        >>> noisy = np.random.default_rng(0).normal(0.5, 0.1, (32, 48)).astype(np.float32)
        >>> clean = jf.skimage.denoise(noisy)
        >>> clean.shape, clean.dtype, bool(clean.std() < 0.05)
        ((32, 48), dtype('float32'), True)
    """
    picture = ArrayPicture.of(image, channel_axis)
    picture.check_brightness()
    return picture.array(_restored(picture, picture.values, Denoising(), prior, sigma, method))


def inpaint(
    image: Any,
    mask: Any,
    *,
    sigma: float | None = None,
    channel_axis: int | None = None,
    keep: bool = True,
    prior: Prior | str | None = None,
    method: Any = None,
) -> Array:
    """A picture with its missing pixels, as ``skimage.restoration.inpaint_biharmonic`` does it.

    Args:
        image: as ``denoise`` takes it; what is in missing pixels does not matter, NaN included.
        mask: [H, W], non-zero or True where pixels are MISSING, in all channels. The masks of this
            package, such as those of ``Inpainting``, say the opposite: give ``mask == 0`` of one.
        sigma: as in ``denoise``; it is estimated where whole blocks of 4 x 4 pixels are known.
        channel_axis: as in ``denoise``.
        keep: known pixels come back as they were, as from scikit-image; False for restored ones,
            without their noise.
        prior, method: as in ``denoise``.

    Returns:
        As of ``denoise``. Known pixels that are kept have the values they had, of whatever size.

    Raises:
        ValueError: a mask of another shape, or of all pixels; and as ``denoise``.
        TypeError: as ``denoise``.

    Example:
        >>> import numpy as np, jpmap_fast as jf
        >>> image = np.tile(np.linspace(0, 1, 48, dtype=np.float32), (32, 1))
        >>> mask = np.zeros((32, 48), bool)
        >>> mask[10:14, 20:24] = True
        >>> filled = jf.skimage.inpaint(np.where(mask, 0, image), mask)
        >>> bool(np.abs(filled - image).max() < 0.05)
        True
    """
    switch("keep", keep)
    picture = ArrayPicture.of(image, channel_axis)
    missing = _missing(mask, picture.values.shape[1:])
    if keep and not missing.any():
        return picture.array(picture.values.copy())
    picture.check_brightness(~missing)
    y = np.where(missing, 0, picture.values)
    operator = Inpainting((~missing).astype(np.float32))
    restored = _restored(picture, y, operator, prior, sigma, method)
    return picture.array(np.where(missing, restored, picture.values) if keep else restored)


def deblur(
    image: Any,
    psf: Any,
    *,
    sigma: float | None = None,
    channel_axis: int | None = None,
    boundary: str = "circular",
    prior: Prior | str | None = None,
    method: Any = None,
) -> Array:
    """A picture without its blur, as ``skimage.restoration.wiener`` takes and gives it.

    Args:
        image: as ``denoise`` takes it.
        psf: [h, w], what the picture was convolved with, its centre at [h // 2, w // 2], of sum 1.
        sigma, channel_axis: as in ``denoise``.
        boundary: what was beyond the border: "circular" as for ``wiener``; or "zero", "reflect" or
            "replicate", which are closer to a photograph's and slower, see ``Blur``.
        prior, method: as in ``denoise``.

    Returns:
        As of ``denoise``.

    Raises:
        ValueError: a psf of another sum, larger than the image, or not finite, an unknown boundary;
            and as ``denoise``. TypeError: as ``denoise``.

    Example:
        >>> import numpy as np, jpmap_fast as jf
        >>> jf.skimage.deblur(np.full((32, 48), 0.5), np.full((3, 3), 1 / 9)).shape
        (32, 48)
    """
    if boundary == "valid":
        raise ValueError(
            "boundary: expected one that keeps the size of the image, got 'valid'; use "
            "restore(y, Blur(psf, 'valid'), ...)"
        )
    picture = ArrayPicture.of(image, channel_axis)
    picture.check_brightness()
    operator = Blur(_point_spread(psf), boundary)
    return picture.array(_restored(picture, picture.values, operator, prior, sigma, method))


def _point_spread(psf: Any) -> Array:
    """[h, w] float64 of sum 1, or nearly."""
    kernel = np.asarray(psf)
    if kernel.ndim != 2 or kernel.dtype.kind not in "uif":
        raise ValueError(
            f"psf: expected numbers [h, w], got {kernel.dtype} of shape {list(kernel.shape)}"
        )
    total = float(kernel.sum())
    if not abs(total - 1) <= LOST:  # NaN too
        raise ValueError(
            f"psf: expected values of sum 1, which leave a picture as bright as it is, got sum "
            f"{total:g}; give psf / psf.sum()"
        )
    return kernel.astype(np.float64)


def _missing(mask: Any, shape: tuple[int, ...]) -> Array:
    """Where pixels are missing, bool [H, W]."""
    missing: Array = np.asarray(mask) != 0
    if missing.shape != shape:
        raise ValueError(
            f"mask: expected the shape of the image without channels, {list(shape)}, got "
            f"{list(missing.shape)}"
        )
    if missing.all():
        raise ValueError(
            "mask: expected some pixels that are known, got one that is non-zero everywhere; it "
            "is non-zero where pixels are missing"
        )
    return missing


def _restored(
    picture: ArrayPicture,
    y: Array,
    operator: Operator,
    prior: Prior | str | None,
    sigma: float | None,
    method: Any,
) -> Array:
    """X [C, H, W] of measurements y [C, H, W], clipped to [0, 1]."""
    if not np.isfinite(y).all():
        raise ValueError(
            "image: expected finite values, got NaN or infinity; inpaint(image, np.isnan(image)) "
            "fills pixels of NaN"
        )
    model = prior_of(picture.prior if prior is None else prior, shared=True)
    parameter = parameter_of(model)
    device = "cpu" if parameter is None else parameter.device
    try:
        result = restore(
            np.ascontiguousarray(y)[None],
            operator.to(device),
            model,
            AUTO if sigma is None else sigma,
            method=method,
        )
    except ValueError as error:  # which calls it what it is here for ``restore``
        told = str(error)
        raise ValueError(f"image: {told[3:]}" if told.startswith("y: ") else told) from error
    restored: Array = result.x[0].clamp(0, 1).cpu().numpy()
    return restored
