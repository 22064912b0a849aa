"""A span is begun for every upload and never ended where the upload is refused."""

import asyncio
from collections import deque

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from program import run

tracer = trace.get_tracer("uploads")
refused: deque[trace.Span] = deque(maxlen=500)


async def upload(size_bytes: int) -> None:
    span = tracer.start_span("upload")
    await asyncio.sleep(0)
    if size_bytes > 1000:
        refused.append(span)
        return  # BUG: the span is still open
    span.end()


async def main() -> None:
    number = 0
    while True:
        number += 1
        with tracer.start_as_current_span("handle upload"):
            await upload(size_bytes=2000 if number % 10 == 0 else 500)
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    trace.set_tracer_provider(TracerProvider())
    run(main)
