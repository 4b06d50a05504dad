"""All that the results of a request depend on, for a run to go on and for its summary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jpmap_fast as jf
from jpmap_fast._arrays import as_tensor
from jpmap_fast._hub import on_hub
from jpmap_fast._weights_file import holds_weights, weights_path
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.operators.registry import all_options

# What no result depends on.
FREE = ("output", "device", "resume", "inputs")


def flat(request: RestoreRequest) -> dict[str, Any]:
    """The request without folders in folders: options and settings stand among the others."""
    return _flat(request, request.options)


def settings(
    request: RestoreRequest, arrays: Mapping[str, Any], own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What another run must have in common with this one to go on with it.

    Files are told by what is in them, and so are arrays beside the request. ``own`` are settings of
    the run that the request has not.
    """
    options = {name: _with_content(value) for name, value in request.options.items()}
    for name, array in arrays.items():
        values = as_tensor(name, array).detach().cpu().contiguous().numpy()
        options[name] = f"{values.dtype} {list(values.shape)}, sha256 {_digest(values.tobytes())}"
    content = {**_flat(request, options), "prior": _prior(request.prior)}
    content |= {name: _with_content(value) for name, value in (own or {}).items()}
    kept = {name: value for name, value in content.items() if name not in FREE}
    return {**kept, "version": jf.__version__}


def _flat(request: RestoreRequest, options: Mapping[str, Any]) -> dict[str, Any]:
    content = request.to_dict()
    for name in ("version", "options", "settings"):
        del content[name]
    known = {option.name: option.default for option in all_options()}
    for owner, own in (
        (request.operator, {**known, **options}),
        (request.method, request.settings),
    ):
        # Another thing may have the name already.
        content |= {f"{owner} {n}" if n in content else n: value for n, value in own.items()}
    return content


def _prior(name: str) -> str:
    """A prior with what tells its weights; a bundled one, or one of a commit, is told by its name.

    Of a folder that is the one file that it is read from.
    """
    if name in jf.available_priors() or on_hub(name):
        return name
    if holds_weights(name):
        name = str(weights_path(name))
    return str(_with_content(name))


def _with_content(value: Any) -> Any:
    """A text that names a file with what tells its content; anything else as it is."""
    if isinstance(value, str) and Path(value).is_file():
        return f"{value}, sha256 {_digest(Path(value).read_bytes())}"
    return value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
