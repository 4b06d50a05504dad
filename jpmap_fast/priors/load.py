"""Priors by name or path."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from jpmap_fast._checkpoint import read_checkpoint
from jpmap_fast._hub import on_hub
from jpmap_fast._surroundings import steady
from jpmap_fast._weights_file import holds_weights, weights_path
from jpmap_fast.priors.original import read_original, read_pickled_tensors
from jpmap_fast.priors.weights import Network, build, read_prior

BUNDLED = Path(__file__).parent / "bundled"


def available_priors() -> list[str]:
    """Names of the priors that ship with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


@cache
def bundled_prior(name: str) -> Network:
    """A prior that ships with the package, read once; whoever is given it must not change it."""
    return load_prior(name)


@steady
def load_prior(
    name_or_path: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    """A trained prior, ready for ``restore``.

    Args:
        name_or_path: the name of a bundled prior ("mnist", "mnist-two-stage", "fashion", "faces");
            a safetensors file written by ``save_prior`` or ``jpmap-fast train``, or a folder that
            holds one; the same on the Hugging Face hub, as "hf://owner/name",
            "hf://owner/name@revision" or "hf://owner/name@revision/file.safetensors" (extra
            ``hub``); a checkpoint of a training run; or a folder of the original research code
            (``model`` and ``training_args.json``).
        device: where to; the CPU by default.
        dtype: precision; float32 by default.

    Raises:
        ValueError: unknown name (the known ones are listed), a damaged or foreign file, or several
            to choose from.
        FileNotFoundError: a path with nothing there, on the hub too. Pickles are read without
            running their code, and none from the hub.
        ImportError: huggingface_hub is not installed. ConnectionError: the hub cannot be reached,
            and the file is not in the cache.

    A name of the hub that does not say the commit and the file warns with the name that does, see
    ``priors.pinned_name``.
    """
    try:
        prior = _read(name_or_path)
    except (ValueError, FileNotFoundError, ConnectionError, ImportError):
        raise
    except Exception as error:  # torch and JSON have many kinds for a damaged file
        raise ValueError(
            f"{name_or_path}: not readable weights ({type(error).__name__}: {error})"
        ) from error
    return prior.to(device=device, dtype=dtype)


def _read(name_or_path: str | Path) -> Network:
    if str(name_or_path) in available_priors():
        return read_prior(BUNDLED / f"{name_or_path}.safetensors")
    path = Path(name_or_path)
    if on_hub(name_or_path) or holds_weights(path):
        return read_prior(weights_path(name_or_path))
    if path.is_dir():
        return read_original(path)
    if path.is_file():
        return _read_checkpoint(path) if _is_torch_file(path) else read_prior(path)
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"{path}: no such weights file or folder")
    raise ValueError(
        f"unknown prior {str(name_or_path)!r}; known: {', '.join(available_priors())}; "
        "or give the path of a weights file, or hf://owner/name"
    )


def _is_torch_file(path: Path) -> bool:
    """Whether a file is a zip archive, as torch.save writes, or a bare pickle."""
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the length of its header, which may look like either.
    return head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80")


def _read_checkpoint(path: Path) -> Network:
    try:
        saved = read_checkpoint(path)
    except ValueError:
        read_pickled_tensors(path)  # says so if the file is damaged or holds code
        raise
    best = saved["best"][0] or saved["model"]
    return build(saved["network"], saved["architecture"], best, str(path))
