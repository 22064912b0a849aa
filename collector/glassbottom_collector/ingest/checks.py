"""What every decoder asks of what it is given: sizes, numbers that are numbers, texts, times, and content hashes.

Nothing here believes anything. What does not pass raises Malformed with one sentence for the agent's operator.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from glassbottom.wire.v1 import common_pb2
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from ..model.code import Frame, Stack, content_id, stack_id, type_id
from ..model.heap import Definitions
from ..storage import EARLY_S_MAX, LATE_S_MAX

TEXT_CHARS_MAX = 1024
"""Of a function, file or type name, as common.proto promises."""
LABEL_CHARS_MAX = 255
FRAMES_PER_STACK_MAX = 128
NAME_CHARS_MAX = 255
ATTRIBUTES_MAX = 64
VALUE_MAX = 2.0**63
"""Above any heap; keeps sums of many rows finite. Variances may reach its square."""


class Malformed(Exception):  # noqa: N818 - what the data are
    """Will never be accepted as it is. The message is one sentence."""


def parse(message: Message, body: bytes) -> None:
    """Fills the message from a body."""
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise Malformed(f"The body is not a {message.DESCRIPTOR.name}.") from None


def read_columns(part: str, message: Message, layout: Mapping[str, str], rows_max: int) -> dict[str, NDArray[Any]]:
    """The columns of a message by name, all of one length, that of `stack`."""
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
            largest = VALUE_MAX**2 if name.endswith("variance") else VALUE_MAX
            # Written so that NaN fails too.
            if not np.all((columns[name] >= 0.0) & (columns[name] <= largest)):
                raise Malformed(f"{part}.{name} has a value that is negative, infinite or no number.")
        elif kind == "<i8" and np.any(columns[name] < 0):
            raise Malformed(f"{part}.{name} has a negative value.")
    return columns


def read_definitions(message: common_pb2.Definitions, count_max: int, known: Container[int]) -> Definitions:
    """Every definition whose id is not known, each of the content that its id says."""
    count = len(message.frames) + len(message.stacks) + len(message.types)
    if count > count_max:
        raise Malformed(f"The batch has {count} definitions; at most {count_max} are accepted.")
    frames: dict[int, Frame] = {}
    for sent in message.frames:
        if sent.id in known:
            continue
        check_text("the function of a frame", sent.function, TEXT_CHARS_MAX)
        check_text("the file of a frame", sent.file, TEXT_CHARS_MAX)
        frame = Frame(sent.function, sent.file, sent.line)
        check_id("frame", sent.id, content_id(f"frame\0{sent.function}\0{sent.file}\0{sent.line}".encode()))
        frames[sent.id] = frame
    stacks: dict[int, Stack] = {}
    for defined in message.stacks:
        if defined.id in known:
            continue
        path = tuple(defined.frames)
        if len(path) > FRAMES_PER_STACK_MAX:
            raise Malformed(f"A stack has {len(path)} frames; at most {FRAMES_PER_STACK_MAX} are accepted.")
        check_text("the label of a stack", defined.label, LABEL_CHARS_MAX)
        check_id("stack", defined.id, stack_id(path, defined.label))
        stacks[defined.id] = Stack(defined.id, path, defined.truncated, defined.label)
    types: dict[int, str] = {}
    for kind in message.types:
        if kind.id in known:
            continue
        check_text("the name of a type", kind.name, TEXT_CHARS_MAX)
        check_id("type", kind.id, type_id(kind.name))
        types[kind.id] = kind.name
    return Definitions(frames, stacks, types)


def check_id(what: str, given: int, right: int) -> None:
    """A content hash must be that of the content."""
    if given != right:
        raise Malformed(f"The id of a {what} is {given:016x}, but its content has {right:016x}.")


def check_time(at_ns: int, now_ns: int) -> None:
    """The time of a batch must lie near the collector's."""
    ahead_s = (at_ns - now_ns) / 1e9
    if ahead_s > EARLY_S_MAX:
        raise Malformed(f"Its time is {ahead_s:.0f} s ahead of the collector's clock: set the clock of the machine.")
    if ahead_s < -LATE_S_MAX:
        raise Malformed(
            f"Its time is {-ahead_s / 3600:.0f} h behind the collector's clock, and at most {LATE_S_MAX // 3600} h "
            "are accepted: set the clock of the machine."
        )


def check_number(name: str, value: float, least: float, most: float) -> None:
    """Within bounds; NaN is within none."""
    if not least <= value <= most:
        raise Malformed(f"{name} is {value}, which is not between {least:g} and {most:g}.")


def check_text(what: str, text: str, chars_max: int) -> None:
    """Not too long, and without a zero."""
    if len(text) > chars_max:
        raise Malformed(f"The length of {what} is {len(text)} characters; at most {chars_max} are accepted.")
    if "\0" in text:
        # Zero separates the parts a content hash is taken over; inside one, two definitions could share a hash.
        raise Malformed(f"There is a zero character in {what}.")


def check_attributes(what: str, attributes: Mapping[str, str], chars_max: int, count_max: int = ATTRIBUTES_MAX) -> None:
    """Not too many, keys and values not too long."""
    if len(attributes) > count_max:
        raise Malformed(f"{what} has {len(attributes)} attributes; at most {count_max} are accepted.")
    for text in _flat(attributes.items()):
        check_text(f"an attribute of {what}", text, chars_max)


def _flat(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    for key, value in pairs:
        yield key
        yield value
