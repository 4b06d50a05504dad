"""A batch of restoration problems and the state of its solution, image by image.

Codes are rows [B, k] here, whatever shape [B, *code_shape] the prior and the caller see them in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from jpmap_fast.objective import LatentObjective, Projection, coupled
from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.priors.base import Prior
from jpmap_fast.priors.decoder_base import Decoder

Coupling = Literal["projected", "alternating"]


@dataclass(frozen=True)
class State:
    """Where each image stands.

    Attributes:
        x: [B, C, H, W].
        z: [B, k].
        decoded: G(z) [B, C, H, W].
        objective: J1(x, z) at the current beta, [B].
        gap: ||x - G(z)||^2 [B].
    """

    x: Tensor
    z: Tensor
    decoded: Tensor
    objective: Tensor
    gap: Tensor

    def select(self, index: Tensor) -> State:
        """The images ``index`` alone."""
        return State(*(getattr(self, field.name)[index] for field in fields(self)))

    def where(self, condition: Tensor, other: State) -> State:
        """This state where ``condition`` [B] holds, ``other`` elsewhere."""
        chosen = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            mask = condition.reshape(-1, *[1] * (mine.dim() - 1))
            chosen.append(torch.where(mask, mine, theirs))
        return State(*chosen)

    def put_where(self, rows: Tensor | None, condition: Tensor, new: State) -> State:
        """This state with ``new`` in those of ``rows`` (None for all) where ``condition`` holds."""
        if rows is None:
            return new.where(condition, self)
        return self._placed(rows, new.where(condition, self.select(rows)))

    def _placed(self, rows: Tensor, part: State) -> State:
        return State(
            *(
                getattr(self, field.name).index_copy(0, rows, getattr(part, field.name))
                for field in fields(self)
            )
        )


@dataclass(frozen=True)
class Problem:
    """Measurements, operator, noise levels and prior of a batch.

    Attributes:
        prior: bound to the image shape; for gamma.
        encoder: mu_phi, images to codes [B, k].
        decoder: the prior's decoder with its derivatives.
        operator: bound to the image shape.
        y: measurements [B, ...].
        sigma: noise standard deviations [B].
        image_shape: (C, H, W).
        code_shape: of one code as the prior has it, of k entries.
        shares: whether a number that serves all images may be one that other problems have too:
            see ``filled``. Nobody writes to such a tensor, and no result has it.
    """

    prior: Prior
    encoder: Callable[[Tensor], Tensor]
    decoder: Decoder
    operator: BoundOperator
    y: Tensor
    sigma: Tensor
    image_shape: tuple[int, ...]
    code_shape: tuple[int, ...]
    shares: bool = False

    @property
    def batch(self) -> int:
        """B."""
        return self.y.shape[0]

    @cached_property
    def projection(self) -> Projection:
        """J(z) of these operators and this decoder."""
        return Projection(self.operator, self.decoder)

    def select(self, index: Tensor) -> Problem:
        """The problems ``index``; an index may repeat."""
        operator = self.operator.select(index)
        return self._with(operator=operator, y=self.y[index], sigma=self.sigma[index])

    def at(self, y: Tensor) -> Problem:
        """The same problems of other measurements."""
        return self if y is self.y else self._with(y=y)

    def _with(self, **fields: Any) -> Problem:
        new = replace(self, **fields)
        if new.operator is self.operator and "projection" in vars(self):
            vars(new)["projection"] = self.projection  # of all that it was made of
        return new

    def encode(self, x: Tensor) -> Tensor:
        """mu_phi(x) [B, k]."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """G(z) [B, C, H, W]."""
        return self.decoder.value(z).reshape(-1, *self.image_shape)

    def minimise_x(self, z: Tensor, beta: Tensor) -> State:
        """The state of argmin_x J1(x, z)."""
        decoded = self.decode(z)
        x, objective, gap = self.operator.x_update(decoded, self.y, z, beta, self.sigma)
        return State(x, z, decoded, objective, gap)

    def nearest(self, target: Tensor, beta: Tensor) -> Tensor:
        """argmin_x ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - target||^2, images [B, C, H, W]."""
        codes = target.new_zeros(len(target), 1)
        return self.operator.x_update(target, self.y, codes, beta, self.sigma)[0]

    def evaluate(self, x: Tensor, z: Tensor, beta: Tensor, decoded: Tensor | None = None) -> State:
        """The state at a given x and z, with G(z) if it is known."""
        decoded = self.decode(z) if decoded is None else decoded
        objective, gap = self.operator.evaluate(x, decoded, self.y, z, beta, self.sigma)
        return State(x, z, decoded, objective, gap)

    def latent_objective(
        self, coupling: Coupling, x: Tensor, beta: Tensor
    ) -> tuple[LatentObjective, Tensor]:
        """What a z-step minimises at (x, beta), and the factor of Adam's published scaling [B]."""
        scale = torch.where(torch.isinf(beta), 2 * self.sigma.square(), 1 / beta)
        if coupling == "projected":
            return self.projection(self.y, beta, self.sigma), scale
        return coupled(self.decoder, x.flatten(1), self.operator.coupling_term(beta)), scale
