"""``kernels.jpmap.mlp_jpmap`` in plain torch and float64, one image and start after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.damped_systems import leads_back, longest_last_step, with_share
from jpmap_fast.kernels.jpmap import JointEnd, JointLimits, MLPJoint
from jpmap_fast.kernels.mlp_network import ForwardNetwork, PackedNetwork
from jpmap_fast.kernels.reference import damped_solve, layers_of

CONVERGED, ITERATION_LIMIT, TOLERANCE_LIMIT, FAILED, COVERED = 0, 1, 2, 5, 7
NOTHING_LEFT = 1e-4


def mlp_jpmap(problem: MLPJoint, starts: Tensor, limits: JointLimits) -> JointEnd:
    """See ``jpmap_fast.kernels.jpmap.mlp_jpmap``; computed and returned in float64."""
    best = []
    for b in range(len(problem.y)):
        image = _Image(problem.select(slice(b, b + 1)))
        own = (starts[b] if starts.dim() == 3 else starts).double()
        ends = [_solve(image, z, number, len(own), limits) for number, z in enumerate(own)]
        best.append(min(ends, key=lambda end: (_comparable(end), end.status)))
    k = starts.shape[-1]

    def rows(values: list[Tensor], *shape: int) -> Tensor:
        return torch.stack(values) if values else torch.empty(0, *shape).double()

    return JointEnd(
        rows([end.point.x for end in best], problem.y.shape[1]),
        rows([end.point.z for end in best], k),
        rows([end.point.decoded for end in best], problem.y.shape[1]),
        torch.tensor([end.point.objective for end in best], dtype=torch.float64),
        torch.tensor([end.point.gap for end in best], dtype=torch.float64),
        torch.tensor([end.status for end in best], dtype=torch.int64),
        torch.tensor([end.iterations for end in best], dtype=torch.int64),
        torch.tensor([end.candidates for end in best], dtype=torch.int64).reshape(-1, 3),
    )


@dataclass(frozen=True)
class _Point:
    x: Tensor  # [n]
    z: Tensor  # [k]
    decoded: Tensor  # [n]
    objective: float
    gap: float


@dataclass
class _End:
    point: _Point
    status: int = ITERATION_LIMIT
    iterations: int = 0
    candidates: list[int] = field(default_factory=lambda: [0, 0, 0])


class _Layer(NamedTuple):
    """W, the tangents before the activation [out, k], f(a), f'(a) and f''(a) [out]."""

    weight: Tensor
    entering: Tensor
    after: Tensor
    slope: Tensor
    bend: Tensor


class _Image:
    """J1 of one image."""

    def __init__(self, problem: MLPJoint) -> None:
        self.problem = problem
        self.y, self.n = problem.y[0].double(), problem.y.shape[1]
        self.beta, self.noise = float(problem.beta[0]), float(problem.sigma[0].double().square())

    def encode(self, x: Tensor) -> Tensor:
        """mu_phi(x)."""
        assert self.problem.encoder is not None
        return _through(self.problem.encoder, x)[: self.problem.f.network.weights[0].shape[1]]

    def point(self, z: Tensor, published: bool = False) -> _Point:
        """The best x of z, or x = A^T y."""
        problem, beta, noise = self.problem, self.beta, self.noise
        decoded = _through(problem.decoder, z)[: self.n]
        if problem.values is None:
            mask = torch.ones(self.n).double() if problem.mask is None else _row(problem.mask)
            gain = (self.y - mask * decoded) / (mask.square() + beta * noise)
            x = mask * self.y if published else decoded + mask * gain
            data = (self.y - mask * x).square().sum()
        else:
            values = _row(problem.values)
            h = layers_of(problem.f.network)[-1][0][: len(values)].double()
            innovation = _row(problem.f.target) - h @ decoded
            x = self.y if published else decoded + h.T @ (innovation / (values + beta * noise))
            data = (_row(problem.f.target) - h @ x).square().sum()
            if problem.lost is not None:
                data = data + _row(problem.lost).square().sum()
        gap = float((x - decoded).square().sum())
        objective = 0.5 * (float(data) / noise + beta * gap + float(z.square().sum()))
        return _Point(x, z, decoded, objective, gap)

    def f(self, z: Tensor) -> float:
        """J(z)."""
        return self._compared(self._layers(z)[-1].after, z)[0]

    def system(self, z: Tensor, second_order: bool) -> tuple[float, Tensor, Tensor, float]:
        """J, its gradient, the matrix of a step and the Hessian's share of it."""
        layers = self._layers(z)
        f, pull, precision = self._compared(layers[-1].after, z)
        last = layers[-1]
        jacobian = last.slope[:, None] * last.entering
        matrix = jacobian.T @ (precision[:, None] * jacobian) + torch.eye(len(z)).double()
        hessian = matrix.clone()
        for layer in reversed(layers):
            hessian += layer.entering.T @ ((pull * layer.bend)[:, None] * layer.entering)
            pull = layer.weight.T @ (pull * layer.slope)
        g, share = z + pull, torch.zeros(1)
        if second_order:
            share = damped_solve(matrix[None], hessian[None], g[None])[1]
        return f, g, with_share(matrix[None], hessian[None], share)[0], float(share)

    def _compared(self, out: Tensor, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """J, df/dout and the weight of each output in the Gauss-Newton matrix."""
        f = self.problem.f
        weight = _row(f.weight)
        scale = torch.ones_like(weight) if f.scale is None else _row(f.scale)
        residual = _row(f.target) - scale * out
        constant = 0.0 if f.constant is None else float(f.constant[0])
        value = 0.5 * float((weight * residual.square()).sum() + z.square().sum()) + constant
        return value, -scale * weight * residual, (scale.square() * weight).expand(len(out))

    def _layers(self, z: Tensor) -> list[_Layer]:
        """What every layer of the network of J does at z."""
        network = self.problem.f.network
        found: list[_Layer] = []
        h, tangents = z, torch.eye(len(z)).double()
        for (weight, bias), code in zip(layers_of(network), network.codes, strict=True):
            if len(found) + 1 == len(network.codes):  # not what fills up the last panel
                outputs = self.problem.f.target.shape[1]
                weight, bias = weight[:outputs], bias[:outputs]
            activation = list(ACTIVATIONS.values())[code]
            weight = weight.double()
            before, entering = weight @ h + bias.double(), weight @ tangents
            h = activation.value(before)
            slope = activation.derivative(before, h)
            bend = activation.second(before, h)
            found.append(_Layer(weight, entering, h, slope, bend))
            tangents = slope[:, None] * entering
        return found


def _descend(
    image: _Image, z: Tensor, limits: JointLimits, known: Tensor | None
) -> tuple[Tensor, bool]:
    """``solvers.GaussNewton`` from z, told of a minimum, and whether it converged."""
    resolution = 8 * torch.finfo(image.problem.y.dtype).eps
    f, g, matrix, share = image.system(z, limits.second_order)
    mu, growth, moved = limits.initial_damping * float(matrix.diagonal().max()), 2.0, True
    for number in range(limits.max_steps + 1):
        newton = damped_solve(matrix[None], None, g[None])[0][0]
        if not (math.isfinite(f) and bool(newton.isfinite().all())):
            return z, False
        largest = float(matrix.diagonal().max())
        size, decrement = float(newton.square().mean().sqrt()), float(g @ newton)
        stuck = mu > largest / resolution
        if size <= limits.tolerance or decrement <= resolution * abs(f) or stuck:
            return z, True
        back = known is not None and leads_back(-newton, torch.tensor(share == 1), z, known)
        if (moved and back) or number == limits.max_steps:
            break
        last = moved and share == 1 and size <= longest_last_step(limits.tolerance)
        if last and image.f(z - newton) < f:
            return z - newton, True
        if last:
            mu, growth, moved = mu * growth, 2 * growth, False
            continue
        d = -damped_solve(matrix[None], None, g[None], torch.tensor([mu]).double())[0][0]
        promised = 0.5 * float(d @ (mu * d - g))
        there = image.f(z + d)
        moved = there < f
        if moved:
            gain = (f - there) / promised
            mu, growth = mu * min(max(1 - (2 * gain - 1) ** 3, 1 / 3), 2.0), 2.0
            z = z + d
            f, g, matrix, share = image.system(z, limits.second_order)
        else:
            mu, growth = mu * growth, 2 * growth
    return z, False


def _solve(image: _Image, z: Tensor, number: int, starts: int, limits: JointLimits) -> _End:
    """One start of one image."""
    encoder = image.problem.encoder is not None and number == 0
    covered = encoder and starts > 1
    end = _End(image.point(z, published=encoder))
    open_, solved, proposals = encoder, False, max(limits.n1, limits.n2)

    def take(candidate: int, code: Tensor) -> bool:
        nonlocal solved
        found, converged = image.point(code), False
        if candidate > 1:
            known = end.point.z if candidate == 2 and solved else None
            code, converged = _descend(image, code, limits, known)
            found = image.point(code)
        better = found.objective < end.point.objective
        if better or candidate == 3:
            solved = candidate > 1 and converged
        if better:
            end.point = found
            end.candidates[candidate - 1] += 1
        return better

    while True:
        before, n, taken = end.point, end.iterations, 0
        rejected = False
        if open_ and n < proposals:
            code = image.encode(before.x)
            taken = 1 if n < limits.n1 and take(1, code) else 0
            if not taken and n < limits.n2:
                taken = 2 if take(2, code) else 0
                rejected = not taken
        if rejected and n == 0 and covered:
            end.iterations, end.status = 1, COVERED
            return end
        if not taken and not solved and (limits.again or n == 0) and take(3, before.z):
            taken = 3
        end.iterations += 1
        still = not taken or _distance(end.point, before) < limits.move
        open_ = open_ and not rejected and not (still and taken == 1)
        if not math.isfinite(end.point.objective):
            end.status = FAILED
            return end
        asks = open_ and end.iterations < proposals
        still = still and taken != 1
        done = still or (not asks and (solved or not limits.again))
        if done or end.iterations >= limits.max_iterations:
            end.status = _verdict(image, end.point, solved, still and limits.again)
            return end


def _verdict(image: _Image, point: _Point, solved: bool, still: bool) -> int:
    if solved:
        return CONVERGED
    if not still:
        return ITERATION_LIMIT
    _, g, matrix, _ = image.system(point.z, second_order=True)
    promised = 0.5 * float(g @ damped_solve(matrix[None], None, g[None])[0][0])
    return CONVERGED if promised <= NOTHING_LEFT * abs(point.objective) else TOLERANCE_LIMIT


def _comparable(end: _End) -> float:
    value = end.point.objective
    return math.inf if end.status == COVERED or not math.isfinite(value) else value


def _distance(a: _Point, b: _Point) -> float:
    dx, dz = (a.x - b.x).square().mean().sqrt(), (a.z - b.z).square().mean().sqrt()
    return float(dx + dz)


def _row(tensor: Tensor) -> Tensor:
    return (tensor[0] if tensor.dim() == 2 else tensor).double()


def _through(network: PackedNetwork | ForwardNetwork, h: Tensor) -> Tensor:
    names = list(ACTIVATIONS)
    for (weight, bias), code in zip(layers_of(network), network.codes, strict=True):
        h = ACTIVATIONS[names[code]].value(weight.double() @ h + bias.double())
    return h
