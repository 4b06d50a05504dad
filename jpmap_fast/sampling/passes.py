"""What is left of a pass of draws through a decoder: enough to have their images for little."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.sampling.model import Model


@dataclass(frozen=True)
class Pass:
    """Outputs [B, N, w] of the last layer of a decoder, or of the last but one."""

    outputs: Tensor
    last: bool

    def select(self, index: Tensor | slice) -> Pass:
        """Those of the images ``index``."""
        return Pass(self.outputs[index], self.last)

    def decoded(self, decoder: MLPDecoder) -> Tensor:
        """G(z) [B, N, n]: the same bits in both cases."""
        if self.last:
            return self.outputs
        return decoder.layers[-1].activated(self.outputs, decoder.activations[-1])


@dataclass(frozen=True)
class Passing:
    """Log densities of draws with what their passes leave, for compiled networks on the CPU.

    No operator of a GPU keeps any: there images are decoded once more.

    Args:
        layer: whose outputs are kept.
        last: whether it is the decoder's last one.
    """

    layer: int
    last: bool

    @classmethod
    def of(cls, model: Model) -> Passing | None:
        """That of a model; None where nothing is kept."""
        form, decoder = model.log_likelihood.compiled, model.problem.decoder
        if form is None or form.target.device.type != "cpu" or not isinstance(decoder, MLPDecoder):
            return None
        count = len(decoder.layers)
        # A data term to which some pixels never matter has a last layer of its own, without them.
        own = model.log_likelihood.objective.decoder
        last = isinstance(own, MLPDecoder) and own.layers[-1] is decoder.layers[-1]
        return None if not last and count == 1 else cls(count - 1 if last else count - 2, last)

    def log_joint(self, model: Model, z: Tensor) -> tuple[Tensor, Pass]:
        """``Model.log_joint`` of codes [B, N, k], and their pass."""
        value, outputs = model.log_likelihood.keeping(z.to(model.problem.y.dtype), self.layer)
        return model.joint_of(value, z), Pass(outputs, self.last)


def log_joint_passing(model: Model, z: Tensor) -> tuple[Tensor, Pass | None]:
    """``Model.log_joint`` of codes [B, N, k], and their pass where it is kept."""
    passing = Passing.of(model)
    return (model.log_joint(z), None) if passing is None else passing.log_joint(model, z)
