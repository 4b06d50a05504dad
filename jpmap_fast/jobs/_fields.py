"""Dataclasses as JSON: with a version, and nothing in them that nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from jpmap_fast._messages import typed

VERSION = 1


def versioned(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content behind the version of its form."""
    return {"version": VERSION, **content}


def given_fields(owner: type, content: Any) -> dict[str, Any]:
    """The fields of a dataclass that ``versioned`` content gives.

    Args:
        owner: the dataclass.
        content: of ``json.loads``.

    Raises:
        ValueError: another version, a field that the class does not have, or one that is missing.
        TypeError: no dictionary with text as keys, or a version that is no integer.
    """
    name = owner.__name__
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise TypeError(f"{name}: expected a dictionary of its fields, got {content!r}")
    version = typed("version", content.get("version", VERSION), int)
    if version != VERSION:
        raise ValueError(
            f"version: expected {name} of version {VERSION}, got {version}; it was made by another "
            "version of jpmap_fast"
        )
    given = {key: value for key, value in content.items() if key != "version"}
    own = {field.name: field for field in fields(owner)}
    for key in given:
        if key not in own:
            raise ValueError(f"{key}: expected fields of {name}, {', '.join(own)}; got {key!r}")
    for key, field in own.items():
        if key not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{key}: expected it among the fields of {name}, got none")
    return given
