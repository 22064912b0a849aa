"""Hostile input: a sentence, and never anything else."""

from __future__ import annotations

import struct
import time
import zlib

import numpy as np
import pytest
import zstandard
from glassbottom.wire.v1 import common_pb2, heap_pb2, ingest_pb2, metrics_pb2
from glassbottom_collector.config import IngestConfig
from glassbottom_collector.ingest.decode import Malformed, body_of, heap_of, metrics_of, process_of, statistics_of
from glassbottom_collector.model.heap import HeapSnapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.wire_messages import HEAP, SITE_COLUMNS, TYPE_COLUMNS, Code, batch, heap_snapshot, metrics_snapshot

LIMITS = IngestConfig()
NOW_NS = time.time_ns()
INSTANCE = "a" * 32


def heap(message: heap_pb2.HeapSnapshot) -> HeapSnapshot:
    return heap_of(message.SerializeToString(), INSTANCE, LIMITS, NOW_NS)


def complaint(message: heap_pb2.HeapSnapshot) -> str:
    with pytest.raises(Malformed) as caught:
        heap(message)
    return str(caught.value)


def plain() -> heap_pb2.HeapSnapshot:
    """A snapshot that is in order, with two rows of each kind."""
    code = Code()
    stacks = [code.stack(("f", "a.py", 1)), code.stack(("g", "b.py", 2))]
    kinds = [code.type("dict"), code.type("list")]
    return heap_snapshot(
        NOW_NS,
        {"stack": stacks, "live_bytes": [1.0, 2.0]},
        {"stack": stacks, "type": kinds, "live_bytes": [1.0, 2.0]},
        code.definitions(),
    )


def test_what_is_in_order_comes_through() -> None:
    decoded = heap(plain())
    assert decoded.header.instance_id == INSTANCE
    assert decoded.sites.live_bytes.tolist() == [1.0, 2.0]
    assert len(decoded.definitions.frames) == len(decoded.definitions.stacks) == len(decoded.definitions.types) == 2


@pytest.mark.parametrize("name", SITE_COLUMNS)
def test_a_site_column_of_another_length_is_refused(name: str) -> None:
    for change in (b"", b"\0", bytes(np.dtype(SITE_COLUMNS[name]).itemsize * 3)):
        message = plain()
        setattr(message.sites, name, change)
        assert complaint(message).startswith("sites.")


@pytest.mark.parametrize("name", TYPE_COLUMNS)
def test_a_type_column_of_another_length_is_refused(name: str) -> None:
    message = plain()
    setattr(message.types, name, getattr(message.types, name)[:-1])
    assert complaint(message).startswith("types.")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1.0, 1e300])
@pytest.mark.parametrize("name", [name for name, kind in SITE_COLUMNS.items() if kind == "<f8"])
def test_a_value_that_is_no_amount_is_refused(name: str, value: float) -> None:
    message = plain()
    setattr(message.sites, name, struct.pack("<2d", 1.0, value))
    assert complaint(message) == f"sites.{name} has a value that is negative, infinite or no number."


def test_a_birth_before_the_epoch_is_refused() -> None:
    message = plain()
    message.sites.birth_mean_ms = struct.pack("<2q", 1, -1)
    assert "negative" in complaint(message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("interval_bytes", 0.0),
        ("interval_bytes", float("nan")),
        ("window_share", 0.0),
        ("window_share", 1.5),
        ("window_share", float("nan")),
        ("live_bytes", -1.0),
        ("live_bytes", float("inf")),
        ("live_bytes_variance", float("nan")),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(field: str, value: float) -> None:
    message = plain()
    setattr(message, field, value)
    assert complaint(message).startswith(field)


def test_a_stack_listed_twice_is_refused() -> None:
    message = heap_snapshot(NOW_NS, {"stack": [5, 5]})
    assert complaint(message) == "sites lists a stack twice."
    message = heap_snapshot(NOW_NS, {"stack": [5]}, {"stack": [5, 5], "type": [1, 1]})
    assert complaint(message) == "types lists a type of a stack twice."
    assert len(heap(heap_snapshot(NOW_NS, {"stack": [5]}, {"stack": [5, 5], "type": [1, 2]})).types) == 2


@pytest.mark.parametrize("kind", ["frames", "stacks", "types"])
def test_a_definition_under_another_ones_id_is_refused(kind: str) -> None:
    """One wrong definition would rename a line of code in every process that shares the store."""
    message = plain()
    getattr(message.definitions, kind)[0].id ^= 1
    assert "but its content has" in complaint(message)


def test_a_known_definition_is_passed_over_even_when_it_lies() -> None:
    message = plain()
    known = {frame.id for frame in message.definitions.frames}
    message.definitions.frames[0].function = "something_else"
    decoded = heap_of(message.SerializeToString(), INSTANCE, LIMITS, NOW_NS, known)
    assert decoded.definitions.frames == {}
    assert len(decoded.definitions.stacks) == 2


def test_the_zero_that_separates_the_parts_of_a_hash_is_not_allowed_inside_one() -> None:
    frame = Code()
    frame.stack(("f\0a.py", "b.py", 1))
    message = heap_snapshot(NOW_NS, {}, definitions=frame.definitions())
    assert "zero character" in complaint(message)


def test_texts_and_stacks_have_a_length() -> None:
    long = Code()
    long.stack(("f" * 1025, "a.py", 1))
    assert "at most 1024" in complaint(heap_snapshot(NOW_NS, {}, definitions=long.definitions()))
    deep = Code()
    deep.stack(*(("f", "a.py", line) for line in range(129)))
    assert "at most 128" in complaint(heap_snapshot(NOW_NS, {}, definitions=deep.definitions()))
    edge = Code()
    edge.stack(*(("f" * 1024, "a" * 1024, line) for line in range(128)))
    assert len(heap(heap_snapshot(NOW_NS, {}, definitions=edge.definitions())).definitions.frames) == 128


def test_rows_and_definitions_have_a_number() -> None:
    few = IngestConfig(rows_per_batch_max=10, definitions_per_batch_max=5)
    with pytest.raises(Malformed, match="11 rows; at most 10"):
        heap_of(heap_snapshot(NOW_NS, {"stack": np.arange(11)}).SerializeToString(), INSTANCE, few, NOW_NS)
    message = heap_snapshot(NOW_NS, {}, definitions=common_pb2.Definitions(types=[common_pb2.Type()] * 6))
    with pytest.raises(Malformed, match="6 definitions; at most 5"):
        heap_of(message.SerializeToString(), INSTANCE, few, NOW_NS)
    readings = metrics_snapshot(NOW_NS, [("m", 1.0)] * 11)
    with pytest.raises(Malformed, match="11 readings; at most 10"):
        metrics_of(readings.SerializeToString(), few, NOW_NS)


@pytest.mark.parametrize(
    ("reading", "sentence"),
    [
        (("", 1.0), "has no name"),
        (("m" * 256, 1.0), "at most 255"),
        (("m", float("nan")), "not between"),
        (("m", float("inf")), "not between"),
        (("m", 1.0, {str(number): "" for number in range(65)}), "65 attributes"),
        (("m", 1.0, {"key": "v" * 256}), "at most 255"),
    ],
)
def test_a_reading_that_makes_no_sense_is_refused(reading: tuple[object, ...], sentence: str) -> None:
    with pytest.raises(Malformed, match=sentence):
        metrics_of(metrics_snapshot(NOW_NS, [reading]).SerializeToString(), LIMITS, NOW_NS)  # type: ignore[list-item]


def packed(raw: bytes, **change: object) -> ingest_pb2.Batch:
    message = batch(HEAP, 1, raw)
    for name, value in change.items():
        setattr(message, name, value)
    return message


def test_the_body_is_the_one_that_was_packed() -> None:
    body = plain().SerializeToString()
    assert body_of(packed(body), LIMITS) == body
    assert body_of(batch(HEAP, 1, body, codec=ingest_pb2.CODEC_NONE), LIMITS) == body
    assert body_of(packed(b""), LIMITS) == b""


def test_a_body_with_another_checksum_or_length_is_refused() -> None:
    with pytest.raises(Malformed, match="checksum"):
        body_of(packed(b"abc", body_crc32=1), LIMITS)
    with pytest.raises(Malformed, match="declares 3 bytes and the batch 4"):
        body_of(packed(b"abc", body_bytes=4), LIMITS)
    with pytest.raises(Malformed, match="3 bytes and not the 4"):
        body_of(packed(b"", codec=ingest_pb2.CODEC_NONE, body=b"abc", body_bytes=4), LIMITS)
    with pytest.raises(Malformed, match="Codec 7"):
        body_of(packed(b"abc", codec=7), LIMITS)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """64 MiB of zeros are 6 kB packed. Whether it declares its size, lies about it, or keeps silent: refused, and no
    more memory is taken than was declared."""
    zeros = bytes(64 * 2**20)
    honest = zstandard.ZstdCompressor().compress(zeros)
    with pytest.raises(Malformed, match="at most"):
        body_of(ingest_pb2.Batch(codec=ingest_pb2.CODEC_ZSTD, body=honest, body_bytes=len(zeros)), LIMITS)
    with pytest.raises(Malformed, match="declares 67108864 bytes and the batch 100"):
        body_of(ingest_pb2.Batch(codec=ingest_pb2.CODEC_ZSTD, body=honest, body_bytes=100), LIMITS)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(zeros)
    with pytest.raises(Malformed):
        body_of(ingest_pb2.Batch(codec=ingest_pb2.CODEC_ZSTD, body=silent, body_bytes=100), LIMITS)
    # A frame whose header says 100 bytes and whose blocks hold 64 MiB.
    parameters = zstandard.get_frame_parameters(honest)
    assert parameters.content_size == len(zeros)
    small = zstandard.ZstdCompressor().compress(bytes(100))
    liar = small[:6] + honest[9:]
    with pytest.raises(Malformed):
        body_of(ingest_pb2.Batch(codec=ingest_pb2.CODEC_ZSTD, body=liar, body_bytes=100), LIMITS)


def test_only_one_frame_is_accepted() -> None:
    frame = zstandard.ZstdCompressor().compress(b"abc")
    with pytest.raises(Malformed):
        body_of(packed(b"abc", body=frame + frame), LIMITS)
    with pytest.raises(Malformed):
        body_of(packed(b"abc", body=frame[:-1]), LIMITS)


@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_a_snapshot_or_a_complaint(body: bytes) -> None:
    for decode in (lambda: heap_of(body, INSTANCE, LIMITS, NOW_NS), lambda: metrics_of(body, LIMITS, NOW_NS)):
        try:
            decode()
        except Malformed as error:
            assert str(error).endswith(".")


@settings(max_examples=300)
@given(st.data())
def test_a_snapshot_with_bytes_changed_is_a_snapshot_or_a_complaint(data: st.DataObject) -> None:
    raw = bytearray(plain().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        decoded = heap_of(bytes(raw), INSTANCE, LIMITS, NOW_NS)
    except Malformed:
        return
    assert len(decoded.sites.live_bytes) == len(decoded.sites)
    assert np.all(np.isfinite(decoded.sites.live_bytes))


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans())
def test_any_batch_at_all_is_unpacked_or_refused(body: bytes, size: int, codec: int, honest: bool) -> None:
    message = ingest_pb2.Batch(
        codec=codec, body=body, body_bytes=len(body) if honest else size, body_crc32=zlib.crc32(body)
    )  # type: ignore[arg-type]
    try:
        assert len(body_of(message, LIMITS)) == message.body_bytes
    except Malformed as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=200))
def test_any_hello_or_heartbeat_at_all_is_taken_or_refused(raw: bytes) -> None:
    for message, read in ((ingest_pb2.Hello(), process_of), (ingest_pb2.Heartbeat(), statistics_of)):
        try:
            message.ParseFromString(raw)
            read(message)  # type: ignore[operator]
        except (Malformed, Exception) as error:
            assert type(error).__name__ in ("Malformed", "DecodeError")


@given(
    st.lists(st.tuples(st.text(max_size=20), st.floats(), st.dictionaries(st.text(max_size=5), st.text(max_size=5))))
)
def test_any_readings_at_all_are_taken_or_refused(readings: list[tuple[str, float, dict[str, str]]]) -> None:
    message = metrics_pb2.MetricsSnapshot(at_ns=NOW_NS)
    for name, value, attributes in readings:
        message.metrics.add(name=name, value=value, attributes=attributes)
    try:
        points = metrics_of(message.SerializeToString(), LIMITS, NOW_NS)
    except Malformed:
        return
    assert [point.value for point in points] == [value for _, value, _ in readings]
