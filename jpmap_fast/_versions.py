"""Versions and devices that a result depends on."""

from __future__ import annotations

import platform

import numpy as np
import torch


def versions() -> dict[str, str]:
    """Versions of this package, torch, NumPy and Python, by name."""
    from jpmap_fast import __version__

    return {
        "jpmap_fast": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def device_name(device: str | torch.device) -> str:
    """What computes, by torch's names for it, without naming a machine."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU ({capability}), {threads} thread{'' if threads == 1 else 's'}"
