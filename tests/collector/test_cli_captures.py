"""How `glassbottom dump` and `glassbottom captures` read, in every state that a capture can be in.

A ControlService that says fixed things; what a real one says is tested in test_captures_end_to_end.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from glassbottom.wire.v1 import control_pb2, control_pb2_grpc, ingest_pb2
from glassbottom_collector.cli import main

from tests.support.cli import Cli
from tests.support.golden import assert_reads_like
from tests.support.query_double_memory import AT_NS, INSTANCE, SECOND_NS
from tests.support.schemas import validate_strictly
from tests.support.terminal import become_terminal

pytestmark = pytest.mark.once

MIB = 1 << 20
HEAP, MEMRAY, GC = (
    ingest_pb2.COMMAND_KIND_DUMP_HEAP,
    ingest_pb2.COMMAND_KIND_DUMP_MEMRAY,
    ingest_pb2.COMMAND_KIND_GC_COLLECT,
)
FACTS = {"pause_ms": 6.4, "objects": 512_345.0, "seconds": 0.8, "dirtied_bytes": 11.0 * MIB, "resident_bytes": 388e6}


def record(number: int, kind: int, state: str, **more: object) -> control_pb2.CaptureRecord:
    """One that was asked for so many minutes ago."""
    values: dict[str, object] = {
        "id": f"{0x5A6B7C80 + number:08x}" + "0" * 24,
        "kind": kind,
        "service": "checkout",
        "instance_id": INSTANCE,
        "state": control_pb2.CaptureState.Value(f"CAPTURE_STATE_{state}"),
        "asked_at_ns": AT_NS - number * 60 * SECOND_NS,
        "asked_by": "ann@laptop from 10.0.0.7",
        "bytes_max": 4096 * MIB,
        "lease_until_ns": AT_NS + 900 * SECOND_NS,
    }
    return control_pb2.CaptureRecord(**{**values, **more})  # type: ignore[arg-type]


def ended(number: int, seconds: float) -> int:
    return AT_NS - number * 60 * SECOND_NS + int(seconds * SECOND_NS)


RECORDS = (
    record(0, HEAP, "RUNNING"),
    record(1, HEAP, "UPLOADING", file_bytes=90 * MIB, stored_bytes=30 * MIB, numbers=FACTS),
    record(
        2,
        HEAP,
        "STORED",
        file_bytes=89 * MIB,
        stored_bytes=89 * MIB,
        ended_at_ns=ended(2, 6.5),
        numbers=FACTS,
        texts={"end": "complete"},
    ),
    record(
        3,
        MEMRAY,
        "REFUSED",
        ended_at_ns=ended(3, 0.02),
        reason='This process does not allow "dump_memray"; add it to GLASSBOTTOM_COMMANDS there.',
    ),
    record(
        4,
        HEAP,
        "FAILED",
        ended_at_ns=ended(4, 1.5),
        reason="The copy that wrote the dump was ended by SIGKILL after 91422 objects; when memory is short, the "
        "system ends it first.",
    ),
    record(5, GC, "STORED", ended_at_ns=ended(5, 5), numbers={"freed_bytes": 3.0 * MIB, "pause_ms": 41.0}),
    record(
        6, HEAP, "STORED", file_bytes=MIB, stored_bytes=MIB, ended_at_ns=ended(6, 2), deleted_at_ns=AT_NS - SECOND_NS
    ),
)
STATES = {
    "running": (RECORDS[0], 0),
    "uploading": (RECORDS[1], 0),
    "stored": (RECORDS[2], 0),
    "refused": (RECORDS[3], 4),
    "failed": (RECORDS[4], 1),
    "facts": (RECORDS[5], 0),
    "deleted": (RECORDS[6], 0),
}


class Control(control_pb2_grpc.ControlServiceServicer):
    """ordered: what became of the next order."""

    ordered = RECORDS[2]

    def Capture(self, request, context):
        yield control_pb2.CaptureResponse(record=RECORDS[0])
        yield control_pb2.CaptureResponse(record=self.ordered)

    def ListCaptures(self, request, context):
        return control_pb2.ListCapturesResponse(records=RECORDS)


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def cli(control: Control, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    control_pb2_grpc.add_ControlServiceServicer_to_server(control, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Cli(f"127.0.0.1:{port}", capsys)
    server.stop(None).wait()


def test_the_list_reads_in_a_pipe_and_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("captures") == 0
    assert "\x1b" not in cli.out
    assert_reads_like("cli_captures.txt", cli.out)
    out, _ = become_terminal(monkeypatch, columns=80)
    assert main(["captures", "--addr", cli.address]) == 0
    assert max(map(len, out.text.splitlines())) <= 80
    assert_reads_like("cli_captures_80.txt", out.text)


def test_one_capture_reads_the_same_whenever_it_is_asked_about(cli: Cli) -> None:
    told = ""
    for name, (each, _) in STATES.items():
        assert cli("captures", "show", each.id[:8]) == 0, name
        told += f"--- {name}\n{cli.out}"
    assert_reads_like("cli_captures_show.txt", told)


@pytest.mark.parametrize("name", ["stored", "refused", "failed", "facts"])
def test_an_order_ends_with_what_became_of_it(name: str, cli: Cli, control: Control) -> None:
    control.ordered, code = STATES[name]
    assert cli("dump", "heap", "--service", "checkout") == code
    assert cli.err == ""
    assert_reads_like(f"cli_dump_{name}.txt", cli.out)


@pytest.mark.parametrize("name", STATES)
def test_json_is_what_its_schema_says_in_every_state(name: str, cli: Cli, control: Control) -> None:
    control.ordered, code = STATES[name]
    assert cli("dump", "heap", "--service", "checkout", "-o", "json") == code
    document = json.loads(cli.out)
    validate_strictly(document, "dump")
    assert cli("captures", "-o", "json") == 0
    listed = json.loads(cli.out)
    validate_strictly(listed, "captures")
    assert document["capture"] in listed["captures"]
