"""What travels between the front of a service and its replicas."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jpmap_fast.jobs import RestoreRequest

# Of what a client can mend.
REFUSED = 422
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One picture to be restored.

    Attributes:
        request: ``RestoreRequest.to_dict``.
        picture: content of its file.
        files: contents of the files that the operator is made of, by its options.
    """

    request: Mapping[str, Any]
    picture: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)

    @cached_property
    def alike(self) -> str:
        """What is the same for all jobs that one operator, prior and method serve."""
        found = hashlib.sha256(json.dumps(self.request, sort_keys=True).encode())
        for name in sorted(self.files):
            found.update(f"\n{name} {len(self.files[name])}\n".encode())
            found.update(self.files[name])
        return found.hexdigest()

    def read_request(self) -> RestoreRequest:
        """The request.

        Raises:
            ValueError, TypeError: it is none.
        """
        return RestoreRequest.from_dict(self.request)


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    Attributes:
        status: of HTTP.
        body: content of the restored picture's file; empty without one.
        media_type: of the body.
        report: fields of a ``PictureReport``; None without one.
        error: why there is no picture.
        together: images of the batch that it was restored in.
    """

    status: int
    body: bytes = b""
    media_type: str = ""
    report: Mapping[str, Any] | None = None
    error: str = ""
    together: int = 0


def broken() -> Answer:
    """Where nobody foresaw what went wrong: it is said in the log of the service, not to others."""
    _LOG.exception("a job could not be restored")
    return Answer(500, error="the service could not restore it; its log says why")
