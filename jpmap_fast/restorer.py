"""Restoration at a fixed shape, with everything that can be prepared prepared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._validate import count
from jpmap_fast.algorithms import CSGM, JPMAP, Algorithm, Problem
from jpmap_fast.algorithms.base import as_solver
from jpmap_fast.objective import LatentObjective
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.restore import as_algorithm, is_physics, prepare, prior_of
from jpmap_fast.solvers import GaussNewton
from jpmap_fast.solvers.base import LatentSolution

# Steps that a solve in plain torch executes, finished or not, unless told otherwise.
TORCH_STEPS = 25

# Up to so many descents at a time every one gets a cluster of blocks of its own.
LOW_LATENCY_DESCENTS = 16


@dataclass(frozen=True)
class Restoration:
    """What a ``Restorer`` returns. On a GPU its tensors are written again by the next call.

    Attributes:
        x: restored images [B, C, H, W].
        z: latent codes [B, k].
        decoded: G(z) [B, C, H, W].
        objective: J1 for JPMAP, the latent objective for CSGM, [B].
        converged: bool [B].

    An image with NaN or infinity in its measurement has NaN everywhere and has not converged.
    """

    x: Tensor
    z: Tensor
    decoded: Tensor
    objective: Tensor
    converged: Tensor

    def clone(self) -> Restoration:
        """A copy that the next call leaves alone."""
        return Restoration(*(value.clone() for value in vars(self).values()))


class Restorer:
    r"""``restore`` for pipelines: one operator, noise level, prior, method and batch size.

    The operator's factorisation, the packed weights, the restriction of the decoder to observed
    pixels and, on a GPU, a CUDA graph of the whole restoration are made at construction. On a GPU a
    call copies y and launches the graph on the current stream: it allocates nothing and never waits
    for the device. What it returns is overwritten by the next call.

    The same candidates as in ``restore`` are tried, with the same acceptance tests: every start
    descends, and the encoder is asked up to n2 times while it lowers J1. Objectives agree with
    those of ``restore`` to rounding, or to another local minimum where rounding decides.

    Args:
        operator: A; its factorisation and masks are read once. A linear deepinv physics becomes an
            operator, see ``jpmap_fast.deepinv.as_operator``.
        prior: from ``load_prior``, its name, or any ``Prior``. Its weights must not change.
        sigma: standard deviation of the noise > 0, a number or one an image [batch_size].
        batch_size: B >= 1.
        method: ``JPMAP(coupling="projected", selection="adaptive", n1=0)`` or ``CSGM()``, with
            ``GaussNewton``, or their names.
        steps: for decoders without a compiled solve, the most steps of a descent; on a GPU all of
            them are executed, the price of not waiting for the device. None for 25.
        generator: source of random starts, drawn once.
        device, dtype: of y, for a prior without parameters; otherwise those of its parameters.

    Attributes:
        captured: whether calls replay a CUDA graph. False on the CPU, and for operators that
            iterate on the host (``LinearOperator``).
        path: "compiled" or "torch", how the descents run.

    Raises:
        ValueError: shapes, counts, values or a method that do not fit. TypeError: wrong kinds.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> restorer = jf.Restorer(jf.Denoising(), "mnist", 0.4, batch_size=1)
        >>> restorer(torch.zeros(1, 1, 28, 28)).x.shape
        torch.Size([1, 1, 28, 28])

    Source: M. González, A. Almansa, P. Tan, arXiv 2103.01648, Algorithm 2.3.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        operator: Operator | Any,
        prior: Prior | str,
        sigma: Any,
        *,
        batch_size: int,
        method: str | Algorithm = "jpmap",
        steps: int | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        count("batch_size", batch_size, 1)
        if steps is not None:
            count("steps", steps, 1)
        algorithm = as_algorithm(method)
        self._solver = _checked_solver(algorithm)
        prior = prior_of(prior)
        if is_physics(operator):
            from jpmap_fast.deepinv import as_operator

            operator = as_operator(operator, prior.image_shape)
        if not isinstance(operator, Operator):
            raise TypeError(
                "operator: expected an operator such as Inpainting(mask), or a deepinv physics, "
                f"got {type(operator).__name__}"
            )
        parameter = next(iter(prior.parameters()), None) if hasattr(prior, "parameters") else None
        if parameter is not None:
            device, dtype = parameter.device, parameter.dtype
        device = operator.device if device is None else device
        blank = torch.zeros(1, device=device, dtype=dtype)
        shape = operator.bind(prior.image_shape).measurement_shape(prior.image_shape, blank)
        y = blank.new_zeros(batch_size, *shape)
        problem = prepare(y, operator, prior, sigma).problem
        algorithm = algorithm.bind(problem)
        self._joint = isinstance(algorithm, JPMAP)
        self._rounds = algorithm.settings().n2 if isinstance(algorithm, JPMAP) else 0
        self._tolerance = algorithm.tolerance if isinstance(algorithm, JPMAP) else 0.0
        self._batch, self._starts = batch_size, algorithm.number_of_starts

        codes = algorithm.starting_codes(problem, generator)
        image = torch.arange(batch_size, device=device).repeat(self._starts)
        self._codes = codes.repeat_interleave(batch_size, dim=0)
        self._first, self._all = problem, problem.select(image)
        if not self._joint:
            beta = torch.full_like(problem.sigma, torch.inf)
        elif isinstance(algorithm, JPMAP) and algorithm.beta is not None:
            beta = algorithm.beta
        else:
            beta = torch.full_like(problem.sigma, prior.gamma**-2)
        self._beta, self._beta_all = beta, beta[image]
        self._project = problem.operator.projection(problem.decoder, beta, problem.sigma)
        self._project_all = self._all.operator.projection(
            problem.decoder, self._beta_all, self._all.sigma
        )
        self.path = "torch" if self._project(y).fused() is None else "compiled"
        if not self._solver.fused:
            self.path = "torch"
        if self.path == "torch":
            self._solver = replace(self._solver, max_steps=steps or TORCH_STEPS)
        self._zero = y.new_zeros(batch_size, problem.decoder.latent_dim)
        self._drawn_from_zero = problem.decode(self._zero)
        self._y = y
        self.captured = y.device.type == "cuda" and operator.stays_on_device
        if self.captured and self._solver.linear_solver == "conjugate-gradient":
            raise ValueError(
                "method: expected linear_solver='auto' or 'direct' on a GPU, got "
                "'conjugate-gradient', whose iterations wait for the host; restore() runs it"
            )
        if self.captured:
            self._capture()

    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(self, y: Tensor) -> Restoration:
        """Restore measurements y, [B, ...] as the operator gives them.

        Args:
            y: in the prior's precision, on its device.

        Raises:
            ValueError: another shape, type or device. TypeError: not a tensor.
        """
        if not isinstance(y, Tensor):
            raise TypeError(f"y: expected a tensor, got {type(y).__name__}")
        expected = self._y
        if y.shape != expected.shape or y.dtype != expected.dtype or y.device != expected.device:
            raise ValueError(
                f"y: expected {list(expected.shape)}, {expected.dtype} on {expected.device}, got "
                f"{list(y.shape)}, {y.dtype} on {y.device}"
            )
        if not self.captured:
            return self._run(y)
        self._y.copy_(y)
        self._graph.replay()
        return self._result

    def _capture(self) -> None:
        stream = torch.cuda.Stream(self._y.device)
        stream.wait_stream(torch.cuda.current_stream(self._y.device))
        with torch.cuda.stream(stream):
            # Once outside of the graph: libraries set themselves up, caches are filled.
            self._run(self._y)
        torch.cuda.current_stream(self._y.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._run(self._y)

    def _run(self, y: Tensor) -> Restoration:
        repeated = y.repeat(self._starts, *[1] * (y.dim() - 1))
        everything = replace(self._all, y=repeated)
        first = replace(self._first, y=y)
        codes, published = self._codes, y
        if self._joint:
            published = first.operator.A_adjoint(y)
            codes = torch.cat((first.encode(published), codes[self._batch :]))
        found = self._descend(self._project_all(repeated), codes)
        if self._joint:
            x, objective, _ = everything.operator.x_update(
                decoded := everything.decode(found.z),
                repeated,
                found.z,
                self._beta_all,
                everything.sigma,
            )
        else:
            x = decoded = everything.decode(found.z)
            objective = found.objective.to(y.dtype)
        ends = [
            Restoration(*parts)
            for parts in zip(
                *(
                    value.split(self._batch)
                    for value in (x, found.z, decoded, objective, found.converged)
                ),
                strict=True,
            )
        ]
        if self._joint:
            ends[0] = self._ask_encoder(first, published, ends[0])
        best = ends[0]
        for end in ends[1:]:
            # An end that failed never wins.
            worse = best.objective.isnan() & ~end.objective.isnan()
            best = _choose(worse | (end.objective < best.objective), end, best)
        finite = torch.isfinite(best.objective)

        def or_nan(value: Tensor) -> Tensor:
            return torch.where(_like(finite, value), value, torch.nan)

        return Restoration(
            or_nan(best.x),
            or_nan(best.z),
            or_nan(best.decoded),
            or_nan(best.objective),
            best.converged & finite,
        )

    def _descend(
        self, f: LatentObjective, codes: Tensor, active: Tensor | None = None
    ) -> LatentSolution:
        low_latency = self._batch * self._starts <= LOW_LATENCY_DESCENTS
        return self._solver.minimise_on_device(f, codes, active, low_latency)

    def _ask_encoder(self, problem: Problem, x0: Tensor, end: Restoration) -> Restoration:
        """The encoder's candidates of the first start, and z3 where it has none."""
        f = self._project(problem.y)
        pixels, k = x0[0].numel(), end.z.shape[1]
        residual = (problem.y - problem.operator.A(x0)).flatten(1)
        zero, drawn = self._zero, self._drawn_from_zero
        before, _ = kernels.objective(
            x0.flatten(1), drawn.flatten(1), residual, zero, self._beta, problem.sigma
        )
        never = torch.zeros_like(end.converged)
        published = Restoration(x0, zero, drawn, before, never)

        def attempt(codes: Tensor, active: Tensor, now: Restoration) -> tuple[Restoration, Tensor]:
            found = self._descend(f, codes, active)
            decoded = problem.decode(found.z)
            x, objective, _ = problem.operator.x_update(
                decoded, problem.y, found.z, self._beta, problem.sigma
            )
            there = Restoration(x, found.z, decoded, objective, found.converged)
            better = active & (objective < now.objective)
            moved = _norm(x - now.x) / pixels**0.5 + _norm(found.z - now.z) / k**0.5
            return _choose(better, there, now), better & (moved >= self._tolerance)

        taken = end.objective < before if self._rounds else never
        now = _choose(taken, end, published)
        open_ = taken
        for _ in range(1, self._rounds):
            now, open_ = attempt(problem.encode(now.x), open_, now)
        # A second start is z = 0 already, what z3 would begin from.
        if self._starts == 1:
            now, _ = attempt(now.z, ~taken, now)
        return now


def _like(condition: Tensor, value: Tensor) -> Tensor:
    return condition.reshape(-1, *[1] * (value.dim() - 1))


def _choose(condition: Tensor, one: Restoration, other: Restoration) -> Restoration:
    """``one`` where ``condition`` [B] holds, ``other`` elsewhere."""
    return Restoration(
        *(
            torch.where(_like(condition, a), a, b)
            for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
        )
    )


def _checked_solver(algorithm: Algorithm) -> GaussNewton:
    expected = (
        "method: expected JPMAP(coupling='projected', selection='adaptive', n1=0) or CSGM(), with "
        f"GaussNewton, got {algorithm!r}; restore() runs every method"
    )
    if isinstance(algorithm, JPMAP):
        plain = algorithm.coupling == "projected" and algorithm.selection == "adaptive"
        if not plain or algorithm.n1 != 0:
            raise ValueError(expected)
    elif not isinstance(algorithm, CSGM):
        raise ValueError(expected)
    solver = as_solver("Restorer", algorithm.z_solver)
    if not isinstance(solver, GaussNewton):
        raise ValueError(expected)
    return solver


def _norm(difference: Tensor) -> Tensor:
    return torch.linalg.vector_norm(difference.flatten(1), dim=1)
