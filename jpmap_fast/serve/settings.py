"""What a service is given, and how much it takes."""

from __future__ import annotations

from dataclasses import dataclass

import jpmap_fast as jf
from jpmap_fast._messages import FieldError, one_of
from jpmap_fast.jobs.device import pick_device


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Of ``jpmap-fast serve``.

    Attributes:
        host, port: to listen at; port 0 is any that is free.
        priors: names of those that may be asked for; () for all that are bundled.
        device: that a replica works on; "cuda" gives each a GPU of its own.
        replicas: processes that restore.
        threads: of each.
        batch: images that are restored together at most.
        accepted: requests at work or in line; more are turned away with 503.
        megabytes: of one request.
        megapixels: of a picture, before and after its restoration.
        seconds: from acceptance to an answer, else 504.
        tries: at replicas that end while they work on a request.
        address: of a Ray cluster to join; None starts one on this machine.

    Raises:
        ValueError: a value out of range, or no such prior or device.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    priors: tuple[str, ...] = ()
    device: str = "cpu"
    replicas: int = 1
    threads: int = 1
    batch: int = 32
    accepted: int = 256
    megabytes: int = 16
    megapixels: float = 4
    seconds: float = 120
    tries: int = 5
    address: str | None = None

    def __post_init__(self) -> None:
        known = jf.available_priors()
        for name in self.priors:
            if name not in known:
                raise FieldError(
                    "{prior}: expected {known}, got {got!r}", {"known": one_of(known), "got": name}
                )
        for name in ("replicas", "threads", "batch", "accepted", "megabytes", "seconds", "tries"):
            value = getattr(self, name)
            if not value >= 1:
                raise FieldError(f"{{{name}}}: expected at least 1, got {{got}}", {"got": value})
        if not self.megapixels > 0:
            raise FieldError(
                "{megapixels}: expected more than 0, got {got}", {"got": self.megapixels}
            )
        if not 0 <= self.port < 1 << 16:
            raise FieldError("{port}: expected 0 to 65535, got {got}", {"got": self.port})
        if self.address is None:  # elsewhere is another machine
            pick_device(self.device)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the priors that may be asked for."""
        return self.priors or tuple(jf.available_priors())

    @property
    def numbers(self) -> int:
        """Of a picture of three colours and an opacity."""
        return int(4e6 * self.megapixels)

    @property
    def bytes(self) -> int:
        """Of one request."""
        return self.megabytes * 1_000_000
