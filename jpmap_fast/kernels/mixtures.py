r"""Mixtures of Student-t laws at many codes an image: the proposals of a sampler.

With L_c lower triangular and q_c(z) = ||L_c^{-1} (z - m_c)||^2,

    t_c(z) = Gamma((v + k) / 2) / (Gamma(v / 2) (v pi)^{k/2} det L_c) (1 + q_c / v)^{-(v + k) / 2},

v the degrees of freedom. Components of weight 0 may follow the others: nothing depends on how many.
All float64. Compiled for the CPU, and for a GPU where codes have 64 entries or fewer; elsewhere the
twins in plain torch of ``reference_mixtures`` do the work. A code has the same bits alone and in
any batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

import jpmap_fast._C as _C
from jpmap_fast.kernels import reference_mixtures as reference
from jpmap_fast.kernels._extension import cuda_kernels_loaded

# Entries of a code that the operators of a GPU take.
MAX_LATENT: int = _C.max_mixture_latent

_ops = torch.ops.jpmap


class MixtureSums(NamedTuple):
    """What weighted codes say of each component, with s_c = w_c t_c / sum_d w_d t_d at each code.

    own = weight s_c, robust = own (v + k) / (v + q_c). Zeros for components of weight 0.

    Attributes:
        mass: sum of own [B, C].
        squares: of own^2 [B, C].
        robust: of robust [B, C].
        first: of robust (z - m_c) [B, C, k].
        second: of robust (z - m_c)(z - m_c)^T [B, C, k, k].
    """

    mass: Tensor
    squares: Tensor
    robust: Tensor
    first: Tensor
    second: Tensor


def student_mixture(
    z: Tensor,  # [B, N, k]
    log_weight: Tensor,  # [B, C]
    mean: Tensor,  # [B, C, k]
    scale: Tensor,  # [B, C, k, k]
    degrees: float,
    defensive: float,
) -> Tensor:
    """Log of defensive N(z; 0, I) + (1 - defensive) sum_c w_c t_c(z), float64 [B, N].

    Args:
        z: codes.
        log_weight: log w_c, -inf for a component that is none.
        mean: m_c.
        scale: L_c, of which the lower triangle counts, with a positive diagonal.
        degrees: v > 0.
        defensive: in [0, 1).

    Returns:
        NaN where a code is.

    Raises:
        RuntimeError: shapes, types or layouts do not fit, or a number is out of range.
    """
    given = (z, log_weight, mean, scale, float(degrees), float(defensive))
    if not _is_compiled(z):
        return reference.student_mixture(*given)
    found: Tensor = _ops.student_mixture(*_contiguous(given))
    return found


def student_mixture_sums(
    z: Tensor,  # [B, N, k]
    weights: Tensor,  # [B, N]
    log_weight: Tensor,  # [B, C]
    mean: Tensor,  # [B, C, k]
    scale: Tensor,  # [B, C, k, k]
    degrees: float,
) -> MixtureSums:
    """The sums that a step of population Monte Carlo takes over weighted codes.

    Args:
        weights: of the codes, >= 0.
        z, log_weight, mean, scale, degrees: as for ``student_mixture``.

    Raises:
        RuntimeError: shapes, types or layouts do not fit, or a number is out of range.
    """
    given = (z, weights, log_weight, mean, scale, float(degrees))
    if not _is_compiled(z):
        return MixtureSums(*reference.student_mixture_sums(*given))
    return MixtureSums(*_ops.student_mixture_sums(*_contiguous(given)))


def _is_compiled(z: Tensor) -> bool:
    return z.device.type == "cpu" or (cuda_kernels_loaded() and z.shape[-1] <= MAX_LATENT)


def _contiguous(given: tuple[Any, ...]) -> list[Any]:
    return [value.contiguous() if isinstance(value, Tensor) else value for value in given]


@torch.library.register_fake("jpmap::student_mixture")
def _(z, *_):  # type: ignore[no-untyped-def]
    return z.new_empty(z.shape[:2])


@torch.library.register_fake("jpmap::student_mixture_sums")
def _(z, weights, log_weight, mean, scale, degrees):  # type: ignore[no-untyped-def]
    one = [torch.empty_like(log_weight) for _ in range(3)]
    return *one, torch.empty_like(mean), torch.empty_like(scale)
