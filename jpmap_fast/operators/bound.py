"""What a restoration asks of an operator: A for a batch of images of one shape."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._arrays import normal_like
from jpmap_fast._kept import Kept
from jpmap_fast._surroundings import steady
from jpmap_fast.operators import reach
from jpmap_fast.operators.data_term import ClosedForm, DataTerm, LinearSystem, Whitening
from jpmap_fast.operators.draws import of_each, scaled

if TYPE_CHECKING:
    from jpmap_fast.operators.base import Operator

# What a function of the user is asked in: the type of its images and where they are.
Place = tuple[torch.dtype, torch.device]


class BoundOperator(ABC):
    r"""An operator bound to images of one shape, made by ``operator.bind(image_shape, batch)``.

    Made once for a restoration, and kept with what it makes once, such as its data term. Immutable,
    as operators are.

    Attributes:
        operator: A with what it holds written out for such images; of another class than what was
            bound where that has a closed form.
        image_shape: (C, H, W).
        batch: the number of images it is made for, None if any.
    """

    def __init__(
        self, operator: Operator, image_shape: tuple[int, ...], place: Place | None = None
    ) -> None:
        self.operator = operator
        self.image_shape = image_shape
        self.batch = operator.batch
        self._place = place
        self._kept = Kept()

    @abstractmethod
    def _x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``x_update`` of images that fit."""

    @abstractmethod
    def _data_term(self) -> DataTerm:
        """``data_term``, made anew."""

    @property
    def stays_on_device(self) -> bool:
        """Whether ``x_update`` and what is made of ``data_term`` never wait for the device."""
        return True

    @cached_property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of one image's measurements, without the batch dimension."""
        dtype, device = self._place or (torch.get_default_dtype(), self.operator.device)
        like = torch.empty((), dtype=dtype, device=device or "cpu")  # with no number to be written
        return self.operator.measurement_shape(self.image_shape, like)

    @property
    def seen(self) -> Tensor | None:
        """Booleans, where y depends on x at all, [...] or [B, ...]; None for everywhere."""
        return self.operator._seen()

    @property
    def device(self) -> torch.device | None:
        """Where its tensors live, None if it has none."""
        return self.operator.device

    def A(self, x: Tensor) -> Tensor:
        """A x: measurements of images [B, C, H, W]."""
        return self.operator.A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """A^T y: images [B, C, H, W] of measurements."""
        return self.operator.A_adjoint(y)

    def measure(
        self, x: Tensor, sigma: float | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Operator.measure``."""
        return self.operator.measure(x, sigma, generator)

    @steady
    def x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""The exact minimiser of J1 over x, in innovation form.

            x = G + A^T (A A^T + beta sigma^2 I)^{-1} (y - A G)

        Args:
            decoded: G(z) [B, C, H, W].
            y: measurements.
            z: latent codes [B, k]; they enter J1 alone.
            beta: coupling weights [B]; inf gives x = G.
            sigma: noise standard deviations [B].

        Returns:
            x [B, C, H, W], J1(x, z) [B] and the coupling gap ||x - G||^2 [B].

        Raises:
            ValueError: images of another shape or number than bound to.
        """
        self._check_fits(decoded)
        return self._x_update(decoded, y, z, beta, sigma)

    def evaluate(
        self, x: Tensor, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """J1(x, z) [B] and the coupling gap ||x - G||^2 [B] at a given x; see ``x_update``."""
        residual = (y - self.operator.A(x)).flatten(1)
        return kernels.objective(x.flatten(1), decoded.flatten(1), residual, z, beta, sigma)

    def coupling_term(self, beta: Tensor) -> Tensor | LinearSystem:
        """W of J1's coupling term 1/2 (x - G)^T W (x - G): its diagonal [B, 1], or its solves."""
        return beta[:, None]

    def _check_fits(self, decoded: Tensor) -> None:
        """Raise ValueError where images are of another shape or number than bound to."""
        if decoded.shape[1:] != self.image_shape or self.batch not in (None, len(decoded)):
            expected = ["B" if self.batch is None else self.batch, *self.image_shape]
            raise ValueError(
                f"decoded: expected images {expected}, to which {self.operator!r} is bound, got "
                f"{list(decoded.shape)}; bind it to these".replace("'", "")
            )

    @steady
    def data_term(self) -> DataTerm:
        """The data term with the best x put in.

        Nothing in it depends on y, beta or sigma. Made once, but for a kernel to be learned, whose
        gradient goes through it.
        """
        if self.operator._learned:
            return self._data_term()
        return self._kept.get("data term", self._data_term)

    def closed_form(self, y: Tensor) -> ClosedForm | None:
        """The x-updates of measurements y [B, ...] in numbers; None where they are more than that.

        What ``x_update``, ``evaluate`` and ``A_adjoint`` compute is then what these say.
        """
        return None

    @steady
    def sample_x(
        self,
        decoded: Tensor,
        beta: Tensor,
        sigma: Tensor,
        y: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""A draw of x given z and y, independent from image to image,

            p(x | z, y) ~ exp(-||A x - y||^2 / (2 sigma^2) - beta/2 ||x - G||^2),

        the Gaussian of covariance (A^T A / sigma^2 + beta I)^{-1} about the x of ``x_update``: the
        x-update at y + e_1, e_1 ~ N(0, sigma^2 I), and G + e_2, e_2 ~ N(0, I / beta). Exact; to the
        tolerance of the solver where conjugate gradients are. What nobody observed varies as the
        prior says, with variance 1 / beta.

        Args:
            decoded: G(z) [B, C, H, W].
            beta: coupling weights > 0, [B] or [1]; inf gives x = G.
            sigma: noise standard deviations > 0, finite, [B] or [1].
            y: measurements [B, ...], or [1, ...] for B draws of one image.
            generator: source of e_1 and then e_2, on any device.

        Returns:
            x [B, C, H, W].

        Raises:
            ValueError: images of another shape or number than bound to, measurements of another
                shape, one of the others for another number of images; on a CPU also values of beta
                and sigma out of range, which on a GPU are not looked at. TypeError: no tensors.

        Source: G. Papandreou, A. Yuille, "Gaussian sampling by local perturbations", NIPS 2010.
        """
        self._check_fits(decoded)
        y, beta, sigma = of_each(self, decoded, y, beta, sigma)
        noise = (normal_like(like, generator) for like in (y, decoded))
        return self.perturbed_x(decoded, beta, sigma, y, *noise)

    @steady
    def perturbed_x(
        self,
        decoded: Tensor,
        beta: Tensor,
        sigma: Tensor,
        y: Tensor,
        of_y: Tensor,
        of_x: Tensor,
    ) -> Tensor:
        """The x [B, C, H, W] of ``sample_x`` for given standard normal numbers.

        Args:
            decoded, beta, sigma, y: as in ``sample_x``, one for each of B images.
            of_y: in the place of e_1 / sigma, like y.
            of_x: in the place of e_2 sqrt(beta), like decoded.
        """
        measured = y + scaled(of_y, sigma)
        target = decoded + self._deviation(decoded, beta, of_x)
        none = decoded.new_zeros(len(decoded), 1)
        return self._x_update(target, measured, none, beta, sigma)[0]

    def _deviation(self, decoded: Tensor, beta: Tensor, normal: Tensor) -> Tensor:
        """A draw of x - G given z [B, C, H, W], of standard normal numbers of that shape."""
        return scaled(normal, beta.rsqrt())

    @steady
    def variance_x(self, decoded: Tensor, beta: Tensor, sigma: Tensor) -> Tensor | None:
        """var(x | z, y) of each pixel, float64 [B, n], which y does not enter.

        Exact where A is diagonal, a matrix, or small enough to be written as one; None elsewhere.

        Args:
            decoded: G(z) [B, C, H, W]; it matters for a variance by grey value alone.
            beta, sigma: [B].
        """
        term, pixels = self.data_term(), decoded[0].numel()
        share = term.explained(beta, sigma, pixels) if isinstance(term, Whitening) else None
        return None if share is None else (1 - share) / beta.double()[:, None]

    @steady
    def log_determinant(self, beta: Tensor, sigma: Tensor) -> Tensor | None:
        """Log det of the covariance sigma^2 I + A A^T / beta of what is observed, float64 [B].

        None where A is known by its action alone.
        """
        term = self.data_term()
        if not isinstance(term, Whitening):
            return None
        return term.log_determinant(beta, sigma, math.prod(self.measurement_shape))

    @steady
    def check_range(self, y: Tensor, sigma: Tensor) -> bool:
        """Raise ValueError where y cannot be measurements of images with values in [0, 1].

        Values of 0 to 255 or of -1 to 1, and a sigma in other units than y. See
        ``measured_range`` for what is refused. Waits for the device.

        Args:
            y: measurements [B, ...].
            sigma: noise deviations > 0 [B], on the device of y or on the host.

        Returns:
            Whether all of y is finite; an image that is not is no reason to raise.
        """
        return reach.check(self.operator, y, sigma)

    def select(self, index: Tensor) -> BoundOperator:
        """That of the images ``index`` of a batch (an index may repeat)."""
        operator = self.operator.select(index)
        if operator is self.operator:
            return self
        return operator._bound(self.image_shape, self._place)

    def bind(
        self, image_shape: Sequence[int], batch: int | None = None, *, like: Tensor | None = None
    ) -> BoundOperator:
        """See ``Operator.bind``."""
        return self.operator.bind(image_shape, batch, like=like)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> BoundOperator:
        """The same with its tensors on another device or in another precision."""
        place = self._place
        if place is not None:
            place = (dtype or place[0], place[1] if device is None else torch.device(device))
        operator = self.operator.to(device, dtype)._fitted(self.image_shape, self.batch, place)
        return operator._bound(self.image_shape, place)

    def __repr__(self) -> str:
        return f"{self.operator!r} for images {list(self.image_shape)}"


def unbound(operator: Any) -> Any:
    """The operator of a bound one; anything else as it is."""
    return operator.operator if isinstance(operator, BoundOperator) else operator
