"""``jpmap-fast serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from jpmap_fast.cli._common import told_in_one_line


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; by default this machine alone is served.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8000,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a bundled prior that may be asked for; by default all. Again for more."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: each replica has a GPU of its own.")
    ] = "cpu",
    replicas: Annotated[int, typer.Option(help="Processes that restore.")] = 1,
    threads: Annotated[int, typer.Option(help="Of each replica.")] = 1,
    batch: Annotated[int, typer.Option(help="Pictures that are restored together at most.")] = 32,
    accepted: Annotated[
        int, typer.Option(help="Requests at work or in line; more are turned away with 503.")
    ] = 256,
    megabytes: Annotated[int, typer.Option(help="Of one request.")] = 16,
    megapixels: Annotated[
        float, typer.Option(help="Of a picture, before and after its restoration.")
    ] = 4,
    seconds: Annotated[float, typer.Option(help="From acceptance to an answer, else 504.")] = 120,
    tries: Annotated[
        int, typer.Option(help="At replicas that end while they work on a request.")
    ] = 5,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster to join; by default one is started.")
    ] = None,
) -> None:
    """Restore pictures over HTTP, by replicas of Ray Serve that batch what is alike.

    POST /restore takes a form with the JSON of a request and a picture file, and answers the
    restored one; /health, /ready and /metrics say how the service is, /openapi.json what it takes.
    It ends on Ctrl-C or SIGTERM, once what it has accepted is answered. Needs the extra serve.
    """
    with told_in_one_line():
        from jpmap_fast.serve.run import serve as run
        from jpmap_fast.serve.settings import ServiceSettings

        settings = ServiceSettings(
            host=host,
            port=port,
            priors=tuple(prior or ()),
            device=device,
            replicas=replicas,
            threads=threads,
            batch=batch,
            accepted=accepted,
            megabytes=megabytes,
            megapixels=megapixels,
            seconds=seconds,
            tries=tries,
            address=address,
        )
        run(settings, lambda found: typer.echo(f"The service is at {found}; Ctrl-C ends it."))
