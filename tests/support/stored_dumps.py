"""Heap dumps in a collector's store of captures, as if agents had sent them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from glassbottom_collector.captures import CaptureStore
from glassbottom_collector.config import CapturesConfig
from glassbottom_collector.model.capture import ORDERED, CaptureRow

from tests.support.heap_dump_file import DumpFile

SECOND = 10**9


def captures(directory: Path, clock_ns: Callable[[], int]) -> CaptureStore:
    """An empty store."""
    return CaptureStore(directory, CapturesConfig(), clock_ns)


def put(
    store: CaptureStore,
    capture_id: str,
    content: bytes,
    *,
    at_ns: int,
    instance_id: str,
    service: str = "shop",
    kind: str = "dump_heap",
    numbers: Mapping[str, float] | None = None,
) -> str:
    """Stores a file under an id of 32 digits that begins so; gives the id."""
    capture_id = capture_id.ljust(32, "0")
    store.open(CaptureRow(capture_id, kind, service, instance_id, ORDERED, at_ns, "a test", at_ns + 60 * SECOND))
    store.begin(capture_id, len(content))
    store.write(capture_id, 0, content)
    store.change(capture_id, numbers=numbers or {})
    store.complete(capture_id)
    return capture_id


def chat(sessions: int, *, at_ns: int, instance_id: str, noise: int = 50, end: bool = True) -> bytes:
    """A heap dump of a chat service: `app.ws.HANDLERS` keeps sessions, each with a message; a pool keeps some more."""
    dump = DumpFile(service="shop", instance_id=instance_id, at_ns=at_ns, pause_ns=2_000_000)
    kept = dump.list([_session(dump) for _ in range(sessions)])
    pool = dump.list([_session(dump) for _ in range(noise)])
    dump.module("app.ws", HANDLERS=kept)
    dump.module("app.pool", POOL=pool)
    return dump.bytes(end=end)


def _session(dump: DumpFile) -> int:
    return dump.instance("app.ws.Session", message=dump.add("bytes", size=500, flags=0, length=467))
