"""All that the results of a request depend on, for a run to go on and for its summary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jpmap_fast as jf
from jpmap_fast._arrays import as_tensor
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.operators.registry import all_options

# What no result depends on.
_FREE = ("output", "device", "resume", "inputs")


def flat(request: RestoreRequest) -> dict[str, Any]:
    """The request without folders in folders: options and settings stand among the others."""
    content = request.to_dict()
    for name in ("version", "options", "settings"):
        del content[name]
    content |= {option.name: option.default for option in all_options()} | request.options
    # Settings of a method may have the name of something else.
    own = {f"{request.method} {n}" if n in content else n: v for n, v in request.settings.items()}
    return {**content, **own}


def settings(request: RestoreRequest, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What another run must have in common with this one to go on with it.

    Files are told by what is in them, and so are arrays beside the request.
    """
    kept = {name: value for name, value in flat(request).items() if name not in _FREE}
    for name in (*request.options, "prior"):
        value = kept[name]
        if isinstance(value, str) and Path(value).is_file():
            kept[name] = f"{value}, sha256 {_digest(Path(value).read_bytes())}"
    for name, array in arrays.items():
        values = as_tensor(name, array).detach().cpu().contiguous().numpy()
        kept[name] = f"{values.dtype} {list(values.shape)}, sha256 {_digest(values.tobytes())}"
    return {**kept, "version": jf.__version__}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
