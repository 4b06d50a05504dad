"""Operators of other libraries: which are taken, and what turns them into operators.

Neither a library nor what translates for it is imported before one of its operators comes.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Where a library keeps the class of its operators: what translates them.
_TRANSLATORS: dict[tuple[str, str], str] = {}


def register_translator(module: str, kind: str, translator: str) -> None:
    """Take objects of class ``kind`` of the module ``module`` as operators.

    Args:
        module: of the other library, by its full name.
        kind: the class in it.
        translator: full name of a module here with ``translate(operator, image_shape, batch)``,
            ``count_of(y)`` and ``image_shape_of(operator, y)``, those of
            ``jpmap_fast.deepinv.translation``.
    """
    _TRANSLATORS[module, kind] = translator


def translator_of(operator: Any) -> Any:
    """The module that translates this object; None for one of no library that is taken."""
    for (name, kind), translator in _TRANSLATORS.items():
        module = sys.modules.get(name)  # not imported, there can be no object of it
        if module is not None and isinstance(operator, getattr(module, kind)):
            return importlib.import_module(translator)
    return None
