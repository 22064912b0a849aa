"""Wire to model: the only translation, and the border at which nothing is believed.

Whatever arrives was written by somebody else's process. It is checked for size before it is unpacked, for its
checksum, for columns of equal length, for numbers that are numbers, and definitions are checked against their
content hashes, since one wrong definition would rename a line of code in every process that shares the store. What
does not pass raises Malformed with one sentence for the agent's operator, and never anything else.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import zstandard
from glassbottom.wire.v1 import common_pb2, heap_pb2, ingest_pb2, metrics_pb2
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from ..config import IngestConfig
from ..model.code import Frame, Stack, content_id, stack_id, type_id
from ..model.heap import Definitions, HeapSnapshot, MetricPoint, SiteColumns, SnapshotHeader, TypeColumns
from ..model.process import Process
from ..storage import EARLY_S_MAX, LATE_S_MAX

PROTOCOL = 1

TEXT_CHARS_MAX = 1024
"""Of a function, file or type name, as common.proto promises."""
FRAMES_PER_STACK_MAX = 128
NAME_CHARS_MAX = 255
ATTRIBUTES_MAX = 64
METRICS_PER_BATCH_MAX = 2_000
STATISTICS_MAX = 256

_SITES = {
    "stack": "<u8",
    "live_bytes": "<f8",
    "live_bytes_variance": "<f8",
    "live_objects": "<f8",
    "live_objects_variance": "<f8",
    "alloc_bytes": "<f8",
    "alloc_objects": "<f8",
    "samples": "<u4",
    "birth_oldest_ms": "<i8",
    "birth_mean_ms": "<i8",
    "birth_minutes": "<u4",
}
_TYPES = {"stack": "<u8", "type": "<u8", "live_bytes": "<f8", "live_objects": "<f8", "samples": "<u4"}
_VALUE_MAX = 2.0**63
"""Above any heap; keeps sums of many rows finite. Variances may reach its square."""
_HEX = re.compile(r"[0-9a-f]{32}")


class Malformed(Exception):  # noqa: N818 - what the data are
    """Will never be accepted as it is. The message is one sentence."""


def process_of(hello: ingest_pb2.Hello) -> Process:
    """The process that introduces itself."""
    sent = hello.process
    if hello.protocol != PROTOCOL:
        raise Malformed(f"This collector speaks protocol {PROTOCOL}, the agent {hello.protocol}: update the older one.")
    if not _HEX.fullmatch(hello.session_id):
        raise Malformed("session_id must be 32 lower-case hexadecimal digits.")
    if not _HEX.fullmatch(sent.instance_id):
        raise Malformed("process.instance_id must be 32 lower-case hexadecimal digits.")
    if not sent.service:
        raise Malformed("process.service is empty; set the service name of the application.")
    _check_text("process.service", sent.service, NAME_CHARS_MAX)
    _check_text("agent_version", hello.agent_version, NAME_CHARS_MAX)
    _check_attributes("process.attributes", sent.attributes, TEXT_CHARS_MAX)
    if sent.started_at_ns >= 2**63:
        raise Malformed("process.started_at_ns lies beyond the year 2262.")
    return Process(sent.service, sent.instance_id, sent.pid, sent.started_at_ns, dict(sent.attributes))


def body_of(batch: ingest_pb2.Batch, limits: IngestConfig) -> bytes:
    """The decompressed body, of the declared length and checksum."""
    if len(batch.body) > limits.batch_bytes_max:
        raise Malformed(f"The batch has {len(batch.body)} bytes; at most {limits.batch_bytes_max} are accepted.")
    if batch.body_bytes > limits.body_bytes_max:
        raise Malformed(f"The batch unpacks to {batch.body_bytes} bytes; at most {limits.body_bytes_max} are accepted.")
    match batch.codec:
        case ingest_pb2.CODEC_NONE:
            body = batch.body
        case ingest_pb2.CODEC_ZSTD:
            body = _unpack(batch.body, batch.body_bytes)
        case _:
            raise Malformed(f"Codec {batch.codec} is not known; use one that Welcome lists.")
    if len(body) != batch.body_bytes:
        raise Malformed(f"The body has {len(body)} bytes and not the {batch.body_bytes} it declares.")
    if zlib.crc32(body) != batch.body_crc32:
        raise Malformed("The checksum of the body is wrong: it was damaged on its way.")
    return body


def heap_of(
    body: bytes, instance_id: str, limits: IngestConfig, now_ns: int, known: Container[int] = frozenset()
) -> HeapSnapshot:
    """A heap snapshot, every column checked.

    known: ids whose definitions are durable. An id says all there is to a definition, so another copy, even a false
    one, is passed over: hundreds of processes that start together define the same code.
    """
    message = heap_pb2.HeapSnapshot()
    _parse(message, body)
    _check_time(message.at_ns, now_ns)
    _check_number("interval_bytes", message.interval_bytes, 1.0, _VALUE_MAX)
    _check_number("window_share", message.window_share, 0.0, 1.0)
    _check_number("live_bytes", message.live_bytes, 0.0, _VALUE_MAX)
    _check_number("live_bytes_variance", message.live_bytes_variance, 0.0, _VALUE_MAX**2)
    if message.window_share == 0.0:
        raise Malformed("window_share must be above 0.")
    sites = _columns("sites", message.sites, _SITES, limits.rows_per_batch_max)
    types = _columns("types", message.types, _TYPES, limits.rows_per_batch_max)
    if len(np.unique(sites["stack"])) != len(sites["stack"]):
        raise Malformed("sites lists a stack twice.")
    if len(np.unique(np.stack((types["stack"], types["type"])), axis=1).T) != len(types["stack"]):
        raise Malformed("types lists a type of a stack twice.")
    return HeapSnapshot(
        header=SnapshotHeader(
            instance_id=instance_id,
            epoch=message.epoch,
            at_ns=message.at_ns,
            complete=message.complete,
            interval_bytes=message.interval_bytes,
            window_share=message.window_share,
            live_bytes=message.live_bytes,
            live_bytes_variance=message.live_bytes_variance,
        ),
        sites=SiteColumns(**sites),
        types=TypeColumns(**types),
        definitions=_definitions(message.definitions, limits.definitions_per_batch_max, known),
    )


def metrics_of(body: bytes, limits: IngestConfig, now_ns: int) -> list[MetricPoint]:
    """Readings, all of one moment."""
    message = metrics_pb2.MetricsSnapshot()
    _parse(message, body)
    _check_time(message.at_ns, now_ns)
    count_max = min(METRICS_PER_BATCH_MAX, limits.rows_per_batch_max)
    if len(message.metrics) > count_max:
        raise Malformed(f"The batch has {len(message.metrics)} readings; at most {count_max} are accepted.")
    points = []
    for metric in message.metrics:
        if not metric.name:
            raise Malformed("A metric has no name.")
        _check_text("the name of a metric", metric.name, NAME_CHARS_MAX)
        _check_number(metric.name, metric.value, -_VALUE_MAX, _VALUE_MAX)
        _check_attributes(metric.name, metric.attributes, NAME_CHARS_MAX)
        points.append(MetricPoint(message.at_ns, metric.name, metric.value, tuple(sorted(metric.attributes.items()))))
    return points


def statistics_of(beat: ingest_pb2.Heartbeat) -> dict[str, float]:
    """What a heartbeat says of its agent."""
    if len(beat.statistics) > STATISTICS_MAX:
        raise Malformed(f"The heartbeat has {len(beat.statistics)} statistics; at most {STATISTICS_MAX} are accepted.")
    for name, value in beat.statistics.items():
        _check_text("the name of a statistic", name, NAME_CHARS_MAX)
        _check_number(name, value, -_VALUE_MAX, _VALUE_MAX)
    _check_text("sampler_state", beat.sampler_state, NAME_CHARS_MAX)
    _check_text("sampler_reason", beat.sampler_reason, TEXT_CHARS_MAX)
    return dict(beat.statistics)


def _unpack(body: bytes, size: int) -> bytes:
    try:
        # The declared size decides how much memory is taken, so it must be the one already found acceptable.
        declared = zstandard.get_frame_parameters(body).content_size
        if declared != size:
            raise Malformed(f"The Zstandard frame declares {declared} bytes and the batch {size}.")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed(f"The body is not one Zstandard frame with a content size: {error}.") from None


def _parse(message: Message, body: bytes) -> None:
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise Malformed(f"The body is not a {message.DESCRIPTOR.name}.") from None


def _columns(part: str, message: Message, layout: Mapping[str, str], rows_max: int) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    rows = len(getattr(message, "stack")) // 8  # noqa: B009 - of either message
    if rows > rows_max:
        raise Malformed(f"{part} has {rows} rows; at most {rows_max} are accepted.")
    for name, kind in layout.items():
        raw: bytes = getattr(message, name)
        width = np.dtype(kind).itemsize
        if len(raw) != rows * width:
            raise Malformed(f"{part}.{name} has {len(raw)} bytes and not {rows * width} for {rows} rows.")
        columns[name] = np.frombuffer(raw, dtype=kind)
        if kind == "<f8":
            largest = _VALUE_MAX**2 if name.endswith("variance") else _VALUE_MAX
            # Written so that NaN fails too.
            if not np.all((columns[name] >= 0.0) & (columns[name] <= largest)):
                raise Malformed(f"{part}.{name} has a value that is negative, infinite or no number.")
        elif kind == "<i8" and np.any(columns[name] < 0):
            raise Malformed(f"{part}.{name} has a negative value.")
    return columns


def _definitions(message: common_pb2.Definitions, count_max: int, known: Container[int]) -> Definitions:
    count = len(message.frames) + len(message.stacks) + len(message.types)
    if count > count_max:
        raise Malformed(f"The batch has {count} definitions; at most {count_max} are accepted.")
    frames: dict[int, Frame] = {}
    for sent in message.frames:
        if sent.id in known:
            continue
        _check_text("the function of a frame", sent.function, TEXT_CHARS_MAX)
        _check_text("the file of a frame", sent.file, TEXT_CHARS_MAX)
        frame = Frame(sent.function, sent.file, sent.line)
        _check_id("frame", sent.id, content_id(f"frame\0{sent.function}\0{sent.file}\0{sent.line}".encode()))
        frames[sent.id] = frame
    stacks: dict[int, Stack] = {}
    for defined in message.stacks:
        if defined.id in known:
            continue
        path = tuple(defined.frames)
        if len(path) > FRAMES_PER_STACK_MAX:
            raise Malformed(f"A stack has {len(path)} frames; at most {FRAMES_PER_STACK_MAX} are accepted.")
        _check_id("stack", defined.id, stack_id(path))
        stacks[defined.id] = Stack(defined.id, path, defined.truncated)
    types: dict[int, str] = {}
    for kind in message.types:
        if kind.id in known:
            continue
        _check_text("the name of a type", kind.name, TEXT_CHARS_MAX)
        _check_id("type", kind.id, type_id(kind.name))
        types[kind.id] = kind.name
    return Definitions(frames, stacks, types)


def _check_id(what: str, given: int, right: int) -> None:
    if given != right:
        raise Malformed(f"The id of a {what} is {given:016x}, but its content has {right:016x}.")


def _check_time(at_ns: int, now_ns: int) -> None:
    ahead_s = (at_ns - now_ns) / 1e9
    if ahead_s > EARLY_S_MAX:
        raise Malformed(f"Its time is {ahead_s:.0f} s ahead of the collector's clock: set the clock of the machine.")
    if ahead_s < -LATE_S_MAX:
        raise Malformed(
            f"Its time is {-ahead_s / 3600:.0f} h behind the collector's clock, and at most {LATE_S_MAX // 3600} h "
            "are accepted: set the clock of the machine."
        )


def _check_number(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise Malformed(f"{name} is {value}, which is not between {least:g} and {most:g}.")


def _check_text(what: str, text: str, chars_max: int) -> None:
    if len(text) > chars_max:
        raise Malformed(f"The length of {what} is {len(text)} characters; at most {chars_max} are accepted.")
    if "\0" in text:
        # Zero separates the parts a content hash is taken over; inside one, two definitions could share a hash.
        raise Malformed(f"There is a zero character in {what}.")


def _check_attributes(what: str, attributes: Mapping[str, str], chars_max: int) -> None:
    if len(attributes) > ATTRIBUTES_MAX:
        raise Malformed(f"{what} has {len(attributes)} attributes; at most {ATTRIBUTES_MAX} are accepted.")
    for text in _flat(attributes.items()):
        _check_text(f"an attribute of {what}", text, chars_max)


def _flat(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    for key, value in pairs:
        yield key
        yield value
