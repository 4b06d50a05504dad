"""DeepInverse, imported when something needs it."""

from __future__ import annotations

import importlib
from typing import Any


def deepinv_module(name: str, owner: str) -> Any:
    """The module ``deepinv.<name>``.

    Raises:
        ImportError: deepinv is not installed; says what ``owner`` needs and how to get it.
    """
    try:
        return importlib.import_module(f"deepinv.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "deepinv":
            raise  # an installation of deepinv that is broken says what it lacks
        raise ImportError(
            f"{owner} needs deepinv; install the extra: pip install 'jpmap_fast[experiments]'"
        ) from error
