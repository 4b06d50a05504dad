"""The digits of the experiments."""

from __future__ import annotations

from torch import Tensor

from jpmap_fast.data import mnist_test_digits


def digits(number: int) -> Tensor:
    """The first test digits of the package, [number, 1, 28, 28]."""
    return mnist_test_digits(number)[0]
