"""The compiled operators: checks that speak Python, then one call each.

Every operator exists for CPU and CUDA, float32 and float64, under one schema (csrc/ops.cpp), and
has a plain-torch twin of the same name in ``kernels.reference`` (the whole method in
``kernels.reference_joint``); but for ``linear`` on the CPU
and ``layer`` on a GPU, which are ``torch.nn.functional.linear`` with an activation, and
``fingerprint``, of which nobody needs another. No gradients are defined.

Beside them stand what they are made of: ``activations``, ``products`` of rows that do not depend
on how many there are, whole solves of perceptrons in ``mlp`` and the pass of ``tangents`` through
an activation.
"""

from jpmap_fast.kernels._extension import build_info
from jpmap_fast.kernels.conjugate_gradient import (
    conjugate_gradient_direction,
    conjugate_gradient_step,
)
from jpmap_fast.kernels.damped_systems import MAX_DAMPED_SYSTEM, damped_solve
from jpmap_fast.kernels.layers import LAYER_ROWS, has_layer, layer, linear, pack_linear
from jpmap_fast.kernels.x_updates import objective, x_update_diagonal, x_update_spectral

__all__ = [
    "LAYER_ROWS",
    "MAX_DAMPED_SYSTEM",
    "build_info",
    "conjugate_gradient_direction",
    "conjugate_gradient_step",
    "damped_solve",
    "has_layer",
    "layer",
    "linear",
    "objective",
    "pack_linear",
    "x_update_diagonal",
    "x_update_spectral",
]
