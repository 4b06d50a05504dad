"""What ``restore`` and a ``Restorer`` return."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._capture import constant
from jpmap_fast.algorithms.monitor import History, Monitor
from jpmap_fast.algorithms.outcome import CONVERGED, NOT_FINITE, STATUS_TEXT, Outcome
from jpmap_fast.algorithms.problem import Problem


@dataclass(frozen=True)
class Result:
    """A restored batch. For an unbatched measurement every field loses its batch dimension.

    Attributes:
        x: restored images [B, C, H, W], values about [0, 1] (not clipped).
        z: latent codes [B, k], or [B, *code_shape] of a prior with codes of another shape.
        decoded: G(z) [B, C, H, W].
        objective: what the method minimises, at the end [B]: J1 for JPMAP and
            AlternateConvexSearch, the latent objective ||A G(z) - y||^2 / (2 sigma^2)
            + 1/2 ||z||^2 for CSGM, MAPz, MAPzSplitting, ADMM and LinearisedADMM. Both count all of
            y. With ``estimate="mean"`` the least J1 at the highest mode.
        converged: bool [B].
        status_code: why each image stopped, an index of ``algorithms.STATUS_TEXT`` [B].
        iterations: outer iterations [B] (solver steps for CSGM, which has one descent).
        candidates: how often z1, z2 and z3 were taken [B, 3].
        beta: coupling weight at the end [B]; inf for CSGM, ADMM and LinearisedADMM.
        gap: coupling gap ||x - G(z)||^2 [B].
        path: how the z-steps ran: "compiled", "torch", "torch (reverse mode)" for a decoder with a
            part of which torch has no forward-mode derivative (attention, ``grid_sample``); several
            with commas between them; "" for an algorithm without any; "samples" for a mean.
        reason: why that was not the compiled one, such as "the decoder is no plain multilayer
            perceptron"; "" where it was.
        history: with ``record=True``, by iteration and image; None otherwise.
        sigma: noise levels restored with [B], given or estimated.

    A failed image (NaN or infinity in its measurement) has NaN in x, z, decoded, objective and gap.
    """

    x: Tensor
    z: Tensor
    decoded: Tensor
    objective: Tensor
    converged: Tensor
    status_code: Tensor
    iterations: Tensor
    candidates: Tensor
    beta: Tensor
    gap: Tensor
    path: str = ""
    reason: str = ""
    history: History | None = None
    sigma: Tensor | None = None

    @property
    def status(self) -> list[str] | str:
        """Why each image stopped, in words; a string for an unbatched measurement.

        Read from ``status_code``: on a GPU it waits for the device.
        """
        codes = self.status_code.tolist()
        if isinstance(codes, int):
            return STATUS_TEXT[codes]
        return [STATUS_TEXT[code] for code in codes]

    def first(self, count: int) -> Result:
        """The first ``count`` images, views of these."""
        return self._each(lambda value: value[:count], lambda value: value[:, :count])

    def clone(self) -> Result:
        """A copy that the next call of a ``Restorer`` leaves alone."""
        return self._each(Tensor.clone, Tensor.clone)

    def unbatched(self) -> Result:
        """The only image, without its batch dimension."""
        return self._each(lambda value: value[0], lambda value: value[:, 0])

    def _each(self, change: Any, of_history: Any) -> Result:
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = change(value)
            elif isinstance(value, History):
                value = History(*(of_history(column) for column in vars(value).values()))
            found[field.name] = value
        return Result(**found)


def result_of(
    outcome: Outcome,
    finite: Tensor | None,
    monitor: Monitor,
    code_shape: tuple[int, ...],
    sigma: Tensor | None = None,
) -> Result:
    """The result of a whole batch.

    Args:
        outcome: its end.
        finite: which measurements are finite [B]; None for all of them.
        monitor: which saw what ran.
        code_shape: of one code as the prior has it.
        sigma: noise levels [B] that it names.
    """
    state, code = outcome.state, outcome.status
    counts = outcome.iterations, outcome.candidates
    values = [state.x, state.z, state.decoded, state.objective, state.gap, outcome.beta]
    if finite is not None:
        code = torch.where(finite, code, constant(NOT_FINITE, code))
        values = [
            torch.where(
                finite.reshape(-1, *[1] * (value.dim() - 1)), value, constant(math.nan, value)
            )
            for value in values
        ]
        counts = counts[0] * finite, counts[1] * finite[:, None]
    x, z, decoded, objective, gap, beta = values
    history = outcome.history
    if len(code_shape) > 1:
        z = z.unflatten(1, code_shape)
        if history is not None:
            history = replace(history, z=history.z.unflatten(2, code_shape))
    return Result(
        x=x,
        z=z,
        decoded=decoded,
        objective=objective,
        converged=code == CONVERGED,
        status_code=code,
        iterations=counts[0],
        candidates=counts[1],
        beta=beta,
        gap=gap,
        path=monitor.path,
        reason=monitor.reason,
        history=history,
        sigma=sigma,
    )


def joined(problem: Problem, good: Tensor, outcomes: list[Outcome]) -> Outcome:
    """The end of a batch of which the images ``good`` were restored in chunks.

    The others have NaN, and the status of measurements that are not finite.
    """
    if len(outcomes) == 1 and good.numel() == problem.batch:
        return outcomes[0]
    batch = problem.batch

    def spread(parts: list[Tensor], fill: float) -> Tensor:
        """Rows of the chunks, in the places of their images."""
        rows = torch.cat(parts)
        full = rows.new_full((batch, *rows.shape[1:]), fill)
        full[good] = rows
        return full

    states = [outcome.state for outcome in outcomes]
    state = type(states[0])(
        *(spread([getattr(s, f.name) for s in states], math.nan) for f in fields(states[0]))
    )
    return Outcome(
        state,
        spread([outcome.beta for outcome in outcomes], math.nan),
        spread([outcome.status for outcome in outcomes], NOT_FINITE),
        spread([outcome.iterations for outcome in outcomes], 0),
        spread([outcome.candidates for outcome in outcomes], 0),
        _joined_histories(outcomes, good, batch),
    )


def _joined_histories(outcomes: list[Outcome], good: Tensor, batch: int) -> History | None:
    histories = [outcome.history for outcome in outcomes if outcome.history is not None]
    if len(histories) < len(outcomes) or not histories:
        return None
    length = max(history.objective.shape[0] for history in histories)
    columns = []
    for name in vars(histories[0]):
        fill = -1 if name == "candidate" else math.nan
        parts = []
        for history in histories:
            part = getattr(history, name)
            pad = part.new_full((length - part.shape[0], *part.shape[1:]), fill)
            parts.append(torch.cat((part, pad)))
        full = parts[0].new_full((length, batch, *parts[0].shape[2:]), fill)
        full[:, good] = torch.cat(parts, dim=1)
        columns.append(full)
    return History(*columns)
