"""How near a restored image is to the original, one number an image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from jpmap_fast._validate import as_float_tensor, image_batch, same_device


def psnr(images: Any, reference: Any) -> Tensor:
    r"""Peak signal-to-noise ratio in dB, for a peak of 1:

        PSNR = 10 log10(1 / MSE),    MSE = ||x - x_0||^2 / n,    n = C H W.

    Values are taken as they are, not clipped.

    Args:
        images: x [B, C, H, W], floating point, values about [0, 1].
        reference: x_0 [B, C, H, W].

    Returns:
        [B] float64; inf where an image equals its reference.

    Raises:
        ValueError: shapes or devices differ. TypeError: integer values.

    Example:
        >>> import torch
        >>> psnr(torch.full((1, 1, 2, 2), 0.6), torch.full((1, 1, 2, 2), 0.5)).round(decimals=2)
        tensor([20.], dtype=torch.float64)
    """
    x, x0 = _pair(images, reference)
    error = (x.double() - x0.double()).flatten(1).square().mean(dim=1)
    return -10 * error.log10()


def ssim(images: Any, reference: Any) -> Tensor:
    r"""Structural similarity, mean over the image, with the usual 11 x 11 Gaussian window.

    Computed by torchmetrics with data_range = 1: this needs the extra ``demo``.

    Args:
        images: [B, C, H, W], floating point, values about [0, 1].
        reference: [B, C, H, W].

    Returns:
        [B], at most 1.

    Raises:
        ImportError: torchmetrics is not installed.
        ValueError: shapes or devices differ. TypeError: integer values.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise ImportError(
            "ssim needs torchmetrics; install the extra: pip install 'jpmap_fast[demo]'"
        ) from error
    x, x0 = _pair(images, reference)
    if not x.shape[0]:
        return x.new_zeros(0)
    values = structural_similarity_index_measure(x, x0, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(x.shape[0])  # torchmetrics drops the dimension of a batch of one


def _pair(images: Any, reference: Any) -> tuple[Tensor, Tensor]:
    x = image_batch("images", as_float_tensor("images", images))
    x0 = as_float_tensor("reference", reference)
    if x.shape != x0.shape:
        raise ValueError(
            f"reference: expected the shape of images, {list(x.shape)}, got {list(x0.shape)}"
        )
    same_device("images", x.device, "reference", x0.device)
    return x, x0.to(x.dtype)
