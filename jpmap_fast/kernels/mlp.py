"""The fused operators for multilayer perceptrons: evaluations, whole solves, and draws.

All work on an ``MLPLeastSquares``: a network and, per image, what its output is compared with,

    f(z) = 1/2 sum_j w_j (t_j - s_j out_j(z))^2 + 1/2 ||z||^2 + constant.

A dense measurement matrix is one more layer of the network. A worker (a thread on the CPU, a block
on a GPU) holds a tile of images; an image's result has the same bits alone and in any batch.

On the CPU f and its gradient are computed in the type of z, on a GPU with float32 accuracy (matrix
units, every number two of float16). The matrices of the second derivatives come from float16
products with float32 sums on a GPU, in float32 from bfloat16 ones on a processor that has these,
where numbers below 2^-126 are taken for 0: they steer a step, and are no part of what is accepted.
Of draws the products have one tf32 part: what a sampler weighs are differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import jpmap_fast._C as _C
from jpmap_fast.kernels._extension import cuda_kernels_loaded
from jpmap_fast.kernels.activations import ACTIVATION_CODES
from jpmap_fast.kernels.mlp_network import PackedNetwork

MAX_LAYERS: int = _C.max_layers
MAX_LATENT: int = _C.max_latent

# Up to so many descents at a time a GPU is quicker with a cluster of blocks for each.
LOW_LATENCY_DESCENTS = 40

_ops = torch.ops.jpmap


@dataclass(frozen=True)
class MLPLeastSquares:
    """f(z) of a batch, as the fused operators take it.

    Attributes:
        network: weights and activations, from ``mlp_network.pack_network``.
        target: t [B, p].
        weight: w [B, p] or [B, 1].
        scale: s, [p] or [B, p]; None for 1.
        constant: float64 [B]; None for 0.
        law: noise, floor, slope and unit [B, 4], where an output decides its variance,

                v_j = noise + s_j^2 (floor + slope g (1 - g)),   g = out_j(z) within [0, 1],

            and f is 1/2 sum_j w_j ((t_j - s_j out_j)^2 / v_j + log(v_j / u_j)) + 1/2 ||z||^2 +
            constant with u_j = noise + s_j^2 unit; its Gauss-Newton matrix is that of Fisher's
            information. None where w is the precision.
    """

    network: PackedNetwork
    target: Tensor
    weight: Tensor
    scale: Tensor | None = None
    constant: Tensor | None = None
    law: Tensor | None = None

    def select(self, index: Tensor | slice) -> MLPLeastSquares:
        """That of the images ``index``."""
        scale = self.scale
        return MLPLeastSquares(
            self.network,
            self.target[index],
            self.weight[index],
            scale[index] if scale is not None and scale.dim() == 2 else scale,
            None if self.constant is None else self.constant[index],
            None if self.law is None else self.law[index],
        )


def supports(latent_dim: int, widths: list[int], activations: list[str], like: Tensor) -> bool:
    """Whether the fused operators take a network, see ``refusal``."""
    return not refusal(latent_dim, widths, activations, like)


def refusal(latent_dim: int, widths: list[int], activations: list[str], like: Tensor) -> str:
    """Why the fused operators do not take a network in the type and on the device of ``like``.

    An empty text where they do.

    On the CPU: up to 8 layers and 64 latent dimensions. On a GPU: float32 alone, and what an image
    passes between two layers must fit into the shared memory of a block.

    Args:
        latent_dim: k.
        widths: outputs of each layer.
        activations: their names.
        like: a tensor of the type and device in question.
    """
    if not 1 <= latent_dim <= MAX_LATENT:
        return f"{latent_dim} latent dimensions, compiled are up to {MAX_LATENT}"
    if not 1 <= len(activations) <= MAX_LAYERS:
        return f"{len(activations)} layers, compiled are up to {MAX_LAYERS}"
    unknown = [name for name in activations if name not in ACTIVATION_CODES]
    if unknown:
        return f"the activation {unknown[0]} is not compiled"
    if like.device.type == "cpu":
        return ""
    if like.device.type != "cuda":
        return f"nothing is compiled for {like.device.type}"
    if like.dtype != torch.float32:
        return f"on a GPU float32 is compiled, not {str(like.dtype).removeprefix('torch.')}"
    if not cuda_kernels_loaded():
        return "the CUDA kernels are not loaded"
    room = room_of_block(like.device)
    needed = int(_C.mlp_shared_memory(latent_dim, widths))
    if needed > room:
        return f"its layers need {needed} bytes of shared memory, a block has {room}"
    return ""


@cache
def room_of_block(device: torch.device) -> int:
    """Bytes of shared memory that a block of a GPU may have."""
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def mlp_gauss_newton(
    z: Tensor, f: MLPLeastSquares
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One evaluation: the network, f, its gradient, Gauss-Newton matrix and Hessian.

    Args:
        z: codes [B, k], float32 or float64, contiguous.
        f: of the same type and device.

    Returns:
        The network's output [B, p]; and in float64 f [B], z - J^T W r [B, k], I + J^T W J
        [B, k, k], and that matrix less sum_j w_j r_j times the Hessian of output j [B, k, k].

    Raises:
        RuntimeError: shapes, types or layouts do not fit.
    """
    output, value, gradient, matrix, hessian = _ops.mlp_gauss_newton(z.contiguous(), *_arguments(f))
    return output, value, gradient, matrix, hessian


def mlp_restore(
    z: Tensor,
    f: MLPLeastSquares,
    tolerance: float,
    max_steps: int,
    initial_damping: float,
    second_order: bool,
    active: Tensor | None = None,
    low_latency: bool = False,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The damped Gauss-Newton method of ``solvers.GaussNewton``, whole, for every image.

    Args:
        z: starting points [B, k], float32 or float64.
        f: of the same type and device.
        tolerance, max_steps, initial_damping, second_order: as in ``solvers.GaussNewton``.
        active: bool [B], the images to work on; None for all. The others keep their starting point
            and get f = NaN, no steps, not converged.
        low_latency: on a GPU, give every image a cluster of sixteen blocks that hold the weights
            (compute capability 9.0, 2 to 8 layers, k <= 8; without effect elsewhere). For a handful
            of images; results agree with the other kernel's to rounding, not to the bit.
        known: minima that a descent by the Hessian is not to go back to, as z, NaN where there is
            none.

    Returns:
        z [B, k], f(z) float64 [B], trial steps int64 [B], converged bool [B].

    Raises:
        RuntimeError: shapes, types or layouts do not fit.

    Source: H. B. Nielsen, "Damping parameter in Marquardt's method", IMM-REP-1999-05, 1999.
    """
    found, value, steps, converged = _ops.mlp_restore(
        z.contiguous(),
        *_arguments(f),
        tolerance,
        max_steps,
        initial_damping,
        second_order,
        None if active is None else active.contiguous(),
        None if known is None else known.contiguous(),
        low_latency,
    )
    return found, value, steps, converged


def mlp_log_likelihood(z: Tensor, f: MLPLeastSquares) -> Tensor:
    r"""The data term of N codes an image, without what does not depend on z:

        -1/2 sum_j w_j (t_j - s_j out_j(z))^2,

    or with a law of variances -1/2 sum_j w_j ((t_j - s_j out_j)^2 / v_j + log(v_j / u_j)).
    The outputs are compared as they are made and nowhere written. A draw has the same bits whatever
    N, B and the number of threads are. On the CPU only the outputs that were observed are computed
    of an image where a quarter or more have weight 0. On a GPU every product has one tf32 part and
    float32 sums: between the draws of an image the error is a few hundredths.

    Args:
        z: codes [B, N, k], float32 or float64.
        f: of the same type and device; ``f.constant`` has no part in it.

    Returns:
        float64 [B, N]. NaN where a code, a target or a weight is.

    Raises:
        RuntimeError: shapes, types or layouts do not fit.
    """
    found: Tensor = _ops.mlp_log_likelihood(z.contiguous(), *_measured(f), _law(f))
    return found


def mlp_log_likelihood_kept(z: Tensor, f: MLPLeastSquares, layer: int) -> tuple[Tensor, Tensor]:
    """``mlp_log_likelihood``, and the outputs of one layer at each code: of decoded images, say.

    On the CPU alone. The data term is the same to the bit, but where the last layer is kept, of
    which every output is computed then.

    Args:
        z: codes [B, N, k], float32 or float64.
        f: of the same type and device.
        layer: which, from 0 on.

    Returns:
        float64 [B, N], and the outputs [B, N, width of the layer].

    Raises:
        RuntimeError: shapes, types or layouts do not fit, or there is no such layer.
    """
    given = (*_measured(f), _law(f), layer)
    found, kept = _ops.mlp_log_likelihood_kept(z.contiguous(), *given)
    return found, kept


def _arguments(f: MLPLeastSquares) -> tuple[Any, ...]:
    constant = None if f.constant is None else f.constant.contiguous()
    return (*_measured(f), constant, _law(f))


def _law(f: MLPLeastSquares) -> Tensor | None:
    return None if f.law is None else f.law.contiguous()


def _measured(f: MLPLeastSquares) -> tuple[Any, ...]:
    return (
        f.network.weights,
        f.network.adjoints,
        f.network.tangents,
        f.network.biases,
        f.network.codes,
        f.target.contiguous(),
        f.weight.contiguous(),
        None if f.scale is None else f.scale.contiguous(),
    )


@torch.library.register_fake("jpmap::mlp_gauss_newton")
def _(z, weights, adjoints, tangents, biases, codes, target, weight, scale, constant, law):  # type: ignore[no-untyped-def]  # noqa: E501
    batch, k = z.shape
    return (
        torch.empty_like(target),
        z.new_empty(batch, dtype=torch.float64),
        z.new_empty(batch, k, dtype=torch.float64),
        z.new_empty(batch, k, k, dtype=torch.float64),
        z.new_empty(batch, k, k, dtype=torch.float64),
    )


@torch.library.register_fake("jpmap::mlp_restore")
def _(z, *_):  # type: ignore[no-untyped-def]
    batch = z.shape[0]
    return (
        torch.empty_like(z),
        z.new_empty(batch, dtype=torch.float64),
        z.new_empty(batch, dtype=torch.int64),
        z.new_empty(batch, dtype=torch.bool),
    )


@torch.library.register_fake("jpmap::mlp_log_likelihood")
def _(z, *_):  # type: ignore[no-untyped-def]
    return z.new_empty(z.shape[:2], dtype=torch.float64)


@torch.library.register_fake("jpmap::mlp_log_likelihood_kept")
def _(z, weights, adjoints, tangents, biases, codes, target, weight, scale, law, layer):  # type: ignore[no-untyped-def]  # noqa: E501
    width = adjoints[layer].shape[1]
    return z.new_empty(z.shape[:2], dtype=torch.float64), z.new_empty(*z.shape[:2], width)
