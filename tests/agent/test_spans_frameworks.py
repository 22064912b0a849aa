"""Real applications of Starlette, FastAPI, Django, Flask and Celery, without a line of ours in them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import celery
import django
import flask
import httpx
import pytest
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import include, path
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse
from glassbottom import _labels
from glassbottom._guard import Guard
from glassbottom.spans import frameworks
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from tests.support.spans import Watched, forget_provider, watched


def counts(seen: Watched) -> dict[str, int]:
    return {key.name: row[1] for key, row in seen.rows().items() if key.span_kind in ("SERVER", "CONSUMER")}


def get(app: Any, *paths: str) -> list[httpx.Response]:
    """One request after the other, as a server would hand them in."""

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://tests") as client:
            return [await client.get(one) for one in paths]

    return asyncio.run(main())


# Starlette and FastAPI.


def starlette_app() -> Starlette:
    async def label(request: Any) -> PlainTextResponse:
        return PlainTextResponse(_labels.current_name())

    def threaded(request: Any) -> PlainTextResponse:
        return PlainTextResponse(_labels.current_name())

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(_labels.current_name())
        await socket.close()

    return Starlette(
        routes=[
            Route("/orders/{id:int}", label),
            Route("/threaded/{id}", threaded),
            WebSocketRoute("/feed/{topic}", talk),
            Mount("/tenants/{tenant}", routes=[Route("/users/{name}", label)]),
            Mount("/static", StaticFiles(directory=".")),
        ]
    )


def test_a_route_of_starlette_names_the_request_and_labels_what_is_done_for_it(seen: Watched):
    responses = get(starlette_app(), "/orders/17", "/orders/18", "/threaded/a", "/tenants/t1/users/eve")
    assert [one.text for one in responses] == [
        "GET /orders/{id}",
        "GET /orders/{id}",
        "GET /threaded/{id}",
        "GET /tenants/{tenant}/users/{name}",
    ]
    assert counts(seen) == {
        "GET /orders/{id}": 2,
        "GET /threaded/{id}": 1,
        "GET /tenants/{tenant}/users/{name}": 1,
    }


def test_what_has_no_route_has_no_name_of_the_client_s_making(seen: Watched):
    get(starlette_app(), "/nowhere/17", "/orders/none", "/static/absent.txt")
    assert counts(seen) == {"GET": 2, "GET /static/{path}": 1}


def test_a_websocket_is_named_by_its_route(seen: Watched):
    with TestClient(starlette_app()) as client, client.websocket_connect("/feed/news") as socket:
        assert socket.receive_text() == "WS /feed/{topic}"
    assert counts(seen) == {"WS /feed/{topic}": 1}


def fastapi_app() -> FastAPI:
    app = FastAPI()
    router = APIRouter()

    @app.get("/orders/{order_id}")
    async def order(order_id: int) -> str:
        return _labels.current_name()

    @app.get("/fails")
    async def fails() -> None:
        raise LookupError

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            yield _labels.current_name().encode()

        return StreamingResponse(parts())

    @router.get("/items/{name}")
    def item(name: str) -> str:
        return _labels.current_name()

    app.include_router(router, prefix="/v1")
    return app


def test_fastapi_is_named_by_its_routes_wherever_they_are_included(seen: Watched):
    responses = get(fastapi_app(), "/orders/17", "/v1/items/a", "/stream", "/orders/none", "/fails")
    assert [one.json() for one in responses[:2]] == ["GET /orders/{order_id}", "GET /v1/items/{name}"]
    assert responses[2].text == "GET /stream"
    rows = seen.rows()
    assert {(key.name, key.status): row[1] for key, row in rows.items()} == {
        ("GET /orders/{order_id}", "ok"): 2,
        ("GET /v1/items/{name}", "ok"): 1,
        ("GET /stream", "ok"): 1,
        ("GET /fails", "error"): 1,
    }


def test_what_runs_after_the_response_is_not_in_its_duration_but_under_its_label(seen: Watched):
    labels: list[str] = []

    async def later() -> None:
        await asyncio.sleep(0.2)
        labels.append(_labels.current_name())

    async def answer(request: Any) -> PlainTextResponse:
        return PlainTextResponse("", background=BackgroundTask(later))

    get(Starlette(routes=[Route("/a", answer)]), "/a")
    assert labels == ["GET /a"]
    assert seen.named()["GET /a"][2] < 200_000_000


def test_where_fastapi_is_instrumented_opentelemetry_s_span_counts(seen: Watched):
    app = fastapi_app()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=TracerProvider(shutdown_on_exit=False))
    (response,) = get(app, "/orders/17")
    assert response.json() == "GET /orders/{order_id}"
    assert counts(seen) == {"GET /orders/{order_id}": 1}


def test_where_opentelemetry_samples_the_rest_is_counted_by_us(seen: Watched):
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    app = fastapi_app()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    get(app, "/orders/17")
    assert counts(seen) == {"GET /orders/{order_id}": 1}


def test_fastapi_s_own_telemetry_counts_where_a_provider_is_set(seen: Watched, monkeypatch: pytest.MonkeyPatch):
    forget_provider(monkeypatch)
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    get(fastapi_app(), "/orders/17")
    assert counts(seen) == {"GET /orders/{order_id}": 1}


# Django.


def label_view(request: Any, **arguments: Any) -> HttpResponse:
    return HttpResponse(_labels.current_name())


def failing_view(request: Any) -> HttpResponse:
    raise LookupError


def streaming_view(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(part for part in [_labels.current_name().encode()])


async def async_view(request: Any, name: str) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse(_labels.current_name())


urlpatterns = [
    path("orders/<int:order_id>/", label_view),
    path("fails/", failing_view),
    path("stream/", streaming_view),
    path("async/<name>/", async_view),
    path("shop/", include([path("items/<slug:item>/", label_view)])),
]


@pytest.fixture(scope="module")
def django_settings() -> None:
    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="tests", LOGGING_CONFIG=None)
        django.setup()


def wsgi_get(app: Callable[..., Any], *paths: str) -> list[bytes]:
    """Bodies of one request after the other."""
    bodies = []
    for one in paths:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": one,
            "SERVER_NAME": "tests",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
        }
        found = app(environ, lambda *_: lambda _data: None)
        bodies.append(b"".join(found))
        if hasattr(found, "close"):
            found.close()
    return bodies


@pytest.mark.usefixtures("django_settings")
def test_django_under_wsgi_is_named_by_its_routes(seen: Watched):
    bodies = wsgi_get(WSGIHandler(), "/orders/17/", "/shop/items/cap/", "/stream/", "/nowhere/", "/fails/")
    assert bodies[:3] == [b"GET /orders/<int:order_id>/", b"GET /shop/items/<slug:item>/", b"GET /stream/"]
    assert {(key.name, key.status): row[1] for key, row in seen.rows().items()} == {
        ("GET /orders/<int:order_id>/", "ok"): 1,
        ("GET /shop/items/<slug:item>/", "ok"): 1,
        ("GET /stream/", "ok"): 1,
        ("GET", "ok"): 1,
        ("GET /fails/", "error"): 1,
    }
    assert _labels.current_name() == ""


@pytest.mark.usefixtures("django_settings")
def test_django_under_asgi_is_named_by_its_routes_in_sync_and_async_views(seen: Watched):
    async def main() -> list[bytes]:
        return [await answer(handler, one) for one in ("/orders/17/", "/async/a/")]

    handler = ASGIHandler()
    assert asyncio.run(main()) == [b"GET /orders/<int:order_id>/", b"GET /async/<name>/"]
    assert counts(seen) == {"GET /orders/<int:order_id>/": 1, "GET /async/<name>/": 1}


async def answer(app: Any, url_path: str) -> bytes:
    """One request whose client stays until the end, which Django insists on."""
    parts: list[bytes] = []
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        for message in messages:
            return message
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": url_path, "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return b"".join(parts)


# Flask.


def test_flask_is_named_by_its_rules(seen: Watched):
    app = flask.Flask(__name__)

    @app.route("/orders/<int:order_id>")
    def order(order_id: int) -> str:
        return _labels.current_name()

    @app.route("/stream")
    def stream() -> flask.Response:
        return flask.Response(part for part in [_labels.current_name()])

    @app.route("/fails")
    def fails() -> str:
        raise LookupError

    bodies = wsgi_get(app, "/orders/17", "/stream", "/nowhere", "/fails")
    assert bodies[:2] == [b"GET /orders/<int:order_id>", b"GET /stream"]
    rows = seen.rows()
    assert {(key.name, key.status): row[1] for key, row in rows.items()} == {
        ("GET /orders/<int:order_id>", "ok"): 1,
        ("GET /stream", "ok"): 1,
        ("GET", "ok"): 1,
        ("GET /fails", "error"): 1,
    }
    assert all(row[6] == row[1] for row in rows.values())  # CPU time is known for each


# Celery.


def test_a_task_of_celery_is_a_request_of_its_own(seen: Watched):
    app = celery.Celery("tests", broker="memory://", backend="cache+memory://")
    app.conf.task_always_eager = True

    @app.task(name="orders.pack")
    def pack(fail: bool) -> str:
        if fail:
            raise LookupError
        return _labels.current_name()

    assert pack.delay(False).get() == "celery orders.pack"
    pack.delay(True)
    assert {(key.name, key.span_kind, key.status): row[1] for key, row in seen.rows().items()} == {
        ("celery orders.pack", "CONSUMER", "ok"): 1,
        ("celery orders.pack", "CONSUMER", "error"): 1,
    }
    assert _labels.current_name() == ""


# What is put in place is taken away again, and what is unknown is left alone.


def test_everything_is_as_before_when_the_probe_has_stopped():
    doors = [
        (Starlette, "__call__"),
        (Route, "handle"),
        (Mount, "handle"),
        (WSGIHandler, "__call__"),
        (ASGIHandler, "__call__"),
        (flask.Flask, "__call__"),
        (flask.Flask, "full_dispatch_request"),
        (TracerProvider, "__init__"),
        (trace.ProxyTracer, "_tracer"),
    ]
    before = [vars(owner)[name] for owner, name in doors]
    with watched():
        during = [vars(owner)[name] for owner, name in doors]
        assert all(now is not then for now, then in zip(during, before, strict=True))
        assert asyncio.iscoroutinefunction(Starlette.__call__)
        assert Starlette.__call__.__doc__ == before[0].__doc__
    assert [vars(owner)[name] for owner, name in doors] == before


def test_a_wrapper_of_somebody_else_above_ours_stays_and_nothing_is_counted_twice(monkeypatch: pytest.MonkeyPatch):
    import functools

    with watched() as seen:
        ours = Route.handle

        @functools.wraps(ours)
        async def theirs(*arguments: Any) -> None:
            await ours(*arguments)

        monkeypatch.setattr(Route, "handle", theirs)
    assert Route.handle is theirs
    get(starlette_app(), "/orders/17")
    assert seen.rows() == {}
    with watched() as again:
        assert Route.handle is theirs
        get(starlette_app(), "/orders/17")
        assert counts(again) == {"GET /orders/{id}": 1}


def test_a_framework_that_looks_different_is_left_alone_and_said_so():
    class Flask:
        """Of another version."""

    strange = ModuleType("flask.app")
    strange.Flask = Flask  # type: ignore[attr-defined]
    with watched() as seen:
        frameworks._opener("flask.app", frameworks.DOORS["flask.app"])(strange)
        assert seen.probe.state().reason == (
            f"flask.app is not watched: {__name__}.{Flask.__qualname__} has no __call__ of its own."
        )
        frameworks._left_alone.clear()
    assert not hasattr(Flask, "full_dispatch_request")
    assert Guard().errors == 0


def test_with_http_off_frameworks_are_left_alone():
    with watched(http=False) as seen:
        get(starlette_app(), "/orders/17")
        assert seen.rows() == {}
