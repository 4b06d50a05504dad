"""Methods of their names and of settings that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from jpmap_fast._messages import FieldError

Method = TypeVar("Method")


def made(
    known: Mapping[str, type[Method]],
    field: str,
    name: str,
    settings: Mapping[str, Any],
    which: str = "",
) -> Method:
    """A method with its settings.

    Args:
        known: methods by name.
        field: of the request that names it.
        name: given.
        settings: of the method, by name.
        which: words for those that are known, such as " for the mean".

    Raises:
        ValueError, TypeError: no such method or setting, or a value out of its range.
    """
    if name not in known:
        values = {"names": ", ".join(known), "got": name}
        raise FieldError(f"{{{field}}}: expected one of {{names}}{which}, got {{got!r}}", values)
    found = known[name]
    own = [setting.name for setting in fields(found)]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in own:
            raise ValueError(
                f"settings: expected settings of {name}, {', '.join(own)}; got {setting!r}"
            )
    return found(**settings)


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that JSON can hold and that serve any number of images.

    Raises:
        TypeError: others.
    """
    found = {}
    for name, value in settings.items():
        plain = value.item() if getattr(value, "ndim", None) == 0 else value
        if not isinstance(plain, (bool, int, float, str, type(None))):
            raise TypeError(
                f"settings: expected a number, a text or a boolean as {name}, got {value!r}"
            )
        found[name] = plain
    return found
