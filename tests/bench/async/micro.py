"""Times one step and one span with our part on and off, in turn within one process; prints one JSON line.

On and off alternate every few milliseconds in the order A B B A, so that the machine's drift hits both alike; figures
are medians of the differences between neighbours. The heap sampler stays out: its cost has a benchmark of its own.
"""

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvloop
from glassbottom import _native
from glassbottom._clock import SystemClock
from glassbottom._config import SpansConfig
from glassbottom._guard import Guard
from glassbottom.probes.operations import Recorder
from glassbottom.spans.probe import SpansProbe
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

STEPS = 10_000
SPANS = 500


def alternate(rounds: int, sides: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Seconds of each side in every round; the order is turned round each time."""
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(rounds):
        order = range(len(sides)) if round_ % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            taken[side].append(sides[side]())
    return taken


def difference(with_s: Sequence[float], without_s: Sequence[float], count: int, unit: float) -> float:
    """Median difference of a single one, in the unit."""
    pairs = zip(with_s, without_s, strict=True)
    return round(statistics.median(a - b for a, b in pairs) / count / unit, 2)


def step(rounds: int, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> tuple[float, float]:
    """(nanoseconds our hook adds to a step, nanoseconds of such a step without it); a step is `sleep(0)`."""

    async def stepping() -> None:
        for _ in range(STEPS):
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:

        def timed() -> float:
            started = time.perf_counter()
            runner.run(stepping())
            return time.perf_counter() - started

        def watched() -> float:
            _native.steps_start()
            try:
                return timed()
            finally:
                _native.steps_stop()

        timed(), watched()
        on, off = alternate(rounds, [watched, timed])
    return difference(on, off, STEPS, 1e-9), round(statistics.median(off) / STEPS * 1e9, 1)


class Nowhere(SpanExporter):
    """Takes spans and does nothing."""

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def spans(rounds: int) -> dict[str, float]:
    """Microseconds that a processor adds to a span that is started as the current one and ended."""
    probe = SpansProbe(SpansConfig(http=False), SystemClock(), Guard(), Recorder(_native.OperationTable()), _ignore)

    def provider(processor: SpanProcessor | None) -> TracerProvider:
        made = TracerProvider(shutdown_on_exit=False)
        if processor is not None:
            made.add_span_processor(processor)
        return made

    def timed(made: TracerProvider) -> Callable[[], float]:
        tracer = made.get_tracer("bench")

        def run() -> float:
            started = time.perf_counter()
            for _ in range(SPANS):
                with tracer.start_as_current_span("GET /orders/{id}"):
                    pass
            return time.perf_counter() - started

        run()
        return run

    batch = BatchSpanProcessor(Nowhere(), max_queue_size=1 << 16, schedule_delay_millis=500)
    # Ours is put into every provider made while the probe runs, so the bare ones come first.
    bare, batching = timed(provider(None)), timed(provider(batch))
    probe.start()
    ours = timed(provider(None))
    none_s, ours_s, batch_s = alternate(rounds * 4, [bare, ours, batching])
    probe.stop(1.0)
    batch.shutdown()
    return {
        "us_per_span": difference(ours_s, none_s, SPANS, 1e-6),
        "us_per_span_batch_processor": difference(batch_s, none_s, SPANS, 1e-6),
        "us_per_span_sdk_alone": round(statistics.median(none_s) / SPANS * 1e6, 2),
    }


def _ignore(observation: object) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, required=True)
    rounds = parser.parse_args().rounds
    gc.collect()
    gc.freeze()
    result: dict[str, float] = {}
    result["ns_per_step"], result["ns_of_a_step"] = step(rounds, asyncio.new_event_loop)
    result["ns_per_step_uvloop"], result["ns_of_a_step_uvloop"] = step(rounds, uvloop.new_event_loop)
    result |= spans(rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
