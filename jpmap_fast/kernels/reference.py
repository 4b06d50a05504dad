"""Plain-torch twins of the compiled operators: the same names, arguments and results.

They are what the kernels are tested against (in float64), and read more easily than the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.damped_systems import (
    HESSIAN_SHARES,
    MODEL_LEFT,
    SHORT_STEP,
    with_share,
)
from jpmap_fast.kernels.mlp import MLPLeastSquares
from jpmap_fast.kernels.mlp_network import ForwardNetwork, PackedNetwork
from jpmap_fast.kernels.products import solved_by


def x_update_diagonal(
    decoded: Tensor,  # [B, n]
    y: Tensor,  # [B, n]
    weight: Tensor | None,  # [n] or [B, n]
    z: Tensor,  # [B, k]
    beta: Tensor,  # [B]
    sigma: Tensor,  # [B]
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``jpmap_fast.kernels.x_update_diagonal``."""
    w = torch.ones_like(decoded) if weight is None else weight.expand_as(decoded)
    variance = sigma.square()[:, None]
    residual = y - w * decoded
    step = w * residual / (w.square() + beta[:, None] * variance)
    data = (residual.square() / (variance + w.square() / beta[:, None])).sum(dim=1)
    return decoded + step, 0.5 * (data + z.square().sum(dim=1)), step.square().sum(dim=1)


def x_update_spectral(
    decoded: Tensor,  # [B, C, H, W // 2 + 1, 2]
    y: Tensor,  # [B, C, H // f, W // f // 2 + 1, 2]
    kernel: Tensor,  # [C or 1, H, W // 2 + 1, 2] or one an image
    z: Tensor,  # [B, k]
    beta: Tensor,  # [B]
    sigma: Tensor,  # [B]
    width: int,
    factor: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``jpmap_fast.kernels.x_update_spectral``."""
    height, f = decoded.shape[2], factor
    u, v = height // f, width // f
    noise = (beta * sigma.square())[:, None, None, None]
    tied = torch.isinf(beta)

    def whole(half: Tensor, columns: int) -> Tensor:
        mirrored = half[..., 1 : (columns + 1) // 2].flip(-1, -2).roll(1, -2).conj()
        return torch.cat((half, mirrored), dim=-1)

    h, g = (whole(torch.view_as_complex(part), width) for part in (kernel, decoded))
    shape = g.shape[:-2]
    h = h.expand(*shape, -1, -1)
    low = (h * g).reshape(*shape, f, u, f, v).mean(dim=(-4, -2))
    power = h.abs().square().reshape(*shape, f, u, f, v).mean(dim=(-4, -2))
    residual = whole(torch.view_as_complex(y), v) - low
    gain = torch.where(tied[:, None, None, None], 0, residual / (power + noise))
    step = h.conj() * gain.repeat(1, 1, f, f) / (height * width)

    data = (residual - power * gain).abs().square().sum(dim=(1, 2, 3)) / (u * v)
    gap = (power * gain.abs().square()).sum(dim=(1, 2, 3)) / (u * v)
    coupling = torch.where(tied, 0.0, beta * gap)
    value = 0.5 * (data / sigma.square() + coupling + z.square().sum(dim=1))
    return torch.view_as_real(step[..., : width // 2 + 1].contiguous()), value, gap


def objective(
    x: Tensor,  # [B, n]
    decoded: Tensor,  # [B, n]
    residual: Tensor,  # [B, m]
    z: Tensor,  # [B, k]
    beta: Tensor,  # [B]
    sigma: Tensor,  # [B]
) -> tuple[Tensor, Tensor]:
    """See ``jpmap_fast.kernels.objective``."""
    gap = (x - decoded).square().sum(dim=1)
    data = residual.square().sum(dim=1) / sigma.square()
    coupling = torch.where(gap == 0, 0.0, beta * gap)
    return 0.5 * (data + coupling + z.square().sum(dim=1)), gap


def conjugate_gradient_step(
    x: Tensor,  # [B, n], changed
    r: Tensor,  # [B, n], changed
    p: Tensor,  # [B, n]
    q: Tensor,  # [B, n]
    rho: Tensor,  # [B]
    active: Tensor,  # [B] bool
) -> Tensor:
    """See ``jpmap_fast.kernels.conjugate_gradient_step``."""
    curvature = (p * q).sum(dim=1)
    moves = active & (curvature > 0) & (rho != 0)
    alpha = torch.where(moves, rho / curvature, 0.0)[:, None]
    x.copy_(torch.where(active[:, None], x + alpha * p, x))
    r.copy_(torch.where(active[:, None], r - alpha * q, r))
    return torch.where(active, r.square().sum(dim=1), rho)


def conjugate_gradient_direction(
    p: Tensor,  # [B, n], changed
    r: Tensor,  # [B, n]
    rho_new: Tensor,  # [B]
    rho: Tensor,  # [B]
    active: Tensor,  # [B] bool
) -> None:
    """See ``jpmap_fast.kernels.conjugate_gradient_direction``."""
    ratio = torch.where(rho == 0, 0.0, rho_new / rho)[:, None]
    p.copy_(torch.where(active[:, None], r + ratio * p, p))


def tangent_activation(
    t: Tensor,  # [B or 1, k, n]
    add: Tensor | None,
    before: Tensor,  # [B, C, S]
    after: Tensor,
    cotangent: Tensor | None,
    curvature: Tensor | None,  # [B, slots, k, k], added to in place
    activation: str,
    width: int = 1,
    t_shuffled: bool = False,
    add_shuffled: bool = False,
) -> Tensor:
    """``kernels.tangents.tangent_activation``, in the types it is given."""
    channels, positions = before.shape[1:]

    def in_order(rows: Tensor, shuffled: bool) -> Tensor:
        if not shuffled:
            return rows
        shape = (*rows.shape[:2], positions // width // 2, width // 2, 2, 2, channels)
        return rows.reshape(shape).permute(0, 1, 2, 4, 3, 5, 6).reshape(rows.shape)

    def innermost(value: Tensor) -> Tensor:
        return value.mT.reshape(value.shape[0], 1, -1)

    u = in_order(t, t_shuffled)
    if add is not None:
        u = u + in_order(add, add_shuffled)
    act = ACTIVATIONS[activation]
    if cotangent is not None and curvature is not None:
        weight = innermost(cotangent * act.second(before, after))
        curvature[:, 0] += (u.to(weight.dtype) * weight) @ u.to(weight.dtype).mT
    return u * innermost(act.derivative(before, after)).to(u.dtype)


def damped_solve(
    matrix: Tensor,  # [B, k, k]
    hessian: Tensor | None,  # [B, k, k]
    gradient: Tensor,  # [B, k]
    damping: Tensor | None = None,  # [B]
) -> tuple[Tensor, Tensor]:
    """``kernels.damped_solve``, for any k."""
    system = matrix.double()
    shift = 0 if damping is None else torch.diag_embed(damping[:, None].expand_as(gradient))
    share = gradient.new_zeros(gradient.shape[0], dtype=torch.float32)
    if hessian is not None:
        for wanted in reversed(HESSIAN_SHARES):
            firm = torch.lerp(matrix.double(), hessian.double(), wanted)
            _, failed = torch.linalg.cholesky_ex(firm - MODEL_LEFT * matrix.double())
            share = torch.where(failed == 0, wanted, share)
        factor, failed = torch.linalg.cholesky_ex(hessian.double())
        newton = solved_by(factor, gradient.double()[:, :, None])[:, :, 0]
        short = newton.square().mean(dim=1) <= SHORT_STEP**2
        share = torch.where((failed == 0) & short, 1.0, share)
        system = with_share(matrix.double(), hessian.double(), share)
    factor, failed = torch.linalg.cholesky_ex(system + shift)
    solution = solved_by(factor, gradient.double()[:, :, None])[:, :, 0]
    return torch.where((failed == 0)[:, None], solution, torch.nan), share


def mlp_log_likelihood(
    z: Tensor,  # [B, N, k]
    f: MLPLeastSquares,
) -> Tensor:
    """``kernels.mlp.mlp_log_likelihood``, in the type of z."""
    return mlp_log_likelihood_kept(z, f, 0)[0]


def mlp_log_likelihood_kept(
    z: Tensor,  # [B, N, k]
    f: MLPLeastSquares,
    layer: int,
) -> tuple[Tensor, Tensor]:
    """``kernels.mlp.mlp_log_likelihood_kept``, in the type of z."""
    outputs = [z]
    for (weight, bias), code in zip(layers_of(f.network), f.network.codes, strict=True):
        outputs.append(list(ACTIVATIONS.values())[code].value(outputs[-1] @ weight.T + bias))
    out = outputs[-1][..., : f.target.shape[1]]
    scale = out.new_ones(1) if f.scale is None else f.scale
    scale = scale if scale.dim() == 1 else scale[:, None]
    terms = (f.target[:, None] - scale * out).square()
    if f.law is not None:
        noise, floor, slope, unit = f.law[:, :, None, None].unbind(dim=1)
        g, power = out.clamp(0, 1), scale.square()
        variance = noise + power * (floor + slope * g * (1 - g))
        terms = terms / variance + (variance / (noise + power * unit)).log()
    found = -0.5 * (terms * f.weight[:, None]).double().sum(dim=-1)
    return found, out if layer + 1 == len(f.network.codes) else outputs[layer + 1]


def layers_of(network: PackedNetwork | ForwardNetwork) -> list[tuple[Tensor, Tensor]]:
    """W [out, in] and b [out] of each layer, out padded with zeros as a device has it."""
    weights = [
        weight if weight.dim() == 2 else weight.mT.flatten(0, 1) for weight in network.weights
    ]
    # What a layer is padded with has no inputs in the next: the panels' depth is not padded.
    inputs = [weight.shape[1] for weight in weights[1:]] + [len(weights[-1])]
    return [
        (weight[:size], bias[:size])
        for weight, bias, size in zip(weights, network.biases, inputs, strict=True)
    ]
