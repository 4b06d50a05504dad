"""Restoration at a fixed shape, with everything that can be prepared prepared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._capture import Recorded
from jpmap_fast._foreign import translator_of
from jpmap_fast._made_of_weights import Unchanged
from jpmap_fast._prepared import (
    as_algorithm,
    check_known,
    checked_codes,
    operator_of,
    parameter_of,
    prepare,
    prior_of,
)
from jpmap_fast._result import Result
from jpmap_fast._run import Run
from jpmap_fast._surroundings import full_precision, steady
from jpmap_fast._validate import count
from jpmap_fast.algorithms import Algorithm, Monitor, Problem
from jpmap_fast.algorithms.rounds import Fixed
from jpmap_fast.algorithms.settings import with_steps
from jpmap_fast.kernels.mlp import LOW_LATENCY_DESCENTS
from jpmap_fast.operators import BoundOperator, Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.priors.protocol import bound
from jpmap_fast.residuals import Residual


class Restorer:
    r"""``restore`` for pipelines: one operator, noise level, prior, method and batch size.

    The operator's factorisation, the packed weights, the restriction of the decoder to observed
    pixels and, on a GPU, CUDA graphs of the whole restoration are made at construction. There a
    call copies y and launches them on the current stream: it allocates nothing of the device's, and
    never waits for it where ``path`` is "compiled". Elsewhere a step of the descents is a graph for
    each of a few numbers of images, launched until all have ended. The next call overwrites what
    one returns.

    Every method and setting of ``restore`` runs, with the same candidates and acceptance tests. On
    a CPU results have the bits of ``restore``; on a GPU objectives agree to rounding, or to another
    local minimum where rounding decides. For ``JPMAP(coupling="projected", selection="adaptive",
    n1=0)`` and ``CSGM()`` with ``GaussNewton`` the amount of work is bounded: one descent a
    candidate, and what ``max_steps`` cuts short is left there, not converged, where ``restore``
    would descend again. These are what a graph can hold; other methods run as in ``restore``, with
    what is prepared kept.

    Threads may share a Restorer on a CPU. On a GPU it has one set of buffers: calls from several
    threads or streams must follow one another.

    Args:
        operator: A; its factorisation and masks are read once. A linear deepinv physics becomes an
            operator, see ``jpmap_fast.deepinv.as_operator``. Bound, it tells a prior of any image
            size the shape.
        prior: from ``load_prior``, its name, or any ``Prior``. Its weights must not change: a call
            refuses where a parameter's version has.
        sigma: standard deviation of the noise > 0, a number or one an image [batch_size]; None
            reads that of a physics.
        batch_size: B >= 1.
        method: any that ``restore`` takes.
        steps: the most steps of a descent, in place of the solver's ``max_steps``.
        residual: the model of x - G(z), see ``restore``.
        image_shape: (C, H, W), for a prior of any image size that is not bound to one.
        generator: source of random starts, drawn once.
        device, dtype: of y, for a prior without parameters; otherwise those of its parameters.

    Attributes:
        captured: whether calls replay CUDA graphs. False on the CPU, for operators that iterate on
            the host (``LinearOperator``), steps by conjugate gradients, and other methods.
        path, reason: how the descents run and why, as in ``Result``.

    A copy or a pickle is made anew from the arguments, with the random starts of the original.

    Raises:
        ValueError: shapes, counts or values that do not fit, or ``steps`` for a method without
            descents. TypeError: wrong kinds.

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
        method: str | Algorithm | None = None,
        steps: int | None = None,
        residual: str | Residual | None = None,
        image_shape: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        count("batch_size", batch_size, 1)
        check_known(sigma)
        given, prior = prior, prior_of(prior)
        if image_shape is not None:
            prior = prior_of(bound(prior, image_shape))
        algorithm = with_steps(as_algorithm(method, prior), steps)
        operator, sigma = _of_physics(operator, prior, sigma, batch_size)
        # Of a physics what it was at this time: it may change.
        self._made_from = {
            "operator": operator,
            "prior": given,
            "sigma": sigma.clone() if isinstance(sigma, Tensor) else sigma,
            "batch_size": batch_size,
            "method": method,
            "steps": steps,
            "residual": residual,
            "image_shape": image_shape,
            "device": device,
            "dtype": dtype,
        }
        parameter = parameter_of(prior)
        if parameter is not None:
            device, dtype = parameter.device, parameter.dtype
        device = operator.device if device is None else device
        blank = torch.zeros(1, device=device, dtype=dtype)
        shape = operator.bind(_image_shape(prior, operator), like=blank).measurement_shape
        y = blank.new_zeros(batch_size, *shape)
        problem = prepare(
            y, operator, prior, sigma, residual=residual, codes=algorithm.uses_codes
        ).problem
        self._weights = Unchanged(prior, "Restorer")
        varying = [getattr(algorithm, name) for name in algorithm.image_settings]
        # Whether any image may stand in any place of the batch.
        self._shared = problem.operator.batch is None and all(
            value is None or torch.as_tensor(value).numel() == 1 for value in (sigma, *varying)
        )
        codes = vars(self).pop("_codes_of_original", None)
        self._batch = batch_size
        with full_precision():
            self._run = Run(problem, algorithm, generator, codes=codes, told=problem.sigma.clone())
            self._prepare()

    @property
    def problem(self) -> Problem:
        """What is restored; where ``captured`` with the measurements of the last call."""
        return self._run.problem

    def _prepare(self) -> None:
        """The way that calls run, and a graph of it on a GPU."""
        run, y = self._run, self._run.problem.y
        algorithm = run.algorithm
        plan = algorithm.plan(run.problem)
        self.path, self.reason = plan.path, plan.reason
        on_gpu = y.device.type == "cuda"
        held = algorithm.runs_fixed and not plan.waits
        self.captured = on_gpu and run.problem.operator.stays_on_device and held
        self._fixed: Fixed | None = None
        if self.captured or (algorithm.runs_fixed and not on_gpu):
            low_latency = self._batch * algorithm.number_of_starts <= LOW_LATENCY_DESCENTS
            self._fixed = Fixed(asks=not self.captured, low_latency=low_latency)
        self._y, self._rows = y, torch.arange(self._batch, device=y.device)
        self._graph: Recorded[Result] | None = None
        self._graph_from_codes: Recorded[Result] | None = None
        if self.captured:
            self._graph = Recorded(
                y.device, lambda: run.on_device(y, None, self._fixed), loops=True
            )

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights, factorisations and graphs are made anew where it arrives.
        return {"made_from": self._made_from, "codes": self._run.codes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._codes_of_original = state["codes"]
        self.__init__(**state["made_from"])  # type: ignore[misc]

    @steady
    @torch.no_grad()
    def __call__(self, y: Tensor, z0: Tensor | None = None) -> Result:
        """Restore measurements y, [B, ...] as the operator gives them.

        Args:
            y: in the prior's precision, on its device. Fewer images than ``batch_size``, as in the
                last batch of a loader, take as long and are all that comes back.
            z0: codes to descend from [B, *code_shape], such as those of the frame before, in place
                of the method's starts. On a GPU the first call with codes records a graph of its
                own, and their values are not looked at.

        Raises:
            ValueError: another shape, type or device; on a CPU also values that are none of images
                in [0, 1] (see ``BoundOperator.check_range``); fewer images where sigma, the
                operator or beta differ from image to image. TypeError: not a tensor. RuntimeError:
                parameters of the prior have been written to.
        """
        number, run = self._checked(y), self._run
        problem = run.problem
        with full_precision():
            if not self.captured:
                part = problem if number == self._batch else problem.select(self._rows[:number])
                part.operator.check_range(y, part.sigma)
            if z0 is not None:
                z0 = checked_codes(z0, run.algorithm, problem.at(y), looked_at=not self.captured)
            found = self._replayed(y, z0) if self.captured else self._computed(y, z0)
        return found if number == self._batch else found.first(number)

    @steady
    @torch.no_grad()
    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write it with its weights as a package that programs in C++ run, without Python.

        ``jpmap_fast/restorer.h`` loads it, see the guide. It takes B measurements as a call does,
        and has the bits of one: it is run and compared first. Held is work known before: ``JPMAP``
        as it comes and ``CSGM``, where ``path`` is "compiled", and ``EncoderContinuation``.

        Args:
            path: ends in ``.pt2``.

        Raises:
            ValueError: it does not, or no package holds this. RuntimeError: there is no C++
                compiler, or what was made has other bits.
        """
        from jpmap_fast.export import export_run

        starts = self._batch * self._run.algorithm.number_of_starts
        return export_run(self._run, self, path, low_latency=starts <= LOW_LATENCY_DESCENTS)

    def _checked(self, y: Tensor) -> int:
        """How many measurements these are, where the prior is as it was."""
        self._weights.check()
        if not isinstance(y, Tensor):
            raise TypeError(f"y: expected a tensor, got {type(y).__name__}")
        expected = self._y
        fits = y.shape[1:] == expected.shape[1:] and 0 < len(y) <= self._batch if y.dim() else False
        if not fits or y.dtype != expected.dtype or y.device != expected.device:
            raise ValueError(
                f"y: expected {list(expected.shape)}, {expected.dtype} on {expected.device}, got "
                f"{list(y.shape)}, {y.dtype} on {y.device}"
            )
        if len(y) < self._batch and not self._shared:
            raise ValueError(
                f"y: expected {self._batch} images, since sigma, the operator or beta differ from "
                f"image to image, got {len(y)}"
            )
        return len(y)

    def _replayed(self, y: Tensor, z0: Tensor | None) -> Result:
        run, number = self._run, len(y)
        self._y[:number].copy_(y)
        if z0 is None:
            assert self._graph is not None
            return self._graph()
        if self._graph_from_codes is None:
            self._z0 = z0.new_zeros(self._batch, z0.shape[1])
            self._graph_from_codes = Recorded(
                y.device, lambda: run.on_device(self._y, self._z0, self._fixed), loops=True
            )
        self._z0[:number].copy_(z0)
        return self._graph_from_codes()

    def _computed(self, y: Tensor, z0: Tensor | None) -> Result:
        missing = self._batch - len(y)
        if missing:
            y = torch.cat((y, y.new_zeros(missing, *y.shape[1:])))
            z0 = None if z0 is None else torch.cat((z0, z0.new_zeros(missing, z0.shape[1])))
        with Monitor() as monitor:
            return self._run(y, z0, monitor, self._fixed, self._batch)


def _image_shape(prior: Prior, operator: Any) -> tuple[int, ...]:
    """(C, H, W) of the prior, or of one of any size what the operator is bound to."""
    shape = prior.image_shape or getattr(operator, "image_shape", None)
    if shape is None:
        raise ValueError(
            f"image_shape: expected (C, H, W), since a {type(prior).__name__} takes images of any "
            "size and a Restorer is for one, got None"
        )
    return tuple(shape)


def _of_physics(
    operator: Any, prior: Prior, sigma: Any, batch: int
) -> tuple[Operator | BoundOperator, Any]:
    """The operator and the noise level of a deepinv physics, or these themselves."""
    foreign = translator_of(operator)
    if foreign is not None:
        translation = foreign.translate(operator, _image_shape(prior, None), batch)
        operator, _, sigma = translation.levelled(operator, sigma)
    return operator_of(operator), sigma
