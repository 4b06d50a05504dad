"""``jpmap-fast app``."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from jpmap_fast.cli._common import told_in_one_line


def app(
    host: Annotated[
        str, typer.Option(help="Address to listen at; by default this machine alone is served.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 7860,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    megabytes: Annotated[int, typer.Option(help="Of a file that is taken.")] = 64,
    megapixels: Annotated[
        float, typer.Option(help="Of a picture, before and after its restoration.")
    ] = 16,
    waiting: Annotated[int, typer.Option(help="Requests that may wait for the one at work.")] = 16,
    seconds: Annotated[float, typer.Option(help="Of a restoration, which is given up then.")] = 600,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Open a page in the browser: drop a picture, say what happened to it, see it restored.

    It shows the picture before and after, where the restoration is unsure, and the same request as
    a command line and in Python. Nothing leaves this machine. Whoever reaches another --host may
    restore pictures here; no file of the machine can be read. Needs gradio, the extra app.
    """
    with told_in_one_line():
        from jpmap_fast.app.page import serve
        from jpmap_fast.app.settings import PageSettings

        def told(address: str) -> None:
            typer.echo(f"The page is at {address}; Ctrl-C ends it.")
            if browser:
                webbrowser.open(address)

        with TemporaryDirectory(prefix="jpmap-fast-") as folder:
            settings = PageSettings(
                folder=Path(folder),
                host=host,
                port=port,
                device=device,
                megabytes=megabytes,
                megapixels=megapixels,
                waiting=waiting,
                seconds=seconds,
            )
            if not settings.is_local:
                typer.echo(f"Note: whoever reaches {host} may restore pictures here.", err=True)
            try:
                serve(settings, told)
            except KeyboardInterrupt:
                typer.echo("")
