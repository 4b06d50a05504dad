"""Where a page is shown, and how much it takes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from jpmap_fast._messages import FieldError
from jpmap_fast.jobs.device import pick_device


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """Of ``jpmap-fast app``.

    Attributes:
        host: address to listen at.
        port: to listen at; 0 for any that is free.
        device: that requests are run on.
        megabytes: of a file that is taken.
        megapixels: of a picture, before and after its restoration.
        waiting: requests that may wait; more are turned away.
        seconds: of a restoration, which is given up then.
        folder: of uploads and results, emptied at the end.

    Raises:
        ValueError: a value out of range, or no such device.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 7860
    device: str = "auto"
    megabytes: int = 64
    megapixels: float = 16
    waiting: int = 16
    seconds: float = 600

    def __post_init__(self) -> None:
        for name in ("megabytes", "megapixels", "waiting", "seconds"):
            value = getattr(self, name)
            if not value > 0:
                raise FieldError(f"{{{name}}}: expected more than 0, got {{got}}", {"got": value})
        if not 0 <= self.port < 1 << 16:
            raise FieldError("{port}: expected 0 to 65535, got {got}", {"got": self.port})
        pick_device(self.device)

    @property
    def numbers(self) -> int:
        """Of a picture of three colours and an opacity."""
        return int(4e6 * self.megapixels)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
