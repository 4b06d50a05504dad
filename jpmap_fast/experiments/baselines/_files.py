"""Safetensors files of the baselines: tensors, and what they are in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from jpmap_fast._weights_file import read_weights

BUNDLED = Path(__file__).parent / "bundled"


def available(kind: str) -> list[str]:
    """Names of the bundled files ``kind``-NAME."""
    return sorted(
        path.stem.removeprefix(f"{kind}-") for path in BUNDLED.glob(f"{kind}-*.safetensors")
    )


def located(kind: str, name_or_path: str | Path) -> Path:
    """The file of a bundled name or of a path.

    Raises:
        FileNotFoundError: a path with nothing there. ValueError: an unknown name.
    """
    if str(name_or_path) in available(kind):
        return BUNDLED / f"{kind}-{name_or_path}.safetensors"
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"{path}: no such file")
    raise ValueError(
        f"unknown {kind} {str(name_or_path)!r}; known: {', '.join(available(kind)) or 'none'}; "
        "or give the path of a file"
    )


def write(path: str | Path, format_: str, tensors: dict[str, Tensor], **header: Any) -> None:
    """Tensors and the header's values, as JSON."""
    from safetensors.torch import save_file

    texts = {name: json.dumps(value) for name, value in header.items()}
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(content, str(path), metadata={"format": format_, **texts})


def read(path: Path, format_: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write`` wrote.

    Raises:
        ValueError: damaged, or of another kind.
    """
    header, tensors = read_weights(path, format_, "a baseline's model")
    try:
        values = {name: json.loads(text) for name, text in header.items() if name != "format"}
    except ValueError as error:
        raise ValueError(f"{path}: damaged header ({error})") from error
    return tensors, values
