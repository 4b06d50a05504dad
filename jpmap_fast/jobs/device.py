"""Where to compute."""

from __future__ import annotations

import torch

from jpmap_fast._messages import FieldError
from jpmap_fast.kernels._extension import build_info


def pick_device(name: str, kernels: bool = True) -> torch.device:
    """A device of its name; "auto" is CUDA where it can be used, else the CPU.

    Args:
        name: auto, cpu, cuda or cuda:1.
        kernels: whether the work needs the compiled kernels, as restoring does and training does
            not.

    Raises:
        ValueError: no such device, or one that this machine or this build cannot use.
    """
    build, seen = build_info(), torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if seen and (build["cuda_loaded"] or not kernels) else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _unknown(name) from None
    if device.type not in ("cpu", "cuda"):
        raise _unknown(name)
    if device.type == "cuda":
        if not seen:
            raise FieldError("{device} cuda: torch sees no CUDA device; use {device} cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            values = {"name": name, "count": torch.cuda.device_count()}
            raise FieldError("{device} {name}: torch sees {count} CUDA device(s)", values)
        if kernels and build["cuda"] and not build["cuda_loaded"]:
            raise FieldError(
                "{device} cuda: the CUDA kernels do not load ({problem}); use {device} cpu",
                {"problem": build["cuda_problem"]},
            )
        if kernels and not build["cuda"]:
            raise FieldError(
                "{device} cuda: this build has no CUDA kernels; reinstall with JPMAP_CUDA=ON, "
                "or use {device} cpu"
            )
    return device


def _unknown(name: str) -> FieldError:
    return FieldError("{device}: expected auto, cpu or cuda, got {name!r}", {"name": name})
