"""The replicas of a service, as Ray Serve keeps them, and how to reach them."""

from __future__ import annotations

import asyncio
from typing import Any

from jpmap_fast.serve.batcher import Batcher
from jpmap_fast.serve.batches import Batches
from jpmap_fast.serve.metrics import Metrics
from jpmap_fast.serve.settings import ServiceSettings
from jpmap_fast.serve.wire import Answer, Job

NAME = "jpmap_fast"
# Until a job is sent again, doubled at every try: a new replica takes seconds to start.
WAIT = 0.2
# Seconds in which Ray says how its replicas are.
ANSWER = 5


class Replica:
    """A process that restores.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        import torch

        torch.set_num_threads(settings.threads)
        self._batcher = Batcher(Batches(settings))

    async def restore(self, job: Job) -> Answer:
        """The answer to a job."""
        return await self._batcher(job)


def deployed(settings: ServiceSettings) -> Any:
    """The handle of replicas that were started.

    Raises:
        ImportError: Ray Serve is not installed. RuntimeError: they do not start.
    """
    from ray import serve

    gpus = 1 if settings.device.startswith("cuda") else 0
    deployment = serve.deployment(
        Replica,
        name="restorers",
        num_replicas=settings.replicas,
        # Enough for batches of several kinds to grow; the others wait where no replica can lose
        # them.
        max_ongoing_requests=4 * settings.batch,
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": gpus},
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=10,
        logging_config={"log_level": "WARNING"},
    )
    return serve.run(deployment.bind(settings), name=NAME, route_prefix=None)


class Retried:
    """Jobs sent to replicas, again where one ends while it works on them.

    A job changes nothing but what it answers, so it may be done twice.

    Args:
        handle: of the replicas.
        settings: of the service.
        metrics: told of every job that is sent again.
    """

    def __init__(self, handle: Any, settings: ServiceSettings, metrics: Metrics) -> None:
        self._handle, self._tries, self._metrics = handle, settings.tries, metrics
        self._lost = _losses()

    async def __call__(self, job: Job) -> Answer:
        """The answer to a job; 503 where as many replicas ended over it as may be tried."""
        for attempt in range(self._tries):
            try:
                answer: Answer = await self._handle.restore.remote(job)
                return answer
            except self._lost:
                self._metrics.retries.inc()
                await asyncio.sleep(WAIT * 2**attempt)
        return Answer(503, error=f"{self._tries} replicas ended while they worked on it")


def _losses() -> tuple[type[Exception], ...]:
    """What is raised where a replica is no more."""
    from ray import exceptions as of_ray
    from ray.serve import exceptions as of_serve

    return (
        of_ray.RayActorError,
        of_ray.WorkerCrashedError,
        of_ray.ObjectLostError,
        of_ray.NodeDiedError,
        of_serve.ReplicaUnavailableError,
    )


async def is_ready() -> bool:
    """Whether at least one replica runs, as far as can be told within seconds."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(_running), ANSWER) > 0
    except Exception:  # of Ray, where its controller is no more
        return False


def _running() -> int:
    from ray import serve

    application = serve.status().applications.get(NAME)
    deployments = application.deployments.values() if application is not None else ()
    return sum(found.replica_states.get("RUNNING", 0) for found in deployments)
