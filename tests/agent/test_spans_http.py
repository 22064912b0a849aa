"""Requests of applications without OpenTelemetry, at our own doors: middleware for any ASGI or WSGI application."""

from __future__ import annotations

import asyncio
import io
import threading
import traceback
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper

import glassbottom
import pytest
from glassbottom import _labels
from glassbottom.spans.http import current_request
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from tests.support.spans import Watched, watched

BODY = {"type": "http.response.body", "body": b"."}


def start(status: int = 200, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [], **more}


def ask(app: Any, method: str = "GET", kind: str = "http", **scope: Any) -> list[dict[str, Any]]:
    """What the application sends for one request, called as a server would."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    whole = {"type": kind, "method": method, "path": "/secret/17", "scheme": "http", "http_version": "1.1", **scope}
    asyncio.run(glassbottom.AsgiMiddleware(app)(whole, receive, send))
    return sent


def call(app: Any, method: str = "GET", **environ: Any) -> tuple[str, bytes]:
    """(status, body) of one request, called and closed as a server would."""
    status: list[str] = []

    def start_response(line: str, headers: Any, exc_info: Any = None) -> Any:
        status.append(line)
        return lambda _data: None

    found = glassbottom.WsgiMiddleware(app)({"REQUEST_METHOD": method, **environ}, start_response)
    try:
        return status[0] if status else "", b"".join(found)
    finally:
        if hasattr(found, "close"):
            found.close()


# ASGI.


def test_a_request_is_named_by_its_method_as_long_as_no_route_is_known(seen: Watched):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert _labels.current_name() == "GET"
        await send(start())
        await send(BODY)

    assert ask(app) == [start(), BODY]
    ((key, row),) = seen.rows().items()
    assert (key.name, key.span_kind, key.status, row[1]) == ("GET", "SERVER", "ok", 1)
    assert _labels.current_name() == ""
    assert seen.probe.statistics()["requests_total"] == 1


def test_a_method_of_the_client_s_own_invention_makes_no_name(seen: Watched):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(405))
        await send(BODY)

    ask(app, method="BREW")
    ask(app, method="get")
    assert list(seen.named()) == ["HTTP"]


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (302, "ok"), (404, "ok"), (500, "error"), (503, "error")])
def test_a_response_is_an_error_from_500_on(seen: Watched, status: int, outcome: str):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(status))
        await send(BODY)

    ask(app)
    (key,) = seen.rows()
    assert key.status == outcome


def test_an_exception_passes_through_with_its_traceback_and_is_an_error(seen: Watched):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("untouched")

    with pytest.raises(LookupError, match="untouched") as raised:
        ask(app)
    frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert frames[-2:] == ["__call__", "app"]
    assert raised.value.__context__ is None
    (key,) = seen.rows()
    assert key.status == "error"
    assert current_request.get() is None


def test_a_request_that_is_cancelled_is_told_as_that(seen: Watched):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        ask(app)
    (key,) = seen.rows()
    assert key.status == "cancelled"


def test_a_request_ends_with_the_last_piece_of_its_response(seen: Watched):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send({**BODY, "more_body": True})
        assert seen.rows() == {}
        await send(BODY)
        assert seen.named()["GET"][1] == 1
        assert _labels.current_name() == "GET"  # what it does now is still for this request

    ask(app)
    assert seen.rows() == {}


def test_trailers_belong_to_the_response(seen: Watched):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(trailers=True))
        await send(BODY)
        assert seen.rows() == {}
        await send({"type": "http.response.trailers", "headers": []})
        assert seen.named()["GET"][1] == 1

    ask(app)


def test_a_file_that_the_server_sends_by_itself_is_a_response(seen: Watched):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send({"type": "http.response.pathsend", "path": "/etc/hostname"})
        assert seen.named()["GET"][1] == 1

    ask(app)


def test_a_websocket_is_named_so_and_never_slow():
    with watched(slow_ms=1.0) as seen:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            await asyncio.sleep(0.01)

        assert ask(app, kind="websocket") == [{"type": "websocket.accept"}]
        assert seen.named()["WS"][1] == 1
        assert seen.read("span.slow") == []


def test_lifespan_and_what_is_to_come_pass_through(seen: Watched):
    scopes: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope["type"])
        await send({"type": "lifespan.startup.complete"})

    assert ask(app, kind="lifespan") == [{"type": "lifespan.startup.complete"}]
    assert ask(app, kind="webtransport") == [{"type": "lifespan.startup.complete"}]
    assert scopes == ["lifespan", "webtransport"]
    assert seen.rows() == {}


def test_middleware_within_middleware_counts_once(seen: Watched):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(BODY)

    ask(glassbottom.AsgiMiddleware(app))
    assert seen.named()["GET"][1] == 1


@pytest.mark.parametrize("inside", [True, False])
def test_where_opentelemetry_counts_the_request_we_keep_silent(seen: Watched, inside: bool):
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(BODY)

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("GET /secret/{id}", kind=SpanKind.SERVER):
            await (app if inside else glassbottom.AsgiMiddleware(app))(scope, receive, send)

    if inside:
        ask(traced)
    else:
        asyncio.run(traced({"type": "http", "method": "GET"}, None, _ignore))
    assert {key.name: row[1] for key, row in seen.rows().items()} == {"GET /secret/{id}": 1}


async def _ignore(message: object) -> None:
    pass


def test_a_span_of_the_application_is_part_of_the_request(seen: Watched):
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("query"):
            await asyncio.sleep(0.05)
        await send(start())
        await send(BODY)

    ask(app)
    rows = seen.rows()
    assert {key.name: key.route for key in rows} == {"query": "GET", "GET": ""}
    whole = next(row for key, row in rows.items() if key.name == "GET")
    assert whole[2] >= 50_000_000
    assert whole[3] < whole[2] - 45_000_000  # what the child took is not its own


def test_requests_at_once_keep_their_labels_apart(seen: Watched):
    found: dict[str, str] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        found[scope["method"]] = _labels.current_name()
        await send(start())
        await send(BODY)

    async def main() -> None:
        door = glassbottom.AsgiMiddleware(app)
        methods = ("GET", "POST", "PUT")
        await asyncio.gather(*(door({"type": "http", "method": one}, None, _ignore) for one in methods))

    asyncio.run(main())
    assert found == {"GET": "GET", "POST": "POST", "PUT": "PUT"}


def test_without_a_running_agent_the_middleware_only_passes_on():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())

    def plain(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"body"]

    assert ask(app) == [start()]
    assert call(plain) == ("200 OK", b"body")


def test_the_limit_is_told_in_the_words_of_the_conventions():
    with watched(slow_ms=1.0) as seen:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.01)
            await send(start(503))
            await send(BODY)

        ask(app, method="POST")
        (told,) = seen.read("span.slow")
        assert told.name == "POST"
        assert {name: text for name, text in told.attributes.items() if name != "self_s"} == {
            "status": "error",
            "http.request.method": "POST",
            "http.response.status_code": "503",
            "error.type": "503",
            "url.scheme": "http",
            "network.protocol.version": "1.1",
        }


# WSGI.


def test_a_wsgi_request_is_counted_with_its_thread_s_cpu_time(seen: Watched):
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        assert _labels.current_name() == "POST"
        sum(range(200_000))
        start_response("201 Created", [])
        return [b"body"]

    assert call(app, "POST") == ("201 Created", b"body")
    ((key, row),) = seen.rows().items()
    assert (key.name, key.span_kind, key.status, row[1], row[6]) == ("POST", "SERVER", "ok", 1, 1)
    assert _labels.current_name() == ""


def test_a_body_that_is_made_while_it_is_sent_belongs_to_the_request(seen: Watched):
    closed: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(3):
                assert seen.rows() == {}
                assert _labels.current_name() == "GET"
                yield b"."

        def close(self) -> None:
            closed.append(_labels.current_name())

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    assert call(app) == ("200 OK", b"...")
    assert closed == ["GET"]
    assert seen.named()["GET"][1] == 1


def test_a_body_that_fails_raises_what_it_raised_and_is_an_error(seen: Watched):
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"."
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        call(app)
    (key,) = seen.rows()
    assert key.status == "error"
    assert _labels.current_name() == ""


def test_an_application_that_fails_raises_what_it_raised(seen: Watched):
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise LookupError("untouched")

    with pytest.raises(LookupError, match="untouched"):
        call(app)
    (key,) = seen.rows()
    assert key.status == "error"
    assert current_request.get() is None


def test_a_list_and_a_file_reach_the_server_as_they_are(seen: Watched):
    bodies = [[b"a", b"b"], FileWrapper(io.BytesIO(b"file"))]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return environ["body"]

    for body in bodies:
        environ = {"REQUEST_METHOD": "GET", "body": body, "wsgi.file_wrapper": FileWrapper}
        assert glassbottom.WsgiMiddleware(app)(environ, lambda *_: None) is body
    assert seen.named()["GET"][1] == 2


def test_start_response_is_called_with_what_the_application_gives(seen: Watched):
    calls: list[tuple[Any, ...]] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("a", "b")])
        write(b"early")
        start_response("500 Oh", [], ("kind", "value", "trace"))
        return []

    def start_response(*arguments: Any) -> Any:
        calls.append(arguments)
        return lambda data: calls.append((data,))

    assert list(glassbottom.WsgiMiddleware(app)({"REQUEST_METHOD": "GET"}, start_response)) == []
    assert calls == [("200 OK", [("a", "b")]), (b"early",), ("500 Oh", [], ("kind", "value", "trace"))]
    (key,) = seen.rows()
    assert key.status == "error"


def test_a_server_that_never_closes_a_body_loses_no_later_request(seen: Watched):
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"."

    def serve() -> None:
        for _ in range(3):
            list(glassbottom.WsgiMiddleware(app)({"REQUEST_METHOD": "GET"}, lambda *_: None))

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert seen.named()["GET"][1] == 3


def test_the_debug_mode_logs_requests_with_their_duration(caplog: pytest.LogCaptureFixture):
    with watched(debug=True, slow_ms=1.0):

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.01)
            await send(start())
            await send(BODY)

        ask(app)
    begun, ended = (record for record in caplog.records if record.name == "glassbottom.spans")
    assert begun.getMessage() == "start SERVER GET"
    assert ended.levelname == "WARNING"
    assert ended.getMessage().endswith("ms ok SLOW, limit 1 ms")
