"""Kills a real collector under load, again and again, and counts what it had promised to keep.

    python -m tests.bench.kill9 --rounds 20

Several raw clients send heap snapshots and readings as fast as the collector acknowledges them, with times that cross
a midnight. At random moments the collector gets SIGKILL and starts again on the same data and port; the clients
connect again and resend what Welcome does not list as durable. At the end the files themselves are read: every
acknowledged batch must be there, whole, and every batch at most once. The last line is JSON; exit code 3 when
anything was lost, stored twice, or torn.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
from glassbottom.wire.v1 import ingest_pb2

from tests.support.collector_process import CollectorProcess
from tests.support.wire_client import WireClient
from tests.support.wire_messages import HEAP, METRICS, Code, batch, heap_snapshot, metrics_snapshot

IN_FLIGHT_MAX = 40
DAY_NS = 86_400 * 10**9
STEP_NS = 20_000_000


@dataclass
class Client:
    """One agent that never gives up. acked holds (stream, seq) the collector has promised to keep."""

    address: str
    midnight_ns: int
    stop: threading.Event
    acked: set[tuple[int, int]] = field(default_factory=set)
    sent_twice: int = 0
    connections: int = 0
    unacked: dict[tuple[int, int], ingest_pb2.Batch] = field(default_factory=dict)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.wire = WireClient(self.address)
        self.code = Code()
        self.stacks = np.array([self.code.stack((f"f{i}", "app.py", i)) for i in range(100)], dtype=np.uint64)
        self.next = 1
        self.thread = threading.Thread(target=self._run, name="kill9-client", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not (self.stop.is_set() and not self.unacked):
                try:
                    self.wire.connect(timeout_s=1.0)
                    self._resume()
                    self._talk()
                except (TimeoutError, ConnectionError):
                    continue  # the collector is away, or went away
                finally:
                    self.wire.close()
        except BaseException as error:
            self.error = error

    def _resume(self) -> None:
        assert self.wire.welcome is not None
        self.connections += 1
        self._note(dict(self.wire.welcome.resume))
        for message in self.unacked.values():
            self.sent_twice += 1
            self.wire.send_batch(message)

    def _talk(self) -> None:
        heard = self.wire.heard
        while heard.ended is None and not (self.stop.is_set() and not self.unacked):
            self._note(heard.acked)
            if heard.rejects:
                raise AssertionError(f"rejected: {heard.rejects[0].reason}")
            if len(self.unacked) >= IN_FLIGHT_MAX or self.stop.is_set():
                time.sleep(0.002)
                continue
            for message in (self._heap(self.next), self._metrics(self.next)):
                self.unacked[message.stream, message.seq] = message
                self.wire.send_batch(message)
            self.next += 1

    def _note(self, durable: dict[int, int]) -> None:
        for key in [key for key in self.unacked if key[1] <= durable.get(key[0], 0)]:
            del self.unacked[key]
            self.acked.add(key)

    def _heap(self, seq: int) -> ingest_pb2.Batch:
        stacks = self.stacks[: rows_of(HEAP, seq)]
        body = heap_snapshot(
            self.midnight_ns + (seq - 100) * STEP_NS,
            {"stack": stacks, "live_bytes": np.full(len(stacks), float(seq))},
            definitions=self.code.definitions() if seq == 1 else None,
            complete=seq % 20 == 1,
        )
        return batch(HEAP, seq, body)

    def _metrics(self, seq: int) -> ingest_pb2.Batch:
        readings = [(f"metric.{i}", float(seq)) for i in range(rows_of(METRICS, seq))]
        return batch(METRICS, seq, metrics_snapshot(self.midnight_ns + (seq - 100) * STEP_NS, readings))


def rows_of(stream: int, seq: int) -> int:
    """How many rows a batch has, so that a torn one can be told from a whole one."""
    return 20 + seq % 80 if stream == HEAP else 1 + seq % 7


def run(
    rounds: int, clients: int = 4, seed: int | None = None, up_s: tuple[float, float] = (0.1, 1.5)
) -> dict[str, object]:
    """Plays the rounds; the counts, as the last line shows them. up_s: a life of the collector is drawn from it."""
    chance = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="glassbottom-kill9-"))
    stop = threading.Event()
    address = f"127.0.0.1:{free_port()}"
    midnight_ns = time.time_ns() // DAY_NS * DAY_NS
    started_s = time.monotonic()
    try:
        agents = [Client(address, midnight_ns, stop) for _ in range(clients)]
        for _ in range(rounds):
            collector = CollectorProcess(directory, listen=address)
            time.sleep(chance.uniform(*up_s))
            collector.kill()
        collector = CollectorProcess(directory, listen=address)
        stop.set()
        for agent in agents:
            agent.thread.join(60)
            if agent.error is not None or agent.thread.is_alive():
                raise RuntimeError("a client did not finish") from agent.error
        collector.stop()
        return {
            "rounds": rounds,
            "acked_batches": sum(len(agent.acked) for agent in agents),
            **audit(directory, agents),
            "resent": sum(agent.sent_twice for agent in agents),
            "connections": sum(agent.connections for agent in agents),
            "seconds": round(time.monotonic() - started_s, 1),
        }
    finally:
        stop.set()
        shutil.rmtree(directory, ignore_errors=True)


def audit(directory: Path, agents: list[Client]) -> dict[str, object]:
    """What the files hold, read without any code of the collector."""
    stored: Counter[tuple[str, int, int]] = Counter()
    torn = 0
    files = sorted(directory.glob("day=*.duckdb"))
    for path in files:
        with duckdb.connect() as engine:
            engine.execute(f"ATTACH '{path}' AS day (READ_ONLY)")
            rows = engine.execute(
                "SELECT session_id, stream, seq, (SELECT count(*) FROM day.heap_site s WHERE s.batch = b.batch) "
                "+ (SELECT count(*) FROM day.metric m WHERE m.batch = b.batch) FROM day.batch b"
            ).fetchall()
        for session_id, stream, seq, count in rows:
            stored[session_id, stream, seq] += 1
            torn += count != rows_of(stream, seq)
    acked = {(agent.wire.session_id, stream, seq) for agent in agents for stream, seq in agent.acked}
    return {
        "stored_batches": sum(stored.values()),
        "lost": len(acked - stored.keys()),
        "duplicates": sum(stored.values()) - len(stored),
        "torn": torn,
        "days": len(files),
        "set_aside": len(list(directory.glob("*.corrupt-*"))),
    }


def free_port() -> int:
    """A port that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    result = run(args.rounds, args.clients, args.seed)
    print(json.dumps(result))
    return 3 if result["lost"] or result["duplicates"] or result["torn"] or result["set_aside"] else 0


if __name__ == "__main__":
    sys.exit(main())
