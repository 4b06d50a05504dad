"""Versions that a result depends on."""

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
