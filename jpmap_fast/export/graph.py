"""A restoration as a graph of torch's operators and ours, with everything prepared in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from jpmap_fast._run import Run
from jpmap_fast._surroundings import full_precision
from jpmap_fast.algorithms.rounds import Fixed
from jpmap_fast.export.plain_arguments import PlainArguments
from jpmap_fast.operators import reach

# What a package returns, in this order: fields of a Result, and whether each image is none that
# ``BoundOperator.check_range`` refuses.
RESULT = (
    "x",
    "z",
    "decoded",
    "objective",
    "converged",
    "status_code",
    "iterations",
    "candidates",
    "beta",
    "gap",
)
OUTPUTS = (*RESULT, "in_range")


class FixedRestoration(nn.Module):
    """A restoration from y [B, ...] to ``OUTPUTS``, by an amount of work that is known before.

    Args:
        run: of a problem and a method for which ``Algorithm.runs_fixed``.
        low_latency: see ``kernels.mlp.mlp_restore``.
    """

    def __init__(self, run: Run, low_latency: bool) -> None:
        super().__init__()
        self._run = run
        self._fixed = Fixed(asks=False, low_latency=low_latency)

    def forward(self, y: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        problem = self._run.problem
        found = self._run.on_device(y, None, self._fixed)
        refused = reach.refused(problem.operator.operator, y, problem.sigma)
        return (*(getattr(found, name) for name in RESULT), ~refused)


def graph_of(module: FixedRestoration, y: Tensor) -> ExportedProgram:
    """The graph of ``module`` at measurements like y, as AOTInductor takes it.

    Raises:
        Exception: of many kinds, where it asks the device, or does what no graph holds.
    """
    with full_precision():
        module(y)  # outside of a graph: what is kept must be made of numbers
    graph = torch.export.export(module, (y,), strict=False).module(check_guards=False)
    plain = PlainArguments(graph)  # type: ignore[arg-type]
    with full_precision():
        plain(y)
    program = torch.export.export(plain, (y,), strict=False)
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)  # of what is known here
    program.graph_module.recompile()
    return program
