"""Settings that a prior chooses for those who say nothing."""

from __future__ import annotations

from typing import Any

from jpmap_fast._validate import count


def checked_restoration(settings: Any) -> dict[str, int]:
    """Settings of ``Prior.restoration``.

    Raises:
        ValueError, TypeError: other names than starts and n2, or values out of range.
    """
    if not isinstance(settings, dict) or not set(settings) <= {"starts", "n2"}:
        raise ValueError(f"restoration: expected starts and n2, got {settings!r}")
    for name, value in settings.items():
        count(f"restoration: {name}", value, 1 if name == "starts" else 0)
    return dict(settings)
