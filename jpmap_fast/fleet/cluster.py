"""A Ray cluster for the time of a run, and workers on it."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jpmap_fast._messages import FieldError
from jpmap_fast.fleet.settings import FleetSettings
from jpmap_fast.fleet.worker import Errand, Found, Picture, Worker

# Seconds until somebody answers at the address of a cluster.
CONNECT = 10


@dataclass(frozen=True)
class Pass:
    """How often, and how, workers are asked.

    Attributes:
        tries: workers that may end over some pictures until these are given up.
        waiting: calls at a worker, all of which are lost with it. With two it has its next pictures
            at hand when it is done.
    """

    tries: int
    waiting: int


# What is missing after the first has ended workers, or was with what has: it is alone in the last.
FIRST, LAST = Pass(tries=4, waiting=2), Pass(tries=2, waiting=1)


@contextmanager
def joined(settings: FleetSettings) -> Iterator[None]:
    """A Ray cluster is there: the one named, or one of this machine's own.

    Raises:
        ImportError: Ray Data is not installed. OSError: no cluster answers there.
    """
    _check_installed()
    # Ray tells its makers how it is used unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Nor warns of how Ray Data makes its workers.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():  # a program's own, which goes on with it
        yield
        return
    own: dict[str, Any] = {"address": settings.ray}
    if settings.ray == "local":
        # One processor for Ray's own actors.
        cpus = settings.workers * settings.worker_cpus + 1
        own |= {"num_cpus": cpus, "include_dashboard": False}
    elif settings.ray != "auto":
        _check_answers(settings.ray)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OSError(f"no Ray cluster to be had at {settings.ray} ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def gpus_of(settings: FleetSettings, device: str) -> float:
    """GPUs of a worker."""
    import ray

    if settings.worker_gpus is not None:
        return settings.worker_gpus
    if device == "auto":
        return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    return 1 if device.startswith("cuda") else 0


def check_room(settings: FleetSettings, gpus: float) -> None:
    """Raise ValueError where no machine of the cluster has room for a worker, which would wait."""
    import ray

    wanted = {"CPU": settings.worker_cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(k, 0) >= v for k, v in wanted.items()) for node in nodes):
        most = [max((node.get(k, 0) for node in nodes), default=0) for k in wanted]
        raise FieldError(
            "{ray}: expected a machine with {cpus} CPUs and {gpus:g} GPUs for a worker, got at "
            "most {most}; see {worker_cpus}, {worker_gpus} and {device}",
            {
                "cpus": settings.worker_cpus,
                "gpus": gpus,
                "most": f"{most[0]:g} CPUs and {most[1]:g} GPUs on one machine",
            },
        )


def restored(
    errand: Errand,
    batches: Sequence[Sequence[Picture]],
    settings: FleetSettings,
    gpus: float,
    how: Pass,
) -> Generator[Found, None, None]:
    """What became of batches, as workers are done with them; those given up are missing."""
    import ray.data
    from ray.data.block import BlockAccessor

    rows = [{"pictures": pickle.dumps(list(batch))} for batch in batches]
    # A block for each: what is done is then given back at once.
    data: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
    data.context.max_errored_blocks = -1
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    with warnings.catch_warnings():
        # The last two: there is no other way to bound them, and releases without them are excluded.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        data = data.map(
            Worker,
            fn_constructor_kwargs={"errand": errand},
            compute=ray.data.ActorPoolStrategy(
                size=settings.workers, max_tasks_in_flight_per_actor=how.waiting
            ),
            num_cpus=settings.worker_cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=how.tries - 1,
        )
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # tracebacks of workers that end
    # Not by rows or batches: these are read ahead by threads that go on when a run is interrupted,
    # and the process ends where the cluster is no more then.
    bundles = iter(data.iter_internal_ref_bundles())
    try:
        for bundle in bundles:
            for block in map(ray.get, bundle.block_refs):
                for content in BlockAccessor.for_block(block).to_arrow()["found"].to_pylist():
                    yield pickle.loads(content)
    finally:
        del bundles  # ends what hands out batches
        logger.setLevel(level)


def _check_answers(address: str) -> None:
    """Raise OSError where nobody listens: Ray would ask for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise OSError(
            f"no Ray cluster answers at {address} ({error}); expected HOST:PORT as ray start says"
        ) from error


def _check_installed() -> None:
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "a fleet needs Ray Data: pip install 'jpmap-fast[ray]', or pip install 'ray[data]' "
            f"({error})"
        ) from error
