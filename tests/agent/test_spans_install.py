"""How everything gets into its place: whichever is first, the agent or OpenTelemetry, and over forks and restarts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from glassbottom._config import Config, SpansConfig
from glassbottom._guard import Guard
from glassbottom.probes.operations import Recorder
from glassbottom.spans import otlp
from glassbottom.spans.probe import SpansProbe
from glassbottom.testing import FakeClock
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from tests.support.programs import ROOT, environment
from tests.support.spans import Watched, forget_provider, watched


@pytest.fixture(autouse=True)
def _nobody_has_set_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_provider(monkeypatch)


def names(seen: Watched) -> dict[str, int]:
    return {key.name: row[1] for key, row in seen.rows().items()}


def run(code: str) -> Any:
    """What a program of its own prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment("127.0.0.1:1"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def test_a_provider_that_was_set_before_is_listened_to():
    provider = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("tests")
    with watched() as seen:
        tracer.start_span("job").end()
        assert names(seen) == {"job": 1}
    tracer.start_span("job").end()
    assert provider._active_span_processor._span_processors == ()


def test_a_provider_that_is_set_later_is_listened_to():
    with watched() as seen:
        early = trace.get_tracer("tests")
        trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
        early.start_span("early").end()
        trace.get_tracer("tests").start_span("late").end()
        assert names(seen) == {"early": 1, "late": 1}


def test_a_span_that_began_before_us_is_not_counted():
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    span = trace.get_tracer("tests").start_span("job")
    with watched() as seen:
        span.end()
        assert names(seen) == {}


def test_a_restart_listens_once():
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    with watched():
        pass
    with watched() as seen:
        trace.get_tracer("tests").start_span("job").end()
        assert names(seen) == {"job": 1}


@pytest.mark.once
def test_importing_opentelemetry_after_the_start_is_noticed():
    code = """
import json, sys
from glassbottom import _native
from glassbottom._clock import SystemClock
from glassbottom._config import SpansConfig
from glassbottom._guard import Guard
from glassbottom.probes.operations import Recorder
from glassbottom.spans.probe import SpansProbe
recorder, guard = Recorder(_native.OperationTable(64)), Guard()
SpansProbe(SpansConfig(), SystemClock(), guard, recorder, print).start()
assert not any(name.startswith(("opentelemetry", "starlette", "flask", "django")) for name in sys.modules)
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
trace.get_tracer("tests").start_span("job").end()
print(json.dumps([sorted(key.name for key, _ in recorder.take()), guard.errors]))
"""
    assert run(code) == [["job"], 0]


@pytest.mark.once
def test_importing_a_framework_after_the_start_is_noticed():
    code = """
import asyncio, json
from glassbottom import _native
from glassbottom._clock import SystemClock
from glassbottom._config import SpansConfig
from glassbottom._guard import Guard
from glassbottom.probes.operations import Recorder
from glassbottom.spans.probe import SpansProbe
recorder, guard = Recorder(_native.OperationTable(64)), Guard()
probe = SpansProbe(SpansConfig(), SystemClock(), guard, recorder, print)
probe.start()
from fastapi import FastAPI
app = FastAPI()

@app.get("/orders/{order}")
async def order(order: int) -> int:
    return order

async def receive():
    return {"type": "http.request", "body": b""}

async def send(message):
    pass

scope = {"type": "http", "method": "GET", "path": "/orders/17", "headers": [], "query_string": b""}
asyncio.run(app(scope, receive, send))
print(json.dumps([sorted(key.name for key, _ in recorder.take()), guard.errors, probe.state().reason]))
"""
    assert run(code) == [["GET /orders/{order}"], 0, ""]


# Where no provider is set.


def test_spans_of_the_api_alone_are_timed_and_change_nothing():
    with watched() as seen:
        tracer = trace.get_tracer("library")
        with tracer.start_as_current_span("job") as span:
            assert span.get_span_context() == INVALID_SPAN_CONTEXT
            assert span.is_recording() is False
            attributes = {"db.system.name": "postgresql"}
            with tracer.start_as_current_span("query", kind=SpanKind.CLIENT, attributes=attributes):
                pass
        with pytest.raises(LookupError), tracer.start_as_current_span("fails"):
            raise LookupError
        rows = seen.rows()
        assert {(key.name, key.status, key.route, key.target) for key in rows} == {
            ("job", "ok", "", ""),
            ("query", "ok", "job", "postgresql"),
            ("fails", "error", "", ""),
        }


def test_a_context_from_outside_passes_through_unchanged():
    outside = SpanContext(17, 18, is_remote=True, trace_flags=TraceFlags(1))
    with watched() as seen:
        context = trace.set_span_in_context(NonRecordingSpan(outside))
        with trace.get_tracer("library").start_as_current_span("job", context) as span:
            assert span.get_span_context() == outside
        assert names(seen) == {"job": 1}


def test_they_may_be_used_as_decorators():
    with watched() as seen:

        @trace.get_tracer("library").start_as_current_span("decorated")
        def job() -> int:
            return 17

        assert job() == 17
        assert names(seen) == {"decorated": 1}


def test_the_application_s_provider_can_still_be_set_and_takes_over():
    with watched() as seen:
        assert type(trace.get_tracer_provider()) is trace.ProxyTracerProvider
        tracer = trace.get_tracer("library")
        tracer.start_span("before").end()
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        assert trace.get_tracer_provider() is provider
        tracer.start_span("after").end()
        assert [span.name for span in exporter.get_finished_spans()] == ["after"]
        assert names(seen) == {"before": 1, "after": 1}


def test_a_lost_span_of_the_api_is_found_too():
    import gc

    with watched() as seen:
        trace.get_tracer("library").start_span("lost")
        gc.collect()
        (told,) = seen.read("span.never_ended")
        assert told.name == "lost"


def test_an_api_without_our_place_is_left_alone_and_said_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trace.ProxyTracer, "_tracer", None)
    with watched() as seen:
        assert "ProxyTracer._tracer" in seen.probe.state().reason
        seen.probe.stop(1.0)


# Forks.


@pytest.mark.once
def test_a_forked_child_counts_its_own_and_nothing_of_its_parent_s():
    code = """
import json, os, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.support.spans import Watched
parent = Watched()
parent.probe.start()
trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("tests")
open_span = tracer.start_span("open over the fork")
reader, writer = os.pipe()
if os.fork() == 0:
    child = Watched()
    child.probe.start()
    open_span.end()
    tracer.start_span("child").end()
    found = sorted(key.name for key in child.rows()), [row[1] for row in child.rows().values()], child.guard.errors
    os.write(writer, json.dumps(found).encode())
    os._exit(0)
os.wait()
open_span.end()
print(json.dumps([json.loads(os.read(reader, 10000)), sorted(key.name for key in parent.rows())]))
"""
    child, parent = run(code)
    assert child == [["child"], [], 0]
    assert parent == ["open over the fork"]


# Without the native part, the debug mode, and OTLP.


def test_without_the_native_part_nothing_is_installed_and_it_says_so():
    before = vars(TracerProvider)["__init__"]
    probe = SpansProbe(SpansConfig(), FakeClock(), Guard(), Recorder(None), print)
    probe.start()
    assert probe.state().state == "refused"
    assert vars(TracerProvider)["__init__"] is before
    probe.read()
    assert probe.statistics()["spans_total"] == 0
    probe.stop(1.0)


@pytest.mark.once
def test_the_middleware_can_be_imported_without_the_native_part():
    code = """
import json, sys
sys.modules["glassbottom._native"] = None
import glassbottom
app = glassbottom.WsgiMiddleware(lambda environ, start_response: [b"body"])
print(json.dumps([part.decode() for part in app({"REQUEST_METHOD": "GET"}, print)]))
"""
    assert run(code) == ["body"]


def test_the_debug_mode_logs_spans_and_flags_the_slow(caplog: pytest.LogCaptureFixture):
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    with watched(debug=True, slow_ms=1000.0):
        tracer = trace.get_tracer("tests")
        tracer.start_span("quick", start_time=1).end(2_000_001)
        tracer.start_span("slow", start_time=1).end(2_000_000_001)
    assert [(record.levelname, record.getMessage()) for record in caplog.records if "spans" in record.name] == [
        ("INFO", "start INTERNAL quick"),
        ("INFO", "end INTERNAL quick 2.0 ms ok"),
        ("INFO", "start INTERNAL slow"),
        ("WARNING", "end INTERNAL slow 2000.0 ms ok SLOW, limit 1000 ms"),
    ]


def test_the_debug_mode_marks_the_process():
    marked = Config(attributes={"service.version": "2"}, spans=SpansConfig(debug=True))
    assert marked.resource_attributes == {"service.version": "2", "deployment.environment.name": "debug"}
    assert Config(attributes={"a": "b"}).resource_attributes == {"a": "b"}


@pytest.mark.parametrize(
    ("endpoint", "grpc", "http"),
    [
        ("http://collector:4318", False, "http://collector:4318/v1/traces"),
        ("https://collector/custom/path", False, "https://collector/custom/path"),
        ("collector:4318", False, "http://collector:4318/v1/traces"),
        ("collector:4317", True, ""),
        ("grpc://collector:9999", True, ""),
        ("http://collector:4317", False, "http://collector:4317/v1/traces"),
    ],
)
def test_an_otlp_endpoint_is_http_unless_it_says_grpc(endpoint: str, grpc: bool, http: str):
    assert otlp.uses_grpc(endpoint) is grpc
    if http:
        assert otlp.http_address(endpoint) == http


def test_spans_are_sent_to_an_otlp_endpoint_as_well(otlp_server: tuple[str, list[str]]):
    address, received = otlp_server
    with watched(otlp_endpoint=address) as seen:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.get_tracer("tests").start_span("from a provider").end()
        trace.get_tracer("library").start_span("without a provider").end()
        assert names(seen) == {"from a provider": 1, "without a provider": 1}
        for processor in list(otlp._processors):
            assert processor.force_flush(20_000)
    sent = b"".join(bodies for bodies in received)
    assert b"from a provider" in sent
    assert b"without a provider" in sent


@pytest.fixture
def otlp_server() -> Any:
    """(address, bodies received) of a server that takes everything."""
    import gzip
    import http.server
    import threading

    received: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", received
        server.shutdown()
        thread.join()


def test_a_missing_exporter_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setattr(otlp, "_missing_said", False)
    with watched(otlp_endpoint="http://127.0.0.1:1") as seen:
        TracerProvider(shutdown_on_exit=False).get_tracer("tests").start_span("job").end()
        TracerProvider(shutdown_on_exit=False)
        assert names(seen) == {"job": 1}
    assert [record.getMessage() for record in caplog.records if "otlp" in record.getMessage()] != []
    assert caplog.text.count("Install glassbottom[otel]") == 1


def test_every_number_is_documented():
    documented = (Path(ROOT) / "docs" / "status.md").read_text()
    with watched() as seen:
        assert [name for name in seen.probe.statistics() if f"`{name}`" not in documented] == []
