"""Memory by route: what a request allocates, and leaves behind, carries its label."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from glassbottom import _native
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from tests.support.sampling import sampler
from tests.support.spans import forget_provider, watched

PIECES, PIECE_BYTES = 200, 20_000

kept: list[bytearray] = []


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    yield
    kept.clear()


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/leak/{order}")
    async def leak(order: int) -> int:
        kept.extend(bytearray(PIECE_BYTES) for _ in range(PIECES // 2))
        await asyncio.sleep(0)
        kept.extend(bytearray(PIECE_BYTES) for _ in range(PIECES // 2))
        return order

    @app.get("/threaded/{order}")
    def threaded(order: int) -> int:
        kept.extend(bytearray(PIECE_BYTES) for _ in range(PIECES))
        return order

    return app


async def visit(app: Any, *paths: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tests") as client:
        await asyncio.gather(*(client.get(path) for path in paths))


def live_bytes_by_label() -> dict[str, float]:
    """Estimated, of blocks whose call path passes through this file's handlers."""
    snapshot = _native.snapshot()
    assert snapshot is not None
    found: dict[str, float] = {}
    nodes = memoryview(snapshot["node"]).cast("I")
    for node, live in zip(nodes, memoryview(snapshot["live_bytes_by_node"]).cast("d"), strict=True):
        frames, _, label = _native.stack(node)
        if live and any(code.co_filename == __file__ for code, _ in frames):
            name = _native.label_name(label)
            found[name] = found.get(name, 0.0) + live
    return found


def assert_about_all(live_bytes: float) -> None:
    """4 MB in blocks of 20 KB at a sample per 16 KiB: an estimate to some per cent."""
    assert live_bytes == pytest.approx(PIECES * PIECE_BYTES, rel=0.4)


@pytest.mark.parametrize("traced", [False, True])
def test_what_a_request_leaves_behind_carries_its_route(traced: bool, monkeypatch: pytest.MonkeyPatch):
    forget_provider(monkeypatch)
    with watched(), sampler():
        if traced:
            trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
        asyncio.run(visit(shop(), "/leak/17", "/threaded/18"))
        found = live_bytes_by_label()
        kept.extend(bytearray(PIECE_BYTES) for _ in range(PIECES))
        outside = live_bytes_by_label().get("", 0.0) - found.get("", 0.0)
    assert_about_all(found["GET /leak/{order}"])
    assert_about_all(found["GET /threaded/{order}"])
    assert_about_all(outside)


def test_a_job_under_a_span_carries_the_span_s_name():
    with watched(), sampler():
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
        with tracer.start_as_current_span("nightly"), tracer.start_as_current_span("step"):
            kept.extend(bytearray(PIECE_BYTES) for _ in range(PIECES))
        found = live_bytes_by_label()
    assert_about_all(found["nightly"])
    assert "step" not in found
