"""Fields and their values in words, and in the words and units of whoever gave them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_KINDS = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "the path of a file",
}


class FieldError(ValueError):
    """A field has a value that will not do, or does not go with another one.

    A field has one name in Python and in JSON and another one on a command line. The text names
    fields in braces and is filled in by whoever shows it.

    Args:
        text: such as "{factor}: expected at least 1, got {got}".
        values: what stands in braces and is no field, such as got.

    Example:
        >>> error = FieldError("{factor}: expected at least 1, got {got}", {"got": 0})
        >>> str(error), error.told(lambda name: f"--{name}")
        ('factor: expected at least 1, got 0', '--factor: expected at least 1, got 0')
    """

    def __init__(self, text: str, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(text, values)  # both: it is pickled by them
        self.values = dict(values or {})

    def told(self, name: Callable[[str], str], values: Mapping[str, Any] | None = None) -> str:
        """The text with fields by the names that ``name`` gives them.

        Args:
            name: of a field, the word for it.
            values: in place of those it was made with.
        """
        return str(self.args[0]).format_map(_Words(name, self.values if values is None else values))

    def __str__(self) -> str:
        return self.told(str)


class _Words(dict[str, Any]):
    """Values by their keys, and of any other key the word for a field."""

    def __init__(self, name: Callable[[str], str], values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._name = name

    def __missing__(self, key: str) -> str:
        return self._name(key)


def one_line(message: object) -> str:
    """The text of a message or an exception, on one line."""
    text = " ".join(str(message).split())
    return text or type(message).__name__


def one_of(names: Any) -> str:
    """Names as they stand in a sentence: "a, b or c"."""
    *first, last = [str(name) for name in names]
    return f"{', '.join(first)} or {last}" if first else last


def in_255ths(sigma: float) -> float:
    """A noise level of values in [0, 1] for values in 0..255, without what rounding added."""
    return float(f"{255 * sigma:.12g}")


def typed(name: str, value: Any, kind: type) -> Any:
    """A value that JSON can hold, of one kind: numbers of NumPy as Python's, paths as text.

    Args:
        name: of the field, for the error.
        value: given.
        kind: bool, int, float, str, or Path for a text that is a path.

    Raises:
        TypeError: of another kind.
    """
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if kind in (str, Path) and isinstance(value, (str, Path)):
        return str(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind not in (bool, int, float) or type(value) is not kind:
        raise TypeError(f"{name}: expected {_KINDS[kind]}, got {value!r}")
    return value
