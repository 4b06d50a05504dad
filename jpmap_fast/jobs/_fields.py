"""Dataclasses as JSON: with a version, and nothing in them that nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from jpmap_fast._messages import typed

VERSION = 1


def hash_of(request: Any) -> int:
    """Of all fields: requests are equal where those are, and a dictionary's order is none."""
    values = (getattr(request, own.name) for own in fields(request))
    return hash(tuple(frozenset(v.items()) if isinstance(v, dict) else v for v in values))


def check_named(name: str, value: Any) -> None:
    """Raise TypeError unless a field is a dictionary with text as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}: expected a dictionary by name, got {value!r}")


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
