"""The door of a WSGI application.

A request ends when its response has been sent: at once where the body is complete or a file that the server sends by
itself, else when the server closes what the application returned, as WSGI prescribes. A body that the server tells by
its type or its length reaches it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import http

if TYPE_CHECKING:
    from .._native import Request

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class WsgiMiddleware:
    """Watches the requests of a WSGI application that has neither OpenTelemetry nor a framework known to us.

    `app = glassbottom.WsgiMiddleware(app)`. Its spans are named by the method alone, unless a framework within tells
    the route. Flask and Django need no middleware.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As the application; what it raises is raised here."""
        door = open_door(environ, start_response)
        if door is None:
            return self.app(environ, start_response)
        try:
            return door.body(self.app(environ, door.start_response))
        except BaseException as error:
            door.close(error)
            raise


class Door:
    """One request on its way through."""

    __slots__ = ("_environ", "_start_response", "request")

    def __init__(self, request: Request, environ: Environ, start_response: StartResponse) -> None:
        self.request = request
        self._environ = environ
        self._start_response = start_response

    def start_response(self, status: str, *rest: Any, **named: Any) -> Any:
        """As the server's."""
        if isinstance(status, str) and status[:3].isdecimal():
            self.request.status_code = int(status[:3])
        return self._start_response(status, *rest, **named)

    def body(self, found: Iterable[bytes]) -> Iterable[bytes]:
        """What the server is to get for what the application returned."""
        is_complete = hasattr(found, "__len__") and not hasattr(found, "close")
        if is_complete or self._is_file(found) or getattr(found, "streaming", None) is False:  # the last is Django's
            self.close(None)
            return found
        return _Body(found, self)

    def close(self, error: BaseException | None) -> None:
        """The request has ended."""
        self.request.end(error)
        self.request.close()

    def _is_file(self, found: Iterable[bytes]) -> bool:
        wrapper = self._environ.get("wsgi.file_wrapper")
        return isinstance(wrapper, type) and isinstance(found, wrapper)


class _Body:
    """A body that is made while it is sent."""

    __slots__ = ("_door", "_found", "_parts")

    def __init__(self, found: Iterable[bytes], door: Door) -> None:
        self._found = found
        self._door = door
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        parts = self._parts
        if parts is None:
            parts = self._parts = iter(self._found)
        try:
            return next(parts)
        except StopIteration:
            raise
        except BaseException as error:
            self._door.request.end(error)
            raise

    def close(self) -> None:
        close = getattr(self._found, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._door.close(None)

    def __del__(self) -> None:
        """For a server that never closed it; else this has ended already."""
        self._door.request.end()


def open_door(environ: Environ, start_response: StartResponse) -> Door | None:
    """None for what is not to be watched."""
    desk = http.desk
    if desk is None:
        return None
    outer = http.now()
    before = getattr(outer, "environ", None)
    if before is not None and before is not environ and "REQUEST_METHOD" in before:
        # A server that never closed its last body: that request is over, since this thread has a new one.
        outer.end()  # type: ignore[union-attr]
    method = environ.get("REQUEST_METHOD")
    request = desk.begin(method if method in http.METHODS else http.OTHER_METHOD, environ, True)
    return None if request is None else Door(request, environ, start_response)
