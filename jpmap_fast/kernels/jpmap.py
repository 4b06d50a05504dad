r"""JPMAP whole, in one call: encoder, descents, x-updates, the choice of candidates and of starts.

For a decoder and an encoder that are multilayer perceptrons and a data term that is diagonal, or
in coordinates U^T y of A = U H:

    J1(x, z) = ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - G(z)||^2 + 1/2 ||z||^2.

Every (image, start) is a task of its own; csrc/jpmap_task.h has the rules by which it goes on,
those of ``algorithms.step`` and ``algorithms.joint`` at one beta.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

import jpmap_fast._C as _C
from jpmap_fast.kernels._extension import cuda_kernels_loaded
from jpmap_fast.kernels.mlp import LOW_LATENCY_DESCENTS, MLPLeastSquares, room_of_block
from jpmap_fast.kernels.mlp_network import ForwardNetwork, PackedNetwork

_ops = torch.ops.jpmap


@dataclass(frozen=True)
class MLPJoint:
    """J1 of a batch, as ``mlp_jpmap`` takes it.

    Attributes:
        f: J(z) = min_x J1(x, z), for the descents; without a ``law``. Where there are ``values``
            the last layer of its network is H, its target U^T y, and it has no scale.
        decoder: G whole, all of whose pixels x has.
        encoder: mu_phi; None where it is not asked.
        y: measurements [B, n]; A^T y where there are ``values``.
        beta, sigma: [B].
        mask: m of A = diag(m), [n] or [B, n]; None for ones.
        values: the diagonal of H H^T, [p] or [B, p]; None for a diagonal A.
        lost: what of y no x explains [B, q]; None for nothing.
    """

    f: MLPLeastSquares
    decoder: ForwardNetwork
    encoder: ForwardNetwork | None
    y: Tensor
    beta: Tensor
    sigma: Tensor
    mask: Tensor | None = None
    values: Tensor | None = None
    lost: Tensor | None = None

    def select(self, index: Tensor | slice) -> MLPJoint:
        """That of the images ``index``."""

        def rows(tensor: Tensor | None) -> Tensor | None:
            each = tensor is not None and tensor.dim() == 2
            return tensor[index] if each else tensor  # type: ignore[index]

        return replace(
            self,
            f=self.f.select(index),
            y=self.y[index],
            beta=self.beta[index],
            sigma=self.sigma[index],
            mask=rows(self.mask),
            values=rows(self.values),
            lost=rows(self.lost),
        )


def takes(problem: MLPJoint, starts: int) -> bool:
    """Whether ``mlp_jpmap`` takes a problem with so many starts an image.

    On a GPU in float32, where a block can hold what a few images pass between two layers of any of
    the networks, or where starts are so few, and the network so small, that a cluster of blocks
    works on each.
    """
    if problem.f.law is not None:
        return False
    if problem.y.device.type == "cpu":
        return True
    if problem.y.dtype != torch.float32 or not cuda_kernels_loaded():
        return False
    few = _few(len(problem.y) * starts)
    return _held_by_blocks(problem) or (few and _held_by_clusters(problem))


def _few(tasks: int) -> bool:
    """Whether so many tasks, starts of images, are done soonest by a cluster of blocks each."""
    return tasks <= LOW_LATENCY_DESCENTS


def _held_by_blocks(problem: MLPJoint) -> bool:
    """Whether a block of a GPU has room for tasks of a problem."""
    networks = problem.f.network, problem.decoder, problem.encoder
    widths = [[bias.shape[0] for bias in of.biases] if of is not None else [] for of in networks]
    needed = _C.mlp_task_memory(problem.f.network.weights[0].shape[1], *widths)
    return bool(needed <= room_of_block(problem.y.device))


def _held_by_clusters(problem: MLPJoint) -> bool:
    """Whether a cluster of sixteen blocks can hold the decoder of a problem.

    Compute capability 9.0, two layers or more, k <= 8.
    """
    f, encoder = problem.f, problem.encoder or ForwardNetwork([], [], [])
    arguments = (
        problem.y.contiguous(),
        *_network(f.network),
        f.target.contiguous(),
        f.weight.contiguous(),
        *vars(problem.decoder).values(),
        *vars(encoder).values(),
        f.network.weights[0].shape[1],
    )
    # Asked once: where a graph for C++ is recorded there are shapes alone, and nobody to ask.
    known = _clusters.setdefault(problem.decoder.weights[0], {})
    key = tuple(_shape(argument) for argument in arguments)
    if key not in known:
        known[key] = _ops.mlp_jpmap_clusters(*arguments)
    return bool(known[key] > 0)


# What ``mlp_jpmap_clusters`` said, by the decoder's first weights and the shapes.
_clusters: Any = WeakTensorKeyDictionary()


def _shape(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return tuple(argument.shape)
    return tuple(map(_shape, argument)) if isinstance(argument, list) else argument


@dataclass(frozen=True)
class JointLimits:
    """How tasks go on; see ``algorithms.JPMAP`` and ``solvers.GaussNewton``.

    Attributes:
        tolerance, max_steps, initial_damping, second_order: of a descent.
        n1, n2, max_iterations: of the iterations.
        move: what moves an image less stands still.
        again: whether a descent that ``max_steps`` cut short is taken up again. Otherwise there is
            one descent a candidate, and the image ends there at its limit.
    """

    tolerance: float
    max_steps: int
    initial_damping: float
    second_order: bool
    n1: int
    n2: int
    max_iterations: int
    move: float
    again: bool = True


@dataclass(frozen=True)
class JointEnd:
    """The end of the best start of each image.

    Attributes:
        x, decoded: [B, n].
        z: [B, k].
        objective, gap: J1 and ||x - G(z)||^2 [B].
        status, iterations: int64 [B], as in ``algorithms.Outcome``.
        candidates: int64 [B, 3].
    """

    x: Tensor
    z: Tensor
    decoded: Tensor
    objective: Tensor
    gap: Tensor
    status: Tensor
    iterations: Tensor
    candidates: Tensor


def mlp_jpmap(problem: MLPJoint, starts: Tensor, limits: JointLimits) -> JointEnd:
    """Run JPMAP on every image from every start; of an image's ends the least J1 is kept.

    With an encoder the first start has x = A^T y and asks it; where there are further ones it ends
    once the encoder's first proposal is refused, since the second descends from the same z = 0.
    An image has the same bits alone and in any batch; on a GPU in any batch of more than
    ``LOW_LATENCY_DESCENTS`` starts, and in any of fewer: there the arithmetic is that of
    ``mlp_restore`` without and with ``low_latency``.

    Args:
        problem: float32 or float64 on the CPU; on a GPU one that it ``takes``.
        starts: codes [K, k] that all images share, or [B, K, k]; K >= 1.
        limits: how far to go.

    Raises:
        RuntimeError: shapes, types or layouts do not fit.

    Source: M. González, A. Almansa, P. Tan, arXiv 2103.01648, Algorithm 2.3.
    """
    f = problem.f
    encoder = problem.encoder or ForwardNetwork([], [], [])
    if f.law is not None:
        raise ValueError("mlp_jpmap: expected a data term without a law of variances")
    given = (problem.y, problem.mask, problem.values, problem.lost, problem.beta, problem.sigma)
    compared = (f.target, f.weight, f.scale, f.constant)
    found = _ops.mlp_jpmap(
        *(None if tensor is None else tensor.contiguous() for tensor in (*given, starts)),
        *_network(f.network),
        *(None if tensor is None else tensor.contiguous() for tensor in compared),
        *vars(problem.decoder).values(),
        *vars(encoder).values(),
        *vars(limits).values(),
        _few(len(problem.y) * starts.shape[-2]),
    )
    return JointEnd(*found)


def _network(network: PackedNetwork) -> tuple[Any, ...]:
    return (
        network.weights,
        network.adjoints,
        network.tangents,
        network.biases,
        network.codes,
    )


@torch.library.register_fake("jpmap::mlp_jpmap")
def _(y, mask, values, lost, beta, sigma, starts, *_):  # type: ignore[no-untyped-def]
    batch = y.shape[0]
    whole = {"dtype": torch.int64}
    return (
        torch.empty_like(y),
        y.new_empty(batch, starts.shape[-1]),
        torch.empty_like(y),
        y.new_empty(batch),
        y.new_empty(batch),
        y.new_empty(batch, **whole),
        y.new_empty(batch, **whole),
        y.new_empty(batch, 3, **whole),
    )
