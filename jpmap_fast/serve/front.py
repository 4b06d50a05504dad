"""The front of a service: HTTP in, jobs to whoever restores them, pictures out."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from jpmap_fast._messages import one_line
from jpmap_fast.jobs import RestoreRequest
from jpmap_fast.jobs._strangers import check_stranger
from jpmap_fast.operators.registry import check_complete
from jpmap_fast.serve.limits import Limits
from jpmap_fast.serve.metrics import Metrics
from jpmap_fast.serve.schema import REPORT, WORK, document
from jpmap_fast.serve.settings import ServiceSettings
from jpmap_fast.serve.wire import REFUSED, Answer, Job, broken

# Parts of a form, and bytes of those that are no files.
MOST_PARTS, MOST_FIELD = 8, 100_000

Restore = Callable[[Job], Awaitable[Answer]]


def front(
    settings: ServiceSettings,
    restore: Restore,
    is_ready: Callable[[], Awaitable[bool]],
    metrics: Metrics,
) -> Any:
    """The ASGI application.

    Args:
        settings: of the service.
        restore: gives the answer to a job.
        is_ready: whether there is somebody to restore.
        metrics: of this front.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def restored(request: Any) -> Any:
        begin = time.perf_counter()
        answer = await _answer(request, settings, restore)
        metrics.answered(answer.status)
        metrics.seconds.observe(time.perf_counter() - begin)
        if answer.together:
            metrics.together.observe(answer.together)
        if answer.status == 200:
            headers = {REPORT: json.dumps(answer.report, allow_nan=False)}
            return Response(answer.body, 200, headers, answer.media_type)
        headers = {"retry-after": "1"} if answer.status == 503 else {}
        return JSONResponse({"error": answer.error}, answer.status, headers)

    async def health(request: Any) -> Any:
        return JSONResponse({"status": "ok"})

    async def ready(request: Any) -> Any:
        there = await is_ready()
        return JSONResponse({"ready": there}, 200 if there else 503)

    async def counted(request: Any) -> Any:
        body, media_type = metrics.text()
        return Response(body, media_type=media_type)

    async def described(request: Any) -> Any:
        return JSONResponse(document(settings.names))

    routes = [
        Route(WORK, restored, methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", counted),
        Route("/openapi.json", described),
    ]
    limits = Middleware(Limits, settings=settings, metrics=metrics)
    return Starlette(routes=routes, middleware=[limits])


async def _answer(request: Any, settings: ServiceSettings, restore: Restore) -> Answer:
    """The answer to a request, within the time there is."""
    try:
        job = await _job(request, settings)
    except _NoForm as error:
        return Answer(error.status, error=str(error))
    except (ValueError, TypeError) as error:
        return Answer(REFUSED, error=one_line(error))
    try:
        return await asyncio.wait_for(restore(job), settings.seconds)
    except asyncio.TimeoutError:
        return Answer(504, error=f"expected to be done within {settings.seconds:g} s")
    except Exception:
        return broken()


class _NoForm(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


async def _job(request: Any, settings: ServiceSettings) -> Job:
    """The job of a form, checked as far as it can be without its files.

    Raises:
        _NoForm: it is none. ValueError, TypeError: it cannot be run.
    """
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise _NoForm(415, f"expected multipart/form-data, got {kind or 'nothing'}")
    try:
        form = request.form(max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=MOST_FIELD)
        async with form as parts:
            fields: dict[str, Any] = {}
            for name, value in parts.multi_items():
                if name in fields:
                    raise ValueError(f"{name}: expected one, got several")
                is_file = isinstance(value, UploadFile)
                fields[name] = await value.read() if is_file else value
    except HTTPException as error:
        raise _NoForm(400, str(error.detail)) from error
    text, picture = fields.pop("request", None), fields.pop("picture", None)
    if text is None:
        raise ValueError("request: expected it among the fields of the form, got none")
    if not isinstance(picture, bytes):
        raise ValueError("picture: expected a file of the form, got none")
    for name, content in fields.items():
        if not isinstance(content, bytes):
            raise ValueError(f"{name}: expected a file of the form, got a text")
    content = _json(text)
    if isinstance(content, dict) and "prior" not in content:
        raise ValueError("prior: expected it among the fields of the request, got none")
    found = RestoreRequest.from_dict(content)
    check_stranger(found, settings.names)
    check_complete(found.operator, found.options, list(fields))
    return Job(found.to_dict(), picture, fields)


def _json(text: str | bytes) -> Any:
    """The content of strict JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(
            "request: expected an object of fields, got one that is too deep"
        ) from error
    except ValueError as error:
        raise ValueError(f"request: expected JSON, got none ({error})") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value
