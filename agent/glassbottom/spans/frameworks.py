"""The frameworks' own doors: where a request enters Starlette, FastAPI, Django or Flask, and where its route is found;
where Celery runs a task.

Methods of their classes are wrapped when the application imports them, so that neither the order of imports nor how
the application is put together matters. A version that looks different is left alone, and the reason told.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import http, wsgi
from . import ledger as ledgers
from .imports import when_imported
from .patches import Patches

if TYPE_CHECKING:
    from .._native import Request

RUNNING_MAX = 1000
"""Celery tasks at once in one process; a worker runs as many as it has threads."""

_patches = Patches()
_left_alone: dict[str, str] = {}
_tasks: dict[str, Request] = {}


def install() -> None:
    """At once for frameworks that are imported, and for the others when they are."""
    ledger = ledgers.current
    if ledger is None:
        return
    for name, door in DOORS.items():
        when_imported(name, ledger.guard, _opener(name, door))


def uninstall() -> None:
    """Puts everything back."""
    _patches.undo()
    _left_alone.clear()
    _tasks.clear()
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.task_prerun.disconnect(_task_begins)
        signals.task_postrun.disconnect(_task_ends)


def left_alone() -> list[str]:
    """One sentence for each framework whose version is not what we know."""
    return [f"{name} is not watched: {reason}." for name, reason in _left_alone.items()]


def _opener(name: str, door: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def open_it(module: ModuleType) -> None:
        try:
            door(module)
        except (LookupError, AttributeError, TypeError) as error:
            _left_alone[name] = str(error)

    return open_it


def _starlette(module: ModuleType) -> None:
    _patches.wrap(module.Starlette, "__call__", _asgi_door)


def _starlette_routes(module: ModuleType) -> None:
    _patches.wrap(module.Route, "handle", _route)
    _patches.wrap(module.WebSocketRoute, "handle", _route)
    _patches.wrap(module.Mount, "handle", _mount)


def _fastapi_routes(module: ModuleType) -> None:
    if "handle" in vars(module.APIRoute):  # older versions leave it to Starlette's
        _patches.wrap(module.APIRoute, "handle", _route)


def _django_asgi(module: ModuleType) -> None:
    _patches.wrap(module.ASGIHandler, "__call__", _asgi_door)


def _django_wsgi(module: ModuleType) -> None:
    _patches.wrap(module.WSGIHandler, "__call__", _wsgi_door)


def _django_routes(module: ModuleType) -> None:
    _patches.wrap(module.BaseHandler, "resolve_request", _resolved)


def _flask(module: ModuleType) -> None:
    _patches.wrap(module.Flask, "__call__", _wsgi_door)
    _patches.wrap(module.Flask, "full_dispatch_request", _dispatched)


def _celery(module: ModuleType) -> None:
    module.task_prerun.connect(_task_begins, weak=False)
    module.task_postrun.connect(_task_ends, weak=False)


DOORS: dict[str, Callable[[ModuleType], None]] = {
    "starlette.applications": _starlette,
    "starlette.routing": _starlette_routes,
    "fastapi.routing": _fastapi_routes,
    "django.core.handlers.asgi": _django_asgi,
    "django.core.handlers.wsgi": _django_wsgi,
    "django.core.handlers.base": _django_routes,
    "flask.app": _flask,
    "celery.signals": _celery,
}

# Doors.


def _asgi_door(original: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807
        desk = http.desk
        door = desk.open(scope, send) if desk is not None else None
        if door is None:
            await original(self, scope, receive, send)
            return
        try:
            await original(self, scope, receive, door)
        except BaseException as error:
            door.end(error)
            raise
        finally:
            door.close()

    return __call__


def _wsgi_door(original: Callable[..., Any]) -> Callable[..., Any]:
    def __call__(self: Any, environ: Any, start_response: Any) -> Any:  # noqa: N807
        door = wsgi.open_door(environ, start_response)
        if door is None:
            return original(self, environ, start_response)
        try:
            return door.body(original(self, environ, door.start_response))
        except BaseException as error:
            door.close(error)
            raise

    return __call__


# Routes. The wrappers hand out the coroutine of what they wrap: one of their own would be one more to make, and one
# more for every step of the request to pass through.


def _as_coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Whoever asks inspect is told what is true of the wrapped one. Before 3.12 there is no way to say it."""
    import inspect  # Starlette has imported it by now; an application without Starlette need not

    mark: Callable[[Any], Any] | None = getattr(inspect, "markcoroutinefunction", None)
    return function if mark is None else mark(function)


def _route(original: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
    def handle(self: Any, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        desk = http.desk
        if desk is not None:
            # FastAPI keeps a route that was included under a prefix as it was, and the whole path beside it.
            included = scope.get("fastapi")
            whole = included.get("effective_route_context") if included else None
            desk.known(self.path_format if whole is None else whole.path_format)
        return original(self, scope, receive, send)

    return _as_coroutine_function(handle)


def _mount(original: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
    def handle(self: Any, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        desk = http.desk
        if desk is not None:
            desk.mounted(self.path)
        return original(self, scope, receive, send)

    return _as_coroutine_function(handle)


def _resolved(original: Callable[..., Any]) -> Callable[..., Any]:
    def resolve_request(self: Any, request: Any) -> Any:
        match = original(self, request)
        route = getattr(match, "route", None)
        desk = http.desk
        if desk is not None and isinstance(route, str):
            # OpenTelemetry names Django's routes as Django does. Where both count the requests of one application,
            # since it samples, they must agree.
            slash = "" if "opentelemetry.instrumentation.django" in sys.modules else "/"
            desk.known(slash + route)
        return match

    return resolve_request


def _dispatched(original: Callable[..., Any]) -> Callable[..., Any]:
    def full_dispatch_request(self: Any, *arguments: Any, **named: Any) -> Any:
        desk = http.desk
        rule = sys.modules["flask.globals"].request.url_rule if desk is not None else None
        if desk is not None and rule is not None:
            desk.known(rule.rule)
        return original(self, *arguments, **named)

    return full_dispatch_request


# Tasks.


def _task_begins(task_id: str = "", task: Any = None, **_: Any) -> None:
    ledger, desk = ledgers.current, http.desk
    if ledger is None or desk is None or task is None or len(_tasks) >= RUNNING_MAX:
        return
    with ledger.guard.guarded("spans.celery"):
        request = desk.begin(f"celery {task.name}", None, not http.loop_runs_here())
        if request is not None:
            request.is_task = True
            _tasks[task_id] = request


def _task_ends(task_id: str = "", state: str | None = None, **_: Any) -> None:
    request = _tasks.pop(task_id, None)
    if request is not None:
        if state == "FAILURE":
            request.error = state
        request.close()
