"""A service from its start to its end."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jpmap_fast.serve.front import front
from jpmap_fast.serve.metrics import Metrics
from jpmap_fast.serve.replicas import NAME, Retried, deployed, is_ready
from jpmap_fast.serve.settings import ServiceSettings

# Seconds that requests have to be answered once the service is told to end.
GRACE = 30
# Connections that wait to be taken: those that are turned away are answered as well.
BACKLOG = 2048


def serve(settings: ServiceSettings, told: Callable[[str], None]) -> None:
    """Serve until the process is told to end, then answer what was accepted.

    Args:
        settings: of the service.
        told: called with the address when there is somebody to restore.

    Raises:
        ImportError: Ray Serve is not installed. OSError: the port is taken.
    """
    _check_installed()
    import uvicorn

    metrics = Metrics()
    # Before anything is started: a port that is taken is told at once.
    with _bound(settings) as listening, _replicas(settings) as handle:
        restore = Retried(handle, settings, metrics)
        config = uvicorn.Config(
            front(settings, restore, is_ready, metrics),
            log_level="warning",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=GRACE,
            backlog=BACKLOG,
        )
        listening.listen(BACKLOG)  # from here on nobody is refused
        host, port = listening.getsockname()[:2]
        told(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _bound(settings: ServiceSettings) -> Iterator[socket.socket]:
    """A socket at the address of the service."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((settings.host, settings.port))
        yield found


@contextmanager
def _replicas(settings: ServiceSettings) -> Iterator[Any]:
    """The handle of replicas, on a Ray cluster of this machine's own or one that is there."""
    # Ray tells its makers how it is used unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve as ray_serve

    own: dict[str, Any] = {"address": settings.address}
    if settings.address is None:
        # One processor for Ray's own actors.
        cpus = settings.replicas * settings.threads + 1
        # "local": not one of others that happens to run here.
        own = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    ray.init(logging_level=logging.ERROR, namespace="serve", **own)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        # HTTP is the front's, which no replica takes with it when it ends.
        ray_serve.start(
            proxy_location="Disabled",
            http_options={"location": "NoServer"},
            logging_config={"log_level": "WARNING"},
        )
        yield deployed(settings)
    finally:
        if settings.address is None:
            ray_serve.shutdown()
        else:
            ray_serve.delete(NAME)
        ray.shutdown()


def _check_installed() -> None:
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        from ray import serve  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the service needs Ray Serve: pip install 'jpmap-fast[serve]', or pip install "
            f"'ray[serve]' ({error})"
        ) from error
