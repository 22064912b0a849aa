"""The door of an ASGI application: requests and WebSocket connections; all else passes through untouched.

A request ends with the last piece of its response, not with what the application does afterwards. The connection keeps
its label until the application returns. Exceptions pass; they are only looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .http import WEBSOCKET, Request, begin, leave

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiMiddleware:
    """Watches the requests of an ASGI application that has neither OpenTelemetry nor a framework known to us.

    `app = glassbottom.AsgiMiddleware(app)`. Its spans are named by the method alone, unless the application calls a
    router of Starlette's or Django's. Starlette, FastAPI and Django need no middleware.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the application; what it raises is raised here."""
        door = open_door(scope, send)
        if door is None:
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, door.send)
        except BaseException as error:
            door.request.end(error)
            raise
        finally:
            door.close()


class Door:
    """One request on its way through: looks at what is sent."""

    __slots__ = ("_send", "_trailers", "request")

    def __init__(self, request: Request, send: Send) -> None:
        self.request = request
        self._send = send
        self._trailers = False

    def send(self, message: Message) -> Awaitable[None]:
        """As the server's send(): no coroutine more than its own."""
        kind = message.get("type")
        if kind == "http.response.start":
            self.request.status_code = message.get("status", 0)
            self._trailers = bool(message.get("trailers"))
        elif kind == "http.response.body":
            if not message.get("more_body") and not self._trailers:
                self.request.end()
        elif kind == "http.response.pathsend" or (
            kind == "http.response.trailers" and not message.get("more_trailers")
        ):
            self.request.end()
        return self._send(message)

    def close(self) -> None:
        """The application has returned, or raised."""
        self.request.end()
        leave(self.request)


def open_door(scope: Scope, send: Send) -> Door | None:
    """None for what is not to be watched."""
    kind = scope.get("type")
    if kind == "http":
        method = scope.get("method", "")
    elif kind == "websocket":
        method = WEBSOCKET
    else:
        return None
    request = begin(method, scope, in_thread=False)
    return None if request is None else Door(request, send)
