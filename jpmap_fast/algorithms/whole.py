"""JPMAP in one compiled call: which problems it takes, and the call.

What ``joint.descend`` does at one beta, or ``rounds``, for every start of every image, with the
same rules and on a CPU the same bits. Nothing of it passes through torch in between.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import Outcome
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.step import JointSettings
from jpmap_fast.kernels.jpmap import JointLimits, MLPJoint, mlp_jpmap, takes
from jpmap_fast.kernels.mlp import LOW_LATENCY_DESCENTS, refusal
from jpmap_fast.kernels.mlp_network import ForwardNetwork, pack_forward
from jpmap_fast.priors.mlp_decoder import MLPDecoder, MLPEncoder
from jpmap_fast.solvers import GaussNewton

# Images between two reports to whoever watches, on a CPU; a GPU has done all of a call at once.
WATCHED = 64
# Tasks a thread of a CPU between which the loop, with the same bits, is up to a fifth quicker:
# there the passes of one call are shared by too few tasks. Not for what is recorded, whose program
# may have other threads.
_LOOP = (4, 24)


def run_whole(
    problem: Problem,
    starts: Tensor,
    encoder: bool,
    beta: Tensor,
    settings: JointSettings,
    monitor: Monitor,
    *,
    again: bool,
    keep: bool = False,
) -> Outcome | None:
    """The best ends of all images, or None for what is not compiled as a whole.

    Args:
        problem: of a batch.
        starts: codes [K, k], shared, or [B, K, k].
        encoder: whether the first start is the encoder's, which has x = A^T y.
        beta: [B].
        settings: of the loop.
        monitor: told of the images done.
        again: whether descents that ``max_steps`` cuts short are taken up again.
        keep: see ``Projection``.
    """
    solver = settings.z_solver
    one_way = settings.coupling == "projected" and settings.selection == "adaptive"
    if monitor.record or not one_way or not isinstance(solver, GaussNewton):
        return None
    number = starts.shape[-2]
    tasks = problem.batch * number
    of_cpu = problem.y.device.type == "cpu"
    if of_cpu and not keep and _LOOP[0] < tasks / torch.get_num_threads() < _LOOP[1]:
        return None
    if keep and not encoder and (of_cpu or tasks > LOW_LATENCY_DESCENTS):
        return None  # an encoder that is not asked is an empty list, and those no package holds
    joint = joint_of(problem, solver, encoder, beta, keep)
    if joint is None or not takes(joint, number):
        return None
    counts = settings.n1, settings.n2, settings.max_iterations
    limits = JointLimits(*solver.compiled_settings, *counts, settings.tolerance, again)
    parts = []
    watched = of_cpu and monitor.watched
    for rows in torch.arange(problem.batch).split(WATCHED) if watched else (None,):
        part = joint if rows is None else joint.select(slice(int(rows[0]), int(rows[-1]) + 1))
        own = starts if rows is None or starts.dim() == 2 else starts[rows]
        parts.append(mlp_jpmap(part, own, limits))
        monitor.finished(len(part.y) * number)
    monitor.solved("compiled", "")
    x, z, decoded, objective, gap, status, iterations, candidates = (
        values[0] if len(values) == 1 else torch.cat(values)
        for values in zip(*(vars(part).values() for part in parts), strict=True)
    )
    shape = (-1, *problem.image_shape)
    state = State(x.reshape(shape), z, decoded.reshape(shape), objective, gap)
    return Outcome(state, beta, status, iterations, candidates)


def joint_of(
    problem: Problem, solver: GaussNewton, encoder: bool, beta: Tensor, keep: bool
) -> MLPJoint | None:
    """J1 of a batch as the operator takes it; None where it does not."""
    asked = problem.encoder if encoder else None
    if not isinstance(problem.decoder, MLPDecoder):
        return None
    if asked is not None and not isinstance(asked, MLPEncoder):
        return None
    form = problem.operator.closed_form(problem.y)
    if form is None:
        return None
    objective = problem.projection(problem.y, beta, problem.sigma, keep)
    f = solver.plan(objective, problem.y.new_empty(0, problem.decoder.latent_dim)).compiled
    if f is None:
        return None
    networks = [_forward(part, problem) for part in (problem.decoder, asked) if part is not None]
    if None in networks:
        return None
    decoder, *rest = networks
    assert decoder is not None
    return MLPJoint(
        f,
        decoder,
        rest[0] if rest else None,
        form.image,
        beta,
        problem.sigma,
        form.mask,
        form.values,
        form.lost,
    )


def _forward(network: MLPDecoder | MLPEncoder, problem: Problem) -> ForwardNetwork | None:
    """The layers of a network, or None where there are more, or others, than are compiled."""
    widths = [layer.weight.shape[0] for layer in network.layers]
    if refusal(problem.decoder.latent_dim, widths, network.activations, problem.y):
        return None
    of_images = isinstance(network, MLPEncoder)
    return pack_forward(network.layers, network.activations, of_images=of_images)
