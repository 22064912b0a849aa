"""The processor in C against what applications do to it: chains without an end, signals, hostile values."""

from __future__ import annotations

import contextvars
import gc
import threading
from typing import Any

import pytest
from glassbottom import _labels, _native
from glassbottom.probes.observations import Observation
from glassbottom.spans import http
from glassbottom.spans.ledger import EXEMPLARS_PER_NAME_MAX
from glassbottom.spans.listening import Host
from glassbottom.spans.open_spans import OPEN_MAX, Suspect
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from tests.support.programs import python
from tests.support.spans import Watched


def records() -> int:
    gc.collect()
    return sum(type(o) is _native.SpanRecord for o in gc.get_objects())


def test_a_chain_of_spans_each_started_in_the_one_before_is_not_kept(seen: Watched, tracer: trace.Tracer):
    # As a loop that starts its next round from within the last: it never comes to an end, and its spans do.
    before = records()
    span = tracer.start_span("round")
    for _ in range(300):
        following = tracer.start_span("round", trace.set_span_in_context(span))
        span.end()
        span = following
    assert records() <= before + 3
    span.end()


def test_a_chain_of_spans_that_never_end_is_kept_no_longer_than_its_records(seen: Watched, tracer: trace.Tracer):
    before, held = records(), []
    for _ in range(OPEN_MAX + 2000):
        above = trace.set_span_in_context(held[-1]) if held else None
        held.append(tracer.start_span("leaked", above))
    assert records() <= before + OPEN_MAX + 10


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("within", ["name", "slot", "number"])
def test_what_a_signal_handler_raises_reaches_the_application(
    seen: Watched, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], within: str
):
    def interrupted(*_: Any) -> Any:
        raise error

    if within == "number":
        monkeypatch.setattr(Host, within, interrupted)
    else:
        monkeypatch.setattr(seen.probe.ledger, within, interrupted)
    # Made now, so that it asks for what was replaced.
    seen.probe.stop(1.0)
    seen.probe.start()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")

    def one() -> None:
        tracer.start_span(f"interrupted in {within} by {error.__name__}", kind=SpanKind.SERVER).end()

    with pytest.raises(error):
        contextvars.copy_context().run(one)
    assert seen.guard.errors == 0


def test_a_span_that_we_cannot_start_leaves_no_mark(seen: Watched, monkeypatch: pytest.MonkeyPatch):
    def failing(_name: str) -> Any:
        raise ValueError

    spans = seen.probe.open_spans
    spans.suspects["GET /suspicious"] = Suspect()
    monkeypatch.setattr(spans, "place", failing)
    seen.probe.stop(1.0)
    seen.probe.start()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
    parent = tracer.start_span("parent", start_time=1)
    tracer.start_span("GET /suspicious", trace.set_span_in_context(parent), kind=SpanKind.SERVER, start_time=2)
    assert http.current_request.get() is None
    parent.end(10)
    assert _labels.current_name() == ""
    [(key, row)] = seen.rows().items()
    assert key.name == "parent"
    assert row[3] == 9  # its own time: no child runs
    assert seen.guard.errors == 1
    seen.guard.errors = 0


def test_slow_spans_may_be_told_while_another_one_is_added(seen: Watched):
    ledger = seen.probe.ledger
    name = ledger.name("slow")

    class Read(list[Any]):
        """Another thread makes a reading, just after this one has seen how many there are."""

        is_read = False

        def __len__(self) -> int:
            found = super().__len__()
            if not self.is_read:
                self.is_read = True
                ledger.read()
            return found

    told = (1 << 60, 0, Observation(0, "span.slow", "slow"))
    name.exemplars = Read([told] * EXEMPLARS_PER_NAME_MAX)
    ledger._touched.add(name)
    ledger.slow(name, 1 << 50, 0, "ok", "", dict)
    assert len(seen.told) == EXEMPLARS_PER_NAME_MAX


class Hostile:
    """A value whose text takes everything away from under whoever asks for it."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes

    def __str__(self) -> str:
        self.attributes.clear()
        gc.collect()
        return "host"


def test_attributes_may_vanish_while_they_are_read(seen: Watched, tracer: trace.Tracer):
    for _ in range(100):
        span: Any = tracer.start_span("call", kind=SpanKind.CLIENT)
        attributes: dict[str, Any] = span._attributes._dict
        attributes["server.port"] = int("9" * 30)
        attributes["server.address"] = Hostile(attributes)
        span.end()
    [key] = seen.rows()
    assert key.target == "host:" + "9" * 30


LEAKED = """
from glassbottom import _native

record = None
for _ in range(300_000):
    above, record = record, _native.SpanRecord()
    record.above = above
record = above = None
print("alive")
"""


def test_spans_that_never_end_go_without_harm():
    done = python(LEAKED, "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_spans_that_start_and_end_everywhere_at_once_are_all_counted(seen: Watched, tracer: trace.Tracer):
    started: list[trace.Span] = []

    def work(seed: int) -> None:
        for i in range(500):
            parent = trace.set_span_in_context(started[-1]) if started and i % 3 else None
            started.append(tracer.start_span(f"span {(seed + i) % 40}", parent, kind=list(SpanKind)[i % 5]))
            if i % 2 and started:
                started.pop(0).end()
            if i % 50 == 0:
                gc.collect(0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for span in started:
        span.end()
        span.end()  # the SDK warns, and tells nobody
    assert sum(row[1] for row in seen.rows().values()) == 2000
    assert _labels.current_name() == ""
