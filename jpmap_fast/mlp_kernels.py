"""The fused operators for multilayer perceptrons: one Gauss-Newton evaluation, and whole solves.

Both work on an ``MLPLeastSquares``: a network and, per image, what its output is compared with,

    f(z) = 1/2 sum_j w_j (t_j - s_j out_j(z))^2 + 1/2 ||z||^2 + constant.

A dense measurement matrix is one more layer of the network. The CPU versions hold a tile of images
a thread; an image's result has the same bits alone and in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._extension import cuda_kernels_loaded

# The codes of csrc/mlp_network.h.
ACTIVATION_CODES = {
    name: code
    for code, name in enumerate(("elu", "relu", "silu", "softplus", "tanh", "sigmoid", "identity"))
}
MAX_LAYERS = 8
MAX_LATENT = 64

_ops = torch.ops.jpmap


@dataclass(frozen=True)
class MLPLeastSquares:
    """f(z) of a batch, as the fused operators take it.

    Attributes:
        packed: ``kernels.pack_linear(W)`` of each layer.
        biases: b of each layer, padded with zeros to whole panels.
        activations: names out of ``ACTIVATION_CODES``, one a layer.
        target: t [B, p].
        weight: w [B, p] or [B, 1].
        scale: s, [p] or [B, p]; None for 1.
        constant: float64 [B]; None for 0.
    """

    packed: list[Tensor]
    biases: list[Tensor]
    activations: list[str]
    target: Tensor
    weight: Tensor
    scale: Tensor | None = None
    constant: Tensor | None = None


def supports(latent_dim: int, widths: list[int], activations: list[str], like: Tensor) -> bool:
    """Whether the fused operators take a network, in the type and on the device of ``like``.

    On the CPU: up to 8 layers and 64 latent dimensions. On a GPU: float32 alone, and what an image
    needs must fit into the shared memory of a block.

    Args:
        latent_dim: k.
        widths: outputs of each layer.
        activations: their names.
        like: a tensor of the type and device in question.
    """
    if not (
        1 <= latent_dim <= MAX_LATENT
        and 1 <= len(activations) <= MAX_LAYERS
        and all(name in ACTIVATION_CODES for name in activations)
    ):
        return False
    if like.device.type != "cuda":
        return like.device.type == "cpu"
    if like.dtype != torch.float32 or not cuda_kernels_loaded():
        return False
    properties = torch.cuda.get_device_properties(like.device)
    room = int(properties.shared_memory_per_block_optin) - 1024
    return _shared_memory(latent_dim, widths) <= room


def _shared_memory(k: int, widths: list[int]) -> int:
    """Bytes of one image in csrc/cuda/mlp_tile.cuh."""
    strides = [-(-width // 32) * 32 for width in widths]
    widest = max([32, *strides[:-1]])
    doubles = 2 * k + 2 * k * k
    codes = 2 * (-(-k // 4) * 4)
    floats = codes + 2 * sum(strides) + 2 * strides[-1] + 2 * k * widest
    return 8 * (doubles + doubles % 2) + 4 * floats


def mlp_gauss_newton(z: Tensor, f: MLPLeastSquares) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One evaluation: the network, f, its gradient and its Gauss-Newton matrix.

    Args:
        z: codes [B, k], float32 or float64, contiguous.
        f: of the same type and device.

    Returns:
        The network's output [B, p]; and in float64 f [B], z - J^T W r [B, k] and
        I + J^T W J [B, k, k].

    Raises:
        RuntimeError: shapes, types or layouts do not fit.
    """
    output, value, gradient, matrix = _ops.mlp_gauss_newton(z.contiguous(), *_arguments(f))
    return output, value, gradient, matrix


def mlp_restore(
    z: Tensor, f: MLPLeastSquares, tolerance: float, max_steps: int, initial_damping: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The damped Gauss-Newton method of ``solvers.GaussNewton``, whole, for every image.

    Args:
        z: starting points [B, k], float32 or float64.
        f: of the same type and device.
        tolerance, max_steps, initial_damping: as in ``solvers.GaussNewton``.

    Returns:
        z [B, k], f(z) float64 [B], trial steps int64 [B], converged bool [B].

    Raises:
        RuntimeError: shapes, types or layouts do not fit.

    Source: H. B. Nielsen, "Damping parameter in Marquardt's method", IMM-REP-1999-05, 1999.
    """
    found, value, steps, converged = _ops.mlp_restore(
        z.contiguous(), *_arguments(f), tolerance, max_steps, initial_damping
    )
    return found, value, steps, converged


def _arguments(
    f: MLPLeastSquares,
) -> tuple[list[Tensor], list[Tensor], list[int], Tensor, Tensor, Tensor | None, Tensor | None]:
    return (
        f.packed,
        f.biases,
        [ACTIVATION_CODES[name] for name in f.activations],
        f.target.contiguous(),
        f.weight.contiguous(),
        None if f.scale is None else f.scale.contiguous(),
        None if f.constant is None else f.constant.contiguous(),
    )


@torch.library.register_fake("jpmap::mlp_gauss_newton")
def _(z, packed, biases, activations, target, weight, scale, constant):  # type: ignore[no-untyped-def]  # noqa: E501
    batch, k = z.shape
    return (
        torch.empty_like(target),
        z.new_empty(batch, dtype=torch.float64),
        z.new_empty(batch, k, dtype=torch.float64),
        z.new_empty(batch, k, k, dtype=torch.float64),
    )


@torch.library.register_fake("jpmap::mlp_restore")
def _(  # type: ignore[no-untyped-def]
    z, packed, biases, activations, target, weight, scale, constant, tolerance, max_steps, damping
):
    batch = z.shape[0]
    return (
        torch.empty_like(z),
        z.new_empty(batch, dtype=torch.float64),
        z.new_empty(batch, dtype=torch.int64),
        z.new_empty(batch, dtype=torch.bool),
    )
