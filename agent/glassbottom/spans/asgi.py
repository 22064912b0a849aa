"""The door of an ASGI application: requests and WebSocket connections; all else passes through untouched.

A request ends with the last piece of its response, not with what the application does afterwards. What the application
does is labelled with it until it returns. Exceptions pass; they are only looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import http

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
        desk = http.desk
        door = desk.open(scope, send) if desk is not None else None
        if door is None:
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, door)
        except BaseException as error:
            door.end(error)
            raise
        finally:
            door.close()
