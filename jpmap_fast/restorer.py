"""Restoration at a fixed shape, with everything that can be prepared prepared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._capture import captured, on_side_stream
from jpmap_fast._surroundings import full_precision, steady
from jpmap_fast._validate import count
from jpmap_fast.algorithms import CSGM, JPMAP, Algorithm, Problem
from jpmap_fast.algorithms.base import as_solver
from jpmap_fast.objective import LatentObjective
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.restore import as_algorithm, is_physics, parameter_of, prepare, prior_of
from jpmap_fast.solvers import GaussNewton
from jpmap_fast.solvers.base import LatentSolution

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

    def first(self, count: int) -> Restoration:
        """The first ``count`` images."""
        return Restoration(*(value[:count] for value in vars(self).values()))

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
    descends, and the encoder is asked up to n2 times (and max_iterations times) while it lowers J1
    and moves the image by ``tolerance``. One descent a candidate: what ``max_steps`` cuts short is
    left there, not converged, where ``restore`` would descend again. On a CPU results have the bits
    of ``restore``; on a GPU objectives agree to rounding, or to another local minimum where
    rounding decides.

    Threads may share a Restorer on a CPU. On a GPU it has one set of buffers: calls from several
    threads or streams must follow one another.

    Args:
        operator: A; its factorisation and masks are read once. A linear deepinv physics becomes an
            operator, see ``jpmap_fast.deepinv.as_operator``.
        prior: from ``load_prior``, its name, or any ``Prior``. Its weights must not change.
        sigma: standard deviation of the noise > 0, a number or one an image [batch_size]; None
            reads that of a physics.
        batch_size: B >= 1.
        method: ``JPMAP(coupling="projected", selection="adaptive", n1=0)`` or ``CSGM()``, with
            ``GaussNewton``, or their names.
        steps: the most steps of a descent, in place of the solver's ``max_steps``. For a decoder
            without a compiled solve all of them are executed on a GPU, the price of not waiting for
            the device; there None is 25 unless the solver says otherwise.
        generator: source of random starts, drawn once.
        device, dtype: of y, for a prior without parameters; otherwise those of its parameters.

    Attributes:
        captured: whether calls replay a CUDA graph. False on the CPU, and for operators that
            iterate on the host (``LinearOperator``).
        path: how the descents run, as in ``Result``.

    A copy or a pickle is made anew from the arguments, with the random starts of the original.

    Raises:
        ValueError: shapes, counts, values or a method that do not fit. TypeError: wrong kinds.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> restorer = jf.Restorer(jf.Denoising(), "mnist", 0.4, batch_size=1)
        >>> restorer(torch.zeros(1, 1, 28, 28)).x.shape
        torch.Size([1, 1, 28, 28])

    Source: M. González, A. Almansa, P. Tan, arXiv 2103.01648, Algorithm 2.3.
    """

    @steady
    @torch.no_grad()
    def __init__(
        self,
        operator: Operator | Any,
        prior: Prior | str,
        sigma: Any = None,
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
        if steps is not None:
            self._solver = replace(self._solver, max_steps=steps)
        given, prior = prior, prior_of(prior)
        if is_physics(operator):
            from jpmap_fast.deepinv.translation import translate

            physics = operator
            translation = translate(physics, prior.image_shape, batch_size)
            operator, _, sigma = translation.levelled(physics, sigma)
        if not isinstance(operator, Operator):
            raise TypeError(
                "operator: expected an operator such as Inpainting(mask), or a deepinv physics, "
                f"got {type(operator).__name__}"
            )
        parameter = parameter_of(prior)
        if parameter is not None:
            device, dtype = parameter.device, parameter.dtype
        device = operator.device if device is None else device
        blank = torch.zeros(1, device=device, dtype=dtype)
        shape = operator.bind(prior.image_shape).measurement_shape(prior.image_shape, blank)
        y = blank.new_zeros(batch_size, *shape)
        problem = prepare(y, operator, prior, sigma).problem
        varying = [getattr(algorithm, name) for name in algorithm.image_settings]
        # Whether any image may stand in any place of the batch.
        self._shared = problem.operator.batch is None and all(
            value is None or torch.as_tensor(value).numel() == 1 for value in (sigma, *varying)
        )
        algorithm = algorithm.bind(problem)
        starts = vars(self).pop("_starts_of_original", None)
        if starts is None:
            starts = algorithm.starting_codes(problem, generator)
        self._codes = starts.to(y)
        self._made_from = {
            "operator": operator,
            "prior": given,
            "sigma": sigma,
            "batch_size": batch_size,
            "method": method,
            "steps": steps,
            "device": device,
            "dtype": dtype,
        }
        with full_precision():
            self._prepare(algorithm, problem)

    def _prepare(self, algorithm: Algorithm, problem: Problem) -> None:
        """Everything that calls share, once the codes of the starts are known."""
        y = problem.y
        self._batch, self._starts = problem.batch, algorithm.number_of_starts
        self._joint = isinstance(algorithm, JPMAP)
        self._encoder = algorithm.uses_encoder
        beta = torch.full_like(problem.sigma, torch.inf)
        if isinstance(algorithm, JPMAP):
            settings = algorithm.settings()
            self._rounds = min(settings.n2, settings.max_iterations)
            self._tolerance = settings.tolerance
            default = torch.full_like(problem.sigma, problem.prior.gamma**-2)
            beta = default if algorithm.beta is None else algorithm.beta
        image = torch.arange(self._batch, device=y.device).repeat(self._starts)
        self._first, self._all = problem, problem.select(image)
        self._beta, self._beta_all = beta, beta[image]
        self.path = self._solver.path(self._project(problem))
        self._project_all(self._all)
        self._repeated_codes = self._codes.repeat_interleave(self._batch, dim=0)
        self._rows = torch.arange(self._batch, device=y.device)
        self._zero = y.new_zeros(self._batch, problem.decoder.latent_dim)
        self._drawn_from_zero = problem.decode(self._zero)
        self._y = y
        self.captured = y.device.type == "cuda" and problem.operator.stays_on_device
        if self.captured and self._solver.linear_solver == "conjugate-gradient":
            raise ValueError(
                "method: expected linear_solver='auto' or 'direct' on a GPU, got "
                "'conjugate-gradient', whose iterations wait for the host; restore() runs it"
            )
        if self.captured:
            on_side_stream(y.device, lambda: self._run(y))
            self._graph, self._result = captured(y.device, lambda: self._run(y))

    def _project(self, problem: Problem) -> LatentObjective:
        return problem.projection(problem.y, self._beta, problem.sigma)

    def _project_all(self, problem: Problem) -> LatentObjective:
        return problem.projection(problem.y, self._beta_all, problem.sigma)

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights, factorisations and graphs are made anew where it arrives.
        return {"made_from": self._made_from, "codes": self._codes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._starts_of_original = state["codes"]
        self.__init__(**state["made_from"])  # type: ignore[misc]

    @steady
    @torch.no_grad()
    def __call__(self, y: Tensor) -> Restoration:
        """Restore measurements y, [B, ...] as the operator gives them.

        Args:
            y: in the prior's precision, on its device. Fewer images than ``batch_size``, as in the
                last batch of a loader, take as long and are all that comes back.

        Raises:
            ValueError: another shape, type or device; on a CPU also values that are none of images
                in [0, 1] (see ``Operator.check_range``); fewer images where sigma, the operator or
                beta differ from image to image. TypeError: not a tensor.
        """
        if not isinstance(y, Tensor):
            raise TypeError(f"y: expected a tensor, got {type(y).__name__}")
        expected = self._y
        fits = y.shape[1:] == expected.shape[1:] and 0 < len(y) <= self._batch if y.dim() else False
        if not fits or y.dtype != expected.dtype or y.device != expected.device:
            raise ValueError(
                f"y: expected {list(expected.shape)}, {expected.dtype} on {expected.device}, got "
                f"{list(y.shape)}, {y.dtype} on {y.device}"
            )
        number = len(y)
        if number < self._batch and not self._shared:
            raise ValueError(
                f"y: expected {self._batch} images, since sigma, the operator or beta differ from "
                f"image to image, got {number}"
            )
        if y.device.type == "cpu":  # on a GPU looking at y would wait for it
            problem = (
                self._first if number == self._batch else self._first.select(self._rows[:number])
            )
            problem.operator.check_range(y, problem.sigma)
        if self.captured:
            self._y[:number].copy_(y)
            self._graph.replay()
            found = self._result
        else:
            if number < self._batch:
                y = torch.cat((y, y.new_zeros(self._batch - number, *y.shape[1:])))
            with full_precision():
                found = self._run(y)
        return found if number == self._batch else found.first(number)

    def _run(self, y: Tensor) -> Restoration:
        repeated = y.repeat(self._starts, *[1] * (y.dim() - 1))
        everything, first = self._all.at(repeated), self._first.at(y)
        codes, published = self._repeated_codes, y
        if self._encoder:
            published = first.operator.A_adjoint(y)
            codes = torch.cat((first.encode(published), codes[self._batch :]))
        found = self._descend(self._project_all(everything), codes)
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
        if self._encoder:
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
        f = self._project(problem)
        residual = (problem.y - problem.operator.A(x0)).flatten(1)
        zero, drawn = self._zero, self._drawn_from_zero
        before, _ = kernels.objective(
            x0.flatten(1), drawn.flatten(1), residual, zero, self._beta, problem.sigma
        )
        never = torch.zeros_like(end.converged)
        published = Restoration(x0, zero, drawn, before, never)

        def attempt(codes: Tensor, active: Tensor, now: Restoration) -> tuple[Restoration, Tensor]:
            if not self.captured and not bool(active.any()):
                return now, active
            found = self._descend(f, codes, active)
            decoded = problem.decode(found.z)
            x, objective, _ = problem.operator.x_update(
                decoded, problem.y, found.z, self._beta, problem.sigma
            )
            there = Restoration(x, found.z, decoded, objective, found.converged)
            better = active & (objective < now.objective)
            return _choose(better, there, now), better & self._moves(there, now)

        taken = end.objective < before
        now = _choose(taken, end, published)
        open_ = taken & self._moves(end, published)
        for _ in range(1, self._rounds):
            now, open_ = attempt(problem.encode(now.x), open_, now)
        # A second start is z = 0 already, what z3 would begin from.
        if self._starts == 1:
            now, _ = attempt(now.z, ~taken, now)
        return now

    def _moves(self, there: Restoration, here: Restoration) -> Tensor:
        """Whether an iteration from ``here`` to ``there`` is one of ``tolerance`` or more [B]."""
        pixels, k = here.x[0].numel(), here.z.shape[1]
        moved = _norm(there.x - here.x) / pixels**0.5 + _norm(there.z - here.z) / k**0.5
        return moved >= self._tolerance


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
