"""What tensors must be for an operator, said in Python; csrc/check.h is the backstop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jpmap_fast.kernels._extension import require_cuda_kernels


def matrix_shape(op: str, name: str, tensor: Tensor) -> tuple[int, int]:
    """The shape of a matrix [B, n] in a type that is compiled, on a device with kernels."""
    if tensor.dim() != 2:
        raise ValueError(f"{op}: expected {name} of shape [B, n], got {list(tensor.shape)}")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: expected {name} in float32 or float64, got {tensor.dtype}")
    if tensor.device.type == "cuda":
        require_cuda_kernels()
    return tensor.shape[0], tensor.shape[1]


def fits(op: str, like: Tensor, name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Refuse what has not this shape, and the type and device of ``like``."""
    if tensor.shape == shape and tensor.dtype == like.dtype and tensor.device == like.device:
        return
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{op}: expected {name} of shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype != like.dtype:
        raise TypeError(f"{op}: expected {name} in {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{op}: expected {name} on {like.device}, got {tensor.device}")


def flags(op: str, like: Tensor, active: Tensor, batch: int) -> None:
    """Refuse what is not bool [B] on the device of ``like``."""
    if active.dtype != torch.bool:
        raise TypeError(f"{op}: expected active in torch.bool, got {active.dtype}")
    if tuple(active.shape) != (batch,) or active.device != like.device:
        raise ValueError(
            f"{op}: expected active of shape [{batch}] on {like.device}, "
            f"got {list(active.shape)} on {active.device}"
        )


def in_place(op: str, **tensors: Tensor) -> None:
    """Refuse what cannot be written as it lies."""
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{op}: expected {name} contiguous, since it is written in place")
