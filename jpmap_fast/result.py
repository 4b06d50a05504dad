"""What ``restore`` returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jpmap_fast.algorithms.monitor import History


@dataclass(frozen=True)
class Result:
    """A restored batch. For an unbatched measurement every field loses its batch dimension.

    Attributes:
        x: restored images [B, C, H, W], values about [0, 1] (not clipped).
        z: latent codes [B, k].
        decoded: G(z) [B, C, H, W].
        objective: what the method minimises, at the end [B]: J1 for JPMAP and
            AlternateConvexSearch, the latent objective ||A G(z) - y||^2 / (2 sigma^2)
            + 1/2 ||z||^2 for CSGM, MAPz and MAPzSplitting. Both count all of y.
        converged: bool [B].
        status: why each image stopped, in words; a string for an unbatched measurement.
        iterations: outer iterations [B] (solver steps for CSGM, which has one descent).
        candidates: how often z1, z2 and z3 were taken [B, 3].
        beta: coupling weight at the end [B]; inf for CSGM.
        gap: coupling gap ||x - G(z)||^2 [B].
        path: how the z-steps ran: "compiled", "torch", "torch (reverse mode)" for a decoder with a
            part of which torch has no forward-mode derivative (attention, ``grid_sample``); several
            with commas between them; "" for an algorithm without any.
        history: with ``record=True``, by iteration and image; None otherwise.

    A failed image (NaN or infinity in its measurement) has NaN in x, z, decoded, objective and gap.
    """

    x: Tensor
    z: Tensor
    decoded: Tensor
    objective: Tensor
    converged: Tensor
    status: list[str] | str
    iterations: Tensor
    candidates: Tensor
    beta: Tensor
    gap: Tensor
    path: str = ""
    history: History | None = None
