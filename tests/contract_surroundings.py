"""States of torch that somebody may have left on around a call, and a look at all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

Surrounding = Callable[[], AbstractContextManager[Any]]


@contextmanager
def default_device(name: str) -> Iterator[None]:
    """As ``torch.set_default_device``."""
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """As ``torch.set_default_dtype``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def gradients(mode: bool) -> Iterator[None]:
    """As ``torch.set_grad_enabled`` called as a function."""
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(mode)
    try:
        yield
    finally:
        torch.set_grad_enabled(before)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """As ``torch.set_float32_matmul_precision``."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def deterministic() -> Iterator[None]:
    """As ``torch.use_deterministic_algorithms``: ``torch.empty`` is filled with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def all_of_them() -> Iterator[None]:
    """Several at once."""
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        with default_device("meta"), default_dtype(torch.float64):
            yield


SURROUNDINGS: dict[str, Surrounding] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference-mode": torch.inference_mode,
    "meta": lambda: default_device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "no-gradients": lambda: gradients(False),
    "deterministic": deterministic,
    "medium-precision": lambda: matmul_precision("medium"),
    "all": all_of_them,
}
if torch.cuda.is_available():
    SURROUNDINGS["autocast-cuda"] = lambda: torch.autocast("cuda", torch.bfloat16)
    SURROUNDINGS["cuda"] = lambda: default_device("cuda")


def state() -> dict[str, Any]:
    """What a call may not change."""
    return {
        "autocast": [torch.is_autocast_enabled(name) for name in ("cpu", "cuda")],
        "autocast type": [torch.get_autocast_dtype(name) for name in ("cpu", "cuda")],
        "cache": torch.is_autocast_cache_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "device": torch.get_default_device(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
    }
