"""The command line: ``jpmap-fast restore | sample | app | serve | train | info | demo | ...``.

torch and matplotlib are imported inside the commands, where they are needed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jpmap_fast.cli import demo, info, page, reproduce, restore, sample, service, train

app = typer.Typer(
    name="jpmap-fast",
    no_args_is_help=True,
    add_completion=False,
    # Plain text: an error stays one line that can be searched for.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("restore")(restore.restore)
app.command("sample")(sample.sample)
app.command("train")(train.train)
app.command("info")(info.info)
app.command("app")(page.app)
app.command("serve")(service.serve)
app.command("demo")(demo.demo)
app.command("reproduce")(reproduce.reproduce)


def _version(asked: bool) -> None:
    if asked:
        from jpmap_fast import __version__

        typer.echo(f"jpmap-fast {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Restore images from incomplete or noisy measurements with a generative prior."""


def main() -> None:
    """Entry point of the command ``jpmap-fast``."""
    app(prog_name="jpmap-fast")
