"""Denoisers by name or path."""

from __future__ import annotations

from pathlib import Path

import torch

from jpmap_fast.denoisers.lipschitz import LipschitzDenoiser
from jpmap_fast.denoisers.weights import read_denoiser

BUNDLED = Path(__file__).parent / "bundled"


def available_denoisers() -> list[str]:
    """Names of the denoisers that ship with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


@torch.inference_mode(False)
def load_denoiser(
    name_or_path: str | Path, device: torch.device | str | None = None
) -> LipschitzDenoiser:
    """A trained denoiser, ready for ``PnPADMM``, in float32.

    Args:
        name_or_path: the name of a bundled denoiser (``available_denoisers()``), or a safetensors
            file written by ``save_denoiser``.
        device: where to; the CPU by default.

    Raises:
        ValueError: unknown name (the known ones are listed), or a damaged or foreign file.
        FileNotFoundError: a path with nothing there.
    """
    if str(name_or_path) in available_denoisers():
        return read_denoiser(BUNDLED / f"{name_or_path}.safetensors").to(device=device)
    path = Path(name_or_path)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return read_denoiser(path).to(device=device)
    raise ValueError(
        f"unknown denoiser {str(name_or_path)!r}; known: "
        f"{', '.join(available_denoisers()) or 'none'}; or give the path of a weights file"
    )
