"""Which way a descent runs, and why: the one place that decides it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jpmap_fast.kernels.mlp import MLPLeastSquares
from jpmap_fast.objective import LatentObjective
from jpmap_fast.solvers.base import LatentSolution

# Up to so many latent dimensions the k columns of the Jacobian cost less than conjugate gradients,
# by device. The columns go through the decoder side by side, which a GPU does nearly for nothing,
# while iterations wait for one another: at k = 64 they took a fifteenth of the time there. On a CPU
# conjugate gradients win from k = 32 on (benchmarks/bench_linear_solver.py).
DIRECT_LATENT_DIM = {"cpu": 24, "cuda": 512}


@dataclass(frozen=True)
class Plan:
    """How the descents of an objective run.

    Attributes:
        path: "compiled", "torch", or "torch (reverse mode)".
        reason: why it is not compiled; "" where it is.
        compiled: f for the fused operators; None without.
        direct: whether a step in torch takes the columns of the Jacobian, not conjugate gradients.
        waits: whether a step asks the device how far it is, so that no CUDA graph holds it.
    """

    path: str
    reason: str = ""
    compiled: MLPLeastSquares | None = None
    direct: bool = True
    waits: bool = False


def uncompiled(solver: object) -> Plan:
    """The plan of a solver that runs in torch alone, such as Adam."""
    return Plan("torch", f"{type(solver).__name__} is not compiled", waits=True)


def told(solver: object, found: LatentSolution) -> tuple[str, str]:
    """Path and reason of a descent, the reason of its plan where the solver says none."""
    if found.path == "compiled" or found.reason:
        return found.path, found.reason
    return found.path, uncompiled(solver).reason


def plan(objective: LatentObjective, z: Tensor, *, fused: bool, linear_solver: str) -> Plan:
    """The plan of Gauss-Newton descents.

    Args:
        objective: f.
        z: codes, for their number of dimensions, type and device.
        fused, linear_solver: of ``GaussNewton``.
    """
    iterates = linear_solver == "conjugate-gradient"
    direct = linear_solver == "direct"
    if linear_solver == "auto":
        direct = z.shape[1] <= DIRECT_LATENT_DIM.get(z.device.type, 512)
    if not fused:
        form: MLPLeastSquares | str = "fused=False"
    elif iterates:
        form = "linear_solver='conjugate-gradient'"
    else:
        form = objective.fused()
    if isinstance(form, str):
        return Plan(objective.decoder.path, form, direct=direct, waits=iterates)
    return Plan("compiled", compiled=form)
