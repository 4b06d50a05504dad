"""Restoration as a reconstructor of DeepInverse."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from jpmap_fast._metrics import psnr
from jpmap_fast._prepared import prior_of
from jpmap_fast._restore import method_of, restore
from jpmap_fast._result import Result
from jpmap_fast._validate import choice
from jpmap_fast.algorithms import Algorithm
from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.bound import unbound
from jpmap_fast.priors.base import Prior
from jpmap_fast.residuals import Residual
from jpmap_fast.sampling import SamplingMethod

if TYPE_CHECKING:
    from jpmap_fast.deepinv.snapshot import Signature
    from jpmap_fast.deepinv.translation import Translation

_Base: Any = nn.Module
# An installation that is broken says so here; only a missing one leaves the plain module.
if importlib.util.find_spec("deepinv") is not None:
    _Base = importlib.import_module("deepinv.models").Reconstructor


class Reconstructor(_Base):  # type: ignore[misc]
    """``restore`` as ``model(y, physics)``, a ``deepinv.models.Reconstructor``.

    It goes where DeepInverse takes a model: ``deepinv.test(model, dataloader, physics)``,
    ``Trainer(...).test``. There is nothing to train, and its images carry no gradient. What is
    made from a physics, its operator and factorisations, is kept until the physics is gone or
    holds other values. Without deepinv it is a plain ``torch.nn.Module`` for operators of this
    package.

    Args:
        prior: from ``load_prior``, its name, or any ``Prior``. A module moves with ``to``.
        method: as in ``restore``.
        sigma: standard deviation of the noise, > 0, a number or one an image; None reads
            ``physics.noise_model.sigma`` at each call.
        residual: the model of x - G(z), as in ``restore``.
        estimate: "map" or "mean", as in ``restore``; of a mean, no metrics by iteration.
        which: "x" for the joint estimate, "decoded" for G(z).
        generator: source of random starts; torch's default generator if None.
        chunk_size: as in ``restore``.

    Raises:
        ValueError, TypeError: as ``restore``; also for another ``which``.

    Example:
        >>> import deepinv, jpmap_fast as jf
        >>> digits, _ = jf.mnist_test_digits(2)
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.4))
        >>> jf.Reconstructor("mnist")(physics(digits), physics).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        prior: Prior | str,
        method: str | Algorithm | SamplingMethod | None = None,
        sigma: Any = None,
        *,
        residual: str | Residual | None = None,
        estimate: str = "map",
        which: str = "x",
        generator: torch.Generator | None = None,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        choice("which", which, ("x", "decoded"))
        self.prior = prior_of(prior)
        self.method = method_of(estimate, method, self.prior)
        self.sigma = sigma
        self.residual = residual
        self.estimate = estimate
        self.which = which
        self.generator = generator
        self.chunk_size = chunk_size
        self._known: WeakKeyDictionary[nn.Module, tuple[Signature, Translation]] = (
            WeakKeyDictionary()
        )

    def forward(
        self,
        y: Any,
        physics: Any,
        x_gt: Tensor | None = None,
        compute_metrics: bool = False,
        *,
        sigma: Any = None,
    ) -> Tensor | tuple[Tensor, dict[str, list[list[float]]]]:
        """Restored images of measurements.

        Args:
            y: measurements of the physics: [B, ...], or a ``TensorList`` of a stacked one.
            physics: a linear deepinv physics, or an operator of this package.
            x_gt: original images [B, C, H, W], for the metric "psnr".
            compute_metrics: return metrics as well.
            sigma: in place of the model's for this call.

        Returns:
            x [B, C, H, W], or G(z); with ``compute_metrics`` also lists by image: "cost", what the
            method minimises, by iteration; "gap", ||x - G(z)||^2, by iteration; "psnr" in dB, at
            the end.

        Raises:
            TypeError, ValueError: as ``restore`` and ``as_operator``.
        """
        record = compute_metrics and self.estimate == "map"
        result = self.restore(y, physics, sigma=sigma, record=record)
        x = result.x if self.which == "x" else result.decoded
        return (x, _metrics(result, x, x_gt)) if compute_metrics else x

    @torch.no_grad()
    def restore(self, y: Any, physics: Any, *, sigma: Any = None, record: bool = False) -> Result:
        """The whole ``Result``: codes, objectives and why each image stopped.

        Args:
            y, physics, sigma: as in ``forward``.
            record: as in ``jpmap_fast.restore``.
        """
        sigma = self.sigma if sigma is None else sigma
        operator = unbound(physics)
        if not isinstance(operator, Operator) and isinstance(physics, nn.Module):
            y, operator, sigma = self._translation(y, physics).problem(y, physics, sigma)
        return restore(
            y,
            operator,
            self.prior,
            sigma,
            method=self.method,
            residual=self.residual,
            estimate=self.estimate,
            generator=self.generator,
            record=record,
            chunk_size=self.chunk_size,
        )

    def _translation(self, y: Any, physics: nn.Module) -> Translation:
        from jpmap_fast.deepinv.snapshot import Signature
        from jpmap_fast.deepinv.translation import (
            Translation,
            count_of,
            image_shape_of,
            translate,
        )

        batch = count_of(y)
        known = self._known.get(physics)
        if known is not None and known[0].matches(physics):
            fits = self.prior.image_shape is not None or known[1].layout.fits(y)
            if fits and known[1].operator.batch in (None, 1, batch):
                return known[1]
        shape = self.prior.image_shape or image_shape_of(physics, y)
        made = translate(physics, shape, batch)
        # In the prior's precision once, so that factorisations are made once.
        parameters = self.prior.parameters() if isinstance(self.prior, nn.Module) else iter(())
        like = next(iter(parameters), None)
        dtype = None if like is None else like.dtype
        made = Translation(made.operator.to(dtype=dtype).bind(shape).operator, made.layout)
        self._known[physics] = (Signature(physics), made)
        return made

    def __getstate__(self) -> dict[str, Any]:
        # Copies begin without what was made for the physics of the original.
        return {name: value for name, value in self.__dict__.items() if name != "_known"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_known": WeakKeyDictionary()})


def _metrics(result: Result, x: Tensor, x_gt: Tensor | None) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    if result.history is not None:
        for name, rows in (("cost", result.history.objective), ("gap", result.history.gap)):
            found[name] = [column[~column.isnan()].tolist() for column in rows.T]
    if x_gt is not None:
        found["psnr"] = [[value] for value in psnr(x, x_gt.to(x.device)).tolist()]
    return found
