"""CPU kernels under pytest-benchmark, so that a regression shows: ``make bench``."""

from __future__ import annotations

import pytest
import torch
from bench_kernels import cases

from jpmap_fast import kernels


@pytest.mark.parametrize("batch, pixels", [(1, 784), (1024, 784), (64, 12_288)])
@pytest.mark.parametrize("name", sorted(cases(1, 4, torch.device("cpu"))))
def test_kernel(benchmark, name, batch, pixels):
    """One operator at one size, timed by pytest-benchmark."""
    torch.manual_seed(0)
    _, arguments = cases(batch, pixels, torch.device("cpu"))[name]
    benchmark(getattr(kernels, name), *arguments)
