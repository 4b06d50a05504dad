"""Matrix products whose rows do not depend on how many rows there are.

A BLAS library picks its kernel by the shape of the product, and another kernel sums in another
order: an image restored alone would differ in its last bits from the same image in a batch, and
its trajectory with it. On the CPU the products of the solvers therefore go through the package's
own ``linear`` operator, in which every element is one chain of multiply-adds.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jpmap_fast._surroundings import full_precision
from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.layers import has_layer, layer, linear, pack_linear


class RowProduct:
    """x [..., in] -> x W^T + b [..., out], for one W [out, in] and b [out] or None."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight.contiguous()
        self.bias = bias
        self._restricted: tuple[Tensor, RowProduct] | None = None

    @cached_property
    def packed(self) -> Tensor:
        """W in the layout of ``kernels.linear``."""
        return pack_linear(self.weight)

    @cached_property
    def padded_bias(self) -> Tensor:
        """b, or zeros, padded with zeros to the panels of ``packed``."""
        outputs = self.weight.shape[0]
        bias = self.weight.new_zeros(outputs) if self.bias is None else self.bias
        panels, _, width = self.packed.shape
        return F.pad(bias, (0, panels * width - outputs)).contiguous()

    @cached_property
    def rows(self) -> Tensor:
        """W with outputs and inputs padded with zeros to multiples of 32."""
        outputs, inputs = self.weight.shape
        return F.pad(self.weight, (0, -inputs % 32, 0, -outputs % 32)).contiguous()

    @cached_property
    def columns(self) -> Tensor:
        """The transpose of ``rows``."""
        return self.rows.T.contiguous()

    @cached_property
    def first_rows(self) -> Tensor:
        """W with outputs alone padded with zeros to a multiple of 32."""
        return F.pad(self.weight, (0, 0, 0, -self.weight.shape[0] % 32)).contiguous()

    @cached_property
    def first_columns(self) -> Tensor:
        """The transpose of ``first_rows``."""
        return self.first_rows.T.contiguous()

    @cached_property
    def adjoint(self) -> RowProduct:
        """The product by W^T, x [..., out] -> x W, without a bias."""
        return RowProduct(self.weight.T)

    def __call__(self, x: Tensor) -> Tensor:
        """The rows x [..., in] as x W^T + b [..., out]."""
        return self._apply(x, self.bias)

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """f(x W^T + b) [..., out] of the rows x [..., in], for f out of ``ACTIVATIONS``."""
        outputs = self.weight.shape[0]
        flat = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled() and x.requires_grad:
            return ACTIVATIONS[activation].value(self(x))
        if x.device.type == "cpu":
            out = linear(flat, self.packed, self.bias, outputs, activation)
        elif has_layer(flat):
            out = layer(flat, self.weight, self.bias, activation)
        else:
            return ACTIVATIONS[activation].value(self(x))
        return out.reshape(*x.shape[:-1], outputs)

    def _apply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        outputs = self.weight.shape[0]
        flat = x.reshape(-1, x.shape[-1])
        if x.device.type != "cpu":
            with full_precision():
                product = F.linear(flat, self.weight, bias)
        elif torch.is_grad_enabled() and flat.requires_grad:
            product = _Differentiable.apply(flat, self, bias)
        else:
            product = linear(flat, self.packed, bias, outputs)
        return product.reshape(*x.shape[:-1], outputs)

    @property
    def dense(self) -> tuple[RowProduct, None]:
        """This product, and no diagonal in front of it: it is a matrix already."""
        return self, None

    def select(self, index: Tensor | slice) -> RowProduct:
        """The product of the images ``index``: one W serves them all."""
        return self

    def without_bias(self, x: Tensor) -> Tensor:
        """The rows x [..., in] as x W^T."""
        return self._apply(x, None)

    def add_bias(self, rows: Tensor) -> Tensor:
        """The rows [..., out] plus b."""
        return rows if self.bias is None else rows + self.bias

    def restrict(self, rows: Tensor) -> RowProduct:
        """The outputs ``rows`` alone; the last such product is kept, with its packed weights."""
        # Read once: another thread may put its own rows there at any time.
        kept = self._restricted
        if kept is None or not (kept[0] is rows or torch.equal(kept[0], rows)):
            kept = self._restricted = (rows, self._restrict(rows))
        return kept[1]

    def _restrict(self, rows: Tensor) -> RowProduct:
        return RowProduct(self.weight[rows], None if self.bias is None else self.bias[rows])

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> RowProduct:
        """The same product elsewhere."""
        bias = None if self.bias is None else self.bias.to(device=device, dtype=dtype)
        return RowProduct(self.weight.to(device=device, dtype=dtype), bias)


class _Differentiable(torch.autograd.Function):
    """The product of rows that need a gradient, in x alone: its gradient is the product by W^T."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, product: RowProduct, bias: Tensor | None) -> Tensor:
        ctx.product = product
        return product._apply(rows.detach(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.product.adjoint.without_bias(gradient), None, None


def batched_product(left: Tensor, right: Tensor) -> Tensor:
    """Left [B, i, j] times right [B, j, l]; a batch of one takes the batched kernel as well."""
    if left.shape[0] == 1 and left.device.type == "cpu":
        return torch.bmm(left.expand(2, -1, -1), right.expand(2, -1, -1))[:1]
    return torch.bmm(left, right)


def weighted_product(rows: Tensor, weight: Tensor) -> Tensor:
    """T diag(w) T^T [B, k, k] of rows T [B or 1, k, n] and weights [B, n] or [B, 1].

    In bfloat16 the sums are float32, and the result is.
    """
    weighted = rows * weight.to(rows.dtype)[:, None]
    right = rows.expand(weighted.shape[0], -1, -1).mT
    if rows.dtype == torch.bfloat16:
        return torch.bmm(weighted, right, out_dtype=torch.float32)
    return batched_product(weighted, right)


def solved_by(factor: Tensor, right: Tensor) -> Tensor:
    """(L L^T)^{-1} R [..., k, m] of lower factors L [..., k, k] and R [..., k, m].

    Triangular solves rather than cholesky_solve, which allocates while a graph is captured.
    """
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)
