"""The page of the commands: what ``--help`` says, where the page has ``<!-- commands -->``."""

from __future__ import annotations

from typing import Any

import typer

from jpmap_fast.cli import app

PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, **settings: Any) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(PLACE, _commands()) if PLACE in markdown else markdown


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
