"""The page of the commands, where it has a place for them.

``<!-- commands -->`` becomes what ``--help`` says, ``<!-- operators -->`` a table of the operators.
"""

from __future__ import annotations

from typing import Any

import typer

from jpmap_fast.cli import app
from jpmap_fast.operators.registry import NamedOperator, named_operator, operator_names

COMMANDS, OPERATORS = "<!-- commands -->", "<!-- operators -->"


def on_page_markdown(markdown: str, **settings: Any) -> str:
    """Called by mkdocs for every page."""
    for place, content in ((COMMANDS, _commands), (OPERATORS, _operators)):
        if place in markdown:
            markdown = markdown.replace(place, content())
    return markdown


def _commands() -> str:
    group: Any = typer.main.get_command(app)
    parts = []
    with group.make_context("jpmap-fast", [], resilient_parsing=True) as root:
        for name in group.list_commands(root):
            command = group.get_command(root, name)
            context = type(root)(command, info_name=name, parent=root, max_content_width=96)
            context.terminal_width = 96
            parts.append(f"## {name}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


def _operators() -> str:
    lines = ["| operator | what y is | needs | takes |", "|---|---|---|---|"]
    for operator in map(named_operator, operator_names()):
        needs = [_with_draws(operator, name) for name in operator.required]
        drawn = {option.name for option in operator.options if option.draws}
        more = [
            f"`{option.name}`" + (f" ({option.default})" if option.default is not None else "")
            for option in operator.options
            if option.name not in {*operator.required, *drawn}
        ]
        cells = f"`{operator.name}`", operator.formula, ", ".join(needs), ", ".join(more)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_draws(operator: NamedOperator, name: str) -> str:
    """An option, and what is drawn in its place."""
    drawn = [option.name for option in operator.options if option.draws == name]
    return " or ".join(f"`{option}`" for option in (name, *drawn))
