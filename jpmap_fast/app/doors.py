"""Ways of gradio's server that this page does not need, closed."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

# Of other servers, of the program of the page, and of what it did for others.
CLOSED = re.compile(
    r"/(proxy=|file=\w\w+:|monitoring|vibe|undo-vibe|custom_component|component_server|run-history"
    r"|runs|process_recording|profiling|deep_link|dev/|stream/|call/|api/|run/)"
)
# Where fields are sent to when a button is pressed, and how much they may be: files go elsewhere.
PRESSED, MOST = "/queue/join", 1 << 20
# One letter is that of a drive.
ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Doors:
    """ASGI middleware that answers 404 to what is closed, and 400 to files that are elsewhere.

    Gradio would fetch a file that is named by an address; people upload theirs.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = scope.get("path", "")
        if scope["type"] == "http" and CLOSED.search(path):
            await _refuse(send, 404)
        elif scope["type"] == "http" and path.endswith(PRESSED):
            body = await _body(receive)
            if body is None or _elsewhere(body):
                await _refuse(send, 400)
            else:
                await self._app(scope, _again(body, receive), send)
        else:
            await self._app(scope, receive, send)

    @classmethod
    def as_option(cls) -> dict[str, Any]:
        """The argument of FastAPI that puts it before everything."""
        from starlette.middleware import Middleware

        return {"middleware": [Middleware(cls)]}


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive) -> bytes | None:
    """The body of a request; None where it is too long, or nobody waits for the answer."""
    parts, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts += message.get("body", b"")
        more = message.get("more_body", False)
        if len(parts) > MOST:
            return None
    return parts


def _again(body: bytes, receive: Receive) -> Receive:
    """The same body to be received once more."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received


def _elsewhere(body: bytes) -> bool:
    """Whether a file is named by an address, or this is no JSON."""
    try:
        found = json.loads(body)
    except ValueError:
        return True
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if any(_is_address(value.get(name)) for name in ("path", "name")):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and ADDRESS.match(value) is not None
