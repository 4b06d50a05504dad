"""Denoisers by name or path."""

from __future__ import annotations

from pathlib import Path

import torch

from jpmap_fast._hub import on_hub
from jpmap_fast._weights_file import weights_path
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
        name_or_path: the name of a bundled denoiser (``available_denoisers()``); a safetensors
            file written by ``save_denoiser``, or a folder that holds one; or such a file on the
            Hugging Face hub, as ``load_prior`` takes it.
        device: where to; the CPU by default.

    Raises:
        ValueError: unknown name (the known ones are listed), a damaged or foreign file, or several
            to choose from.
        FileNotFoundError: a path with nothing there, on the hub too.
        ImportError, ConnectionError: of the hub, as ``load_prior``.
    """
    if str(name_or_path) in available_denoisers():
        return read_denoiser(BUNDLED / f"{name_or_path}.safetensors").to(device=device)
    path = Path(name_or_path)
    if on_hub(name_or_path) or path.exists() or path.suffix or len(path.parts) > 1:
        return read_denoiser(weights_path(name_or_path)).to(device=device)
    raise ValueError(
        f"unknown denoiser {str(name_or_path)!r}; known: "
        f"{', '.join(available_denoisers()) or 'none'}; or give the path of a weights file"
    )
