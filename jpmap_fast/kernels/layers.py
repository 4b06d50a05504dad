"""Layers f(x W^T + b) with an activation: of any rows on the CPU, of a few on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.kernels._checks import fits, matrix_shape
from jpmap_fast.kernels._extension import cuda_kernels_loaded
from jpmap_fast.kernels.activations import ACTIVATION_CODES

_ops = torch.ops.jpmap


def pack_linear(weight: Tensor) -> Tensor:
    """The layout ``linear`` wants of a weight [out, in]: [panels, in, w], w outputs a panel.

    A panel of 128 bytes holds w = 32 outputs in float32, 16 in float64; the last is filled with
    zeros.
    """
    matrix_shape("pack_linear", "weight", weight)
    outputs, inputs = weight.shape
    width = 128 // weight.element_size()
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -outputs % width))
    return padded.reshape(-1, width, inputs).transpose(1, 2).contiguous()


def linear(
    x: Tensor,  # [R, in]
    packed: Tensor,  # [panels, in, w]
    bias: Tensor | None,  # [out]
    outputs: int,
    activation: str = "identity",
) -> Tensor:
    r"""A layer, f(x W^T + b) [R, out], each row having the same bits whatever R is. CPU only.

    Args:
        x: rows [R, in], float32 or float64.
        packed: ``pack_linear(W)`` of W [out, in].
        bias: b [out], or None.
        outputs: out.
        activation: f, a name out of ``activations.ACTIVATIONS``.

    Raises:
        ValueError: shapes or devices do not fit, or no such activation. TypeError: types do not.
    """
    op = "linear"
    _, inputs = matrix_shape(op, "x", x)
    width = 128 // x.element_size()
    fits(op, x, "packed", packed, (-(-outputs // width), inputs, width))
    if bias is not None:
        fits(op, x, "bias", bias, (outputs,))
    out: Tensor = _ops.linear(
        x.contiguous(),
        packed.contiguous(),
        None if bias is None else bias.contiguous(),
        outputs,
        _code(op, activation),
    )
    return out


# Rows up to which ``layer`` is one launch worth having.
LAYER_ROWS = 8


def layer(
    x: Tensor,  # [R, in]
    weight: Tensor,  # [out, in]
    bias: Tensor | None,  # [out]
    activation: str = "identity",
) -> Tensor:
    r"""A layer, f(x W^T + b) [R, out], of at most 8 rows in one launch. CUDA, float32 only.

    Args:
        x: rows [R, in].
        weight: W [out, in].
        bias: b [out], or None.
        activation: f, a name out of ``activations.ACTIVATIONS``.

    Raises:
        ValueError: shapes or devices do not fit, too many rows, or no such activation.
        TypeError: types do not.
    """
    op = "layer"
    rows, inputs = matrix_shape(op, "x", x)
    outputs, _ = matrix_shape(op, "weight", weight)
    if rows > LAYER_ROWS:
        raise ValueError(f"{op}: expected at most {LAYER_ROWS} rows, got {rows}")
    fits(op, x, "weight", weight, (outputs, inputs))
    if bias is not None:
        fits(op, x, "bias", bias, (outputs,))
    out: Tensor = _ops.layer(
        x.contiguous(),
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        _code(op, activation),
    )
    return out


def has_layer(x: Tensor) -> bool:
    """Whether rows x [R, in] can go through ``layer``."""
    few = 0 < len(x) <= LAYER_ROWS
    return few and x.is_cuda and x.dtype == torch.float32 and cuda_kernels_loaded()


def _code(op: str, activation: str) -> int:
    if activation not in ACTIVATION_CODES:
        known = ", ".join(ACTIVATION_CODES)
        raise ValueError(f"{op}: expected an activation out of {known}, got {activation!r}")
    return ACTIVATION_CODES[activation]


@torch.library.register_fake("jpmap::linear")
def _(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int, activation: int) -> Tensor:
    return x.new_empty(x.shape[0], outputs)


@torch.library.register_fake("jpmap::layer")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])
