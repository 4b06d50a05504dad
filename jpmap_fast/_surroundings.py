"""What surrounds a call and must not change its result: autocast, inference mode, default device.

All three are states of a thread that reach into every torch function below them. The precision of
float32 products is one of the process: it is held for as long as anybody here computes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

_Function = TypeVar("_Function", bound=Callable[..., Any])

_AUTOCAST_DEVICES = ("cpu", "cuda")


def steady(function: _Function) -> _Function:
    """A function that computes the same in whatever surroundings it is called.

    Autocast and inference mode are off inside, and tensors without a device of their own are made
    on the CPU.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        contexts = _contexts()
        if not contexts:
            return function(*arguments, **options)
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            return function(*arguments, **options)

    return call  # type: ignore[return-value]


def _contexts() -> list[Any]:
    found: list[Any] = []
    if torch.is_inference_mode_enabled():
        found.append(torch.inference_mode(False))
    found += [
        torch.autocast(device, enabled=False)
        for device in _AUTOCAST_DEVICES
        if torch.is_autocast_enabled(device)
    ]
    # A default device is a mode of torch's functions: without any there is nothing to look for,
    # which takes longer than all the rest.
    modes = torch._C._len_torch_function_stack()
    if modes and torch.get_default_device().type != "cpu":
        found.append(torch.device("cpu"))
    return found


_lock = threading.Lock()
_holders = 0
_replaced: list[tuple[Any, str]] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32, not tf32 or bfloat16, while inside.

    Torch lets convolutions on a GPU use tf32 unless told otherwise: 10 bits, too few for an
    objective that decides whether a step is taken. The setting is the process's: the first to come
    makes it, the last to leave takes it back, so that threads do not undo one another's.
    """
    global _holders
    with _lock:
        if _holders == 0:
            # The types that torch declares for these change from release to release.
            backends: Any = torch.backends
            mkldnn = backends.mkldnn
            for setting in (backends.cudnn.conv, backends.cuda.matmul, mkldnn.conv, mkldnn.matmul):
                _replace(setting)
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            while _holders == 0 and _replaced:
                setting, value = _replaced.pop()
                setting.fp32_precision = "none"  # what the setting above it says
                if setting.fp32_precision != value:
                    setting.fp32_precision = value


def _replace(setting: Any) -> None:
    value = setting.fp32_precision
    if value not in ("none", "ieee"):
        _replaced.append((setting, value))
        setting.fp32_precision = "ieee"


_DRAWS = (
    torch.rand,
    torch.randn,
    torch.randint,
    torch.randperm,
    torch.normal,
    torch.bernoulli,
    torch.Tensor.uniform_,
    torch.Tensor.normal_,
    torch.Tensor.random_,
    torch.Tensor.bernoulli_,
)


class DrawingFrom(TorchFunctionMode):
    """Inside, random numbers of this thread that name no generator come from a given one.

    For the initial weights of modules, which draw from the state that all threads share.

    Args:
        generator: of the device that is drawn on. On the CPU, seeded with s, it gives what
            ``torch.manual_seed(s)`` would.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See ``torch.overrides.TorchFunctionMode``."""
        options = dict(kwargs or {})
        if (func in _DRAWS or "generator" in options) and options.get("generator") is None:
            options["generator"] = self._generator
        return func(*args, **options)


class Undrawn(TorchFunctionMode):
    """Inside, this thread draws nothing: tensors that would be filled with random numbers stay.

    For modules whose initial weights are replaced. On the meta device, where there is nothing to
    fill, torch imports its compiler for a normal number.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See ``torch.overrides.TorchFunctionMode``."""
        if func in _DRAWS and func.__name__.endswith("_"):
            return args[0]
        return func(*args, **(kwargs or {}))
