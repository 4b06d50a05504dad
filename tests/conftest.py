"""Fixtures and marks every test file shares."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

CUDA = torch.cuda.is_available()


def pytest_collection_modifyitems(items):
    """Tests marked cuda are skipped, with the reason, where there is no GPU."""
    if CUDA:
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, torch finds none")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Both devices, one after the other."""
    return torch.device(request.param)


@pytest.fixture
def quiet():
    """DeepInverse warns of compositions, 1 x 1 kernels and its own deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def reference_folder():
    """The folder of cases restored by the original research code, where there is one."""
    folder = os.environ.get("JPMAP_REFERENCE")
    if not folder:
        pytest.skip("needs the folder of reference cases, named by JPMAP_REFERENCE")
    return Path(folder)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same state of torch's generator."""
    torch.manual_seed(0)
