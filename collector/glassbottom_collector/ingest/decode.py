"""Wire to model: the only translation, and the border at which nothing is believed.

Whatever arrives was written by somebody else's process. It is checked for size before it is unpacked, for its
checksum, for columns of equal length, for numbers that are numbers, and definitions are checked against their
content hashes, since one wrong definition would rename a line of code in every process that shares the store. What
does not pass raises Malformed with one sentence for the agent's operator, and never anything else. decode_time.py
does the same for operations, tasks, threads and observations.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Container

import numpy as np
import zstandard
from glassbottom.wire.v1 import heap_pb2, ingest_pb2, metrics_pb2

from ..config import IngestConfig
from ..model.heap import HeapSnapshot, MetricPoint, SiteColumns, SnapshotHeader, TypeColumns
from ..model.process import Process
from .checks import (
    NAME_CHARS_MAX,
    TEXT_CHARS_MAX,
    VALUE_MAX,
    Malformed,
    check_attributes,
    check_number,
    check_text,
    check_time,
    parse,
    read_columns,
    read_definitions,
)

PROTOCOL = 1

METRICS_PER_BATCH_MAX = 2_000
STATISTICS_MAX = 1024
SNAPSHOT_LABELS_MAX = 20
SNAPSHOT_LABEL_CHARS_MAX = 100

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
_HEX = re.compile(r"[0-9a-f]{32}")


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
    check_text("process.service", sent.service, NAME_CHARS_MAX)
    check_text("agent_version", hello.agent_version, NAME_CHARS_MAX)
    check_attributes("process.attributes", sent.attributes, TEXT_CHARS_MAX)
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
    parse(message, body)
    check_time(message.at_ns, now_ns)
    check_number("interval_bytes", message.interval_bytes, 1.0, VALUE_MAX)
    check_number("window_share", message.window_share, 0.0, 1.0)
    check_number("live_bytes", message.live_bytes, 0.0, VALUE_MAX)
    check_number("live_bytes_variance", message.live_bytes_variance, 0.0, VALUE_MAX**2)
    if message.window_share == 0.0:
        raise Malformed("window_share must be above 0.")
    if len(message.labels) > SNAPSHOT_LABELS_MAX:
        raise Malformed(f"The snapshot has {len(message.labels)} labels; at most {SNAPSHOT_LABELS_MAX} are accepted.")
    for label in message.labels:
        check_text("the label of a snapshot", label, SNAPSHOT_LABEL_CHARS_MAX)
        if not label:
            raise Malformed("A label of the snapshot is empty.")
    sites = read_columns("sites", message.sites, _SITES, limits.rows_per_batch_max)
    types = read_columns("types", message.types, _TYPES, limits.rows_per_batch_max)
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
        definitions=read_definitions(message.definitions, limits.definitions_per_batch_max, known),
        labels=tuple(dict.fromkeys(message.labels)),
    )


def metrics_of(body: bytes, limits: IngestConfig, now_ns: int) -> list[MetricPoint]:
    """Readings, all of one moment."""
    message = metrics_pb2.MetricsSnapshot()
    parse(message, body)
    check_time(message.at_ns, now_ns)
    count_max = min(METRICS_PER_BATCH_MAX, limits.rows_per_batch_max)
    if len(message.metrics) > count_max:
        raise Malformed(f"The batch has {len(message.metrics)} readings; at most {count_max} are accepted.")
    points = []
    for metric in message.metrics:
        if not metric.name:
            raise Malformed("A metric has no name.")
        check_text("the name of a metric", metric.name, NAME_CHARS_MAX)
        check_number(metric.name, metric.value, -VALUE_MAX, VALUE_MAX)
        check_attributes(metric.name, metric.attributes, NAME_CHARS_MAX)
        points.append(MetricPoint(message.at_ns, metric.name, metric.value, tuple(sorted(metric.attributes.items()))))
    return points


def statistics_of(beat: ingest_pb2.Heartbeat) -> dict[str, float]:
    """What a heartbeat says of its agent."""
    if len(beat.statistics) > STATISTICS_MAX:
        raise Malformed(f"The heartbeat has {len(beat.statistics)} statistics; at most {STATISTICS_MAX} are accepted.")
    for name, value in beat.statistics.items():
        check_text("the name of a statistic", name, NAME_CHARS_MAX)
        check_number(name, value, -VALUE_MAX, VALUE_MAX)
    check_text("sampler_state", beat.sampler_state, NAME_CHARS_MAX)
    check_text("sampler_reason", beat.sampler_reason, TEXT_CHARS_MAX)
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
