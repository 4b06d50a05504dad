"""What a service takes at a time: so many requests, so many bytes, so many seconds for each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from jpmap_fast.serve.metrics import Metrics
from jpmap_fast.serve.schema import WORK
from jpmap_fast.serve.settings import ServiceSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Between two parts of a request; and requests of full size whose bytes may be here at a time.
PATIENCE, FULL = 30.0, 32
# Bytes a second, on the whole: whoever sends a byte now and then would hold that room for good.
SLOWEST = 20_000
RETRY_AFTER = (b"retry-after", b"1")


class _Refusal(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error


class Limits:
    """ASGI middleware: answers 503 where the service is full, 413, 408 and 411 to what is too much.

    A request counts from its first byte to the last one of its answer. What tells how the service
    is does not wait in line with the work.

    Args:
        app: what is protected.
        settings: of the service.
        metrics: told how many there are.
    """

    def __init__(self, app: App, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._requests = 0
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] != WORK or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            size = self._admitted(dict(scope["headers"]))
        except _Refusal as refusal:
            await self._refuse(refusal, send)
            return
        self._requests += 1
        self._bytes += size
        self._metrics.working.set(self._requests)
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, self._counted(receive, size), watched)
        except _Refusal as refusal:
            if begun:
                raise
            await self._refuse(refusal, send)
        finally:
            self._requests -= 1
            self._bytes -= size
            self._metrics.working.set(self._requests)

    def _admitted(self, headers: dict[bytes, bytes]) -> int:
        """The bytes that a request announces.

        Raises:
            _Refusal: they are too many, unknown, or there is no room.
        """
        most, announced = self._settings.bytes, headers.get(b"content-length", b"")
        if not announced.isdigit():
            raise _Refusal(411, "expected the length of the request, Content-Length")
        size = int(announced)
        if size > most:
            raise _Refusal(413, f"expected at most {most} bytes, got {size}")
        if self._requests >= self._settings.accepted or self._bytes + size > FULL * most:
            raise _Refusal(503, "the service is full; ask again in a second")
        return size

    def _counted(self, receive: Receive, size: int) -> Receive:
        """What is received, no more than was announced and none too slowly."""
        got, ended = 0, False
        end = asyncio.get_running_loop().time() + PATIENCE + size / SLOWEST

        async def counted() -> Message:
            nonlocal got, ended
            if ended:  # only whether somebody still waits for the answer is of interest
                return await receive()
            try:
                left = end - asyncio.get_running_loop().time()
                message = await asyncio.wait_for(receive(), min(PATIENCE, left))
            except asyncio.TimeoutError:
                raise _Refusal(
                    408,
                    f"expected the next part within {PATIENCE:g} s and {SLOWEST} bytes a second",
                ) from None
            got += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if got > size:
                raise _Refusal(413, f"expected the {size} bytes that were announced, got more")
            return message

        return counted

    async def _refuse(self, refusal: _Refusal, send: Send) -> None:
        self._metrics.answered(refusal.status)
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        if refusal.status == 503:
            headers.append(RETRY_AFTER)
        start = {"type": "http.response.start", "status": refusal.status, "headers": headers}
        await send(start)
        body = json.dumps({"error": refusal.error}).encode()
        await send({"type": "http.response.body", "body": body})
