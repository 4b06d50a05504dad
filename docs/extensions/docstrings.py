"""What griffe must know to read this package: angles that are no HTML."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Docstrings as Markdown."""

    def on_object(self, *, obj: griffe.Object, **settings: Any) -> None:
        """Escape what Markdown would take for HTML or for a quotation."""
        if obj.docstring is not None:
            lines = obj.docstring.value.splitlines()
            obj.docstring.value = "\n".join(map(_escaped, lines))

    def on_attribute_instance(self, *, attr: griffe.Attribute, **settings: Any) -> None:
        """What a setting of an algorithm is by default, in place of all that is declared of it."""
        value = attr.value
        if isinstance(value, griffe.ExprCall) and str(value.function) == "setting":
            given = [a for a in value.arguments if not isinstance(a, griffe.ExprKeyword)]
            attr.value = given[0] if given else None


def _escaped(line: str) -> str:
    """<A u, v> and "count: >= 1" as text; code as it is, and Example the section Examples."""
    if line.strip() == "Example:":
        return line.replace("Example:", "Examples:")
    if line.lstrip().startswith((">>>", "...")):
        return line
    pieces = re.split(r"(`+[^`]*`+)", line)
    for position in range(0, len(pieces), 2):
        text = re.sub(r"<(?=[A-Za-z])", "&lt;", pieces[position])
        pieces[position] = re.sub(r"(?<=: )>(?==| )", "&gt;", text)
    return "".join(pieces)
