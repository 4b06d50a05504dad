"""Restoration as a reconstructor of DeepInverse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jpmap_fast._metrics import psnr
from jpmap_fast._prepared import prior_of
from jpmap_fast._restore import method_of, restore
from jpmap_fast._result import Result
from jpmap_fast._validate import choice
from jpmap_fast.algorithms import Algorithm
from jpmap_fast.deepinv.known import KnowsPhysics, base_class
from jpmap_fast.priors.base import Prior
from jpmap_fast.residuals import Residual
from jpmap_fast.sampling import SamplingMethod

_Base: Any = base_class("deepinv.models", "Reconstructor")


class Reconstructor(_Base, KnowsPhysics):  # type: ignore[misc]
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

    __getstate__ = KnowsPhysics.__getstate__  # in place of that of nn.Module

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
        y, operator, sigma = self._problem(y, physics, sigma)
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


def _metrics(result: Result, x: Tensor, x_gt: Tensor | None) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    if result.history is not None:
        for name, rows in (("cost", result.history.objective), ("gap", result.history.gap)):
            found[name] = [column[~column.isnan()].tolist() for column in rows.T]
    if x_gt is not None:
        found["psnr"] = [[value] for value in psnr(x, x_gt.to(x.device)).tolist()]
    return found
