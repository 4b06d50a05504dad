"""Who restores a folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jpmap_fast._messages import FieldError, typed


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """The workers of a run.

    Attributes:
        ray: "local" for a Ray cluster of this run's own on this machine; "auto" for the one that
            runs here, or "HOST:PORT" for one that runs elsewhere.
        workers: processes that restore, each with a prior of its own, >= 1.
        worker_cpus: processors of each, and threads, >= 1.
        worker_gpus: GPUs of each, 0, a whole number or a share such as 0.5; None for one where the
            request asks for CUDA, or asks for "auto" and the cluster has one, else for none.

    Raises:
        ValueError: a value out of range. TypeError: one of the wrong kind.

    Example:
        >>> FleetSettings(workers=2).ray
        'local'
    """

    ray: str = "local"
    workers: int = 1
    worker_cpus: int = 1
    worker_gpus: float | None = None

    def __post_init__(self) -> None:
        kinds = {"ray": str, "workers": int, "worker_cpus": int, "worker_gpus": float}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value is not None or name != "worker_gpus":
                object.__setattr__(self, name, typed(name, value, kind))
        for name in ("workers", "worker_cpus"):
            value = getattr(self, name)
            if value < 1:
                raise FieldError(f"{{{name}}}: expected at least 1, got {{got}}", {"got": value})
        gpus = self.worker_gpus
        if gpus is not None and not (0 <= gpus < 1 or gpus == math.floor(gpus) >= 1):
            raise FieldError(
                "{worker_gpus}: expected a whole number or a share below 1, got {got}",
                {"got": gpus},
            )
        if not self.ray or "://" in self.ray:
            raise FieldError(
                "{ray}: expected local, auto or HOST:PORT of a Ray cluster, got {got!r}",
                {"got": self.ray},
            )

    def told(self) -> dict[str, Any]:
        """What a summary says of them."""
        return {
            "workers": self.workers,
            "worker_cpus": self.worker_cpus,
            "worker_gpus": self.worker_gpus,
        }
