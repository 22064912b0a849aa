"""From the native columns to the wire's: node ids become stack ids, and only rows that say something new are kept.

Pure functions over arrays; no numpy, which no application should have to load for our sake. Several nodes may be one
stack (two instructions on one line, or code compiled twice), so rows are added up by stack.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Literal, TypeVar

from ..wire.v1 import heap_pb2

if TYPE_CHECKING:
    from .._native import Snapshot


Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Rows:
    """The rows of one reading. stacks and types: ids used, for the definitions. listed: stacks with live bytes."""

    sites: heap_pb2.HeapSites
    types: heap_pb2.HeapTypes
    stacks: list[int]
    type_ids: set[int]
    rows: int


def select(
    snapshot: Snapshot,
    stack_of_row: Sequence[int],
    type_of_index: Sequence[int],
    stack_of_type_row: Sequence[int],
    *,
    complete: bool,
) -> Rows:
    """Rows of stacks that hold or allocated something (complete), or whose values differ from the last reading."""
    changed = snapshot["changed"]
    samples = memoryview(snapshot["samples_by_node"]).cast("I")
    wanted = set(compress(stack_of_row, changed))
    if complete:
        wanted.update(compress(stack_of_row, samples))
    keep = [stack in wanted for stack in stack_of_row]
    stacks = list(compress(stack_of_row, keep))
    unique = list(dict.fromkeys(stacks))
    slots = None if len(unique) == len(stacks) else _slots(stacks, unique)
    sites = _sites(snapshot, keep, unique, slots)
    types, type_ids, type_rows = _types(snapshot, wanted, type_of_index, stack_of_type_row)
    return Rows(sites, types, unique, type_ids, len(unique) + type_rows)


def _sites(
    snapshot: Snapshot, keep: Sequence[bool], unique: Sequence[int], slots: Sequence[int] | None
) -> heap_pb2.HeapSites:
    count = len(unique)

    def summed(data: bytes) -> bytes:
        values = _floats(data, keep)
        return (values if slots is None else _add_up(values, slots, count)).tobytes()

    objects = _floats(snapshot["live_objects_by_node"], keep)
    samples = _ints(snapshot["samples_by_node"], "I", keep)
    oldest = _ints(snapshot["birth_oldest_ms"], "q", keep)
    mean = _ints(snapshot["birth_mean_ms"], "q", keep)
    minutes = _ints(snapshot["birth_minutes"], "I", keep)
    if slots is not None:
        mean = _weighted_mean(mean, objects, slots, count)
        oldest = _oldest(oldest, slots, count)
        # A lower bound: which minutes two nodes have in common is not known.
        minutes = _largest(minutes, slots, count)
        objects = _add_up(objects, slots, count)
        samples = _add_up(samples, slots, count)
    return heap_pb2.HeapSites(
        stack=array("Q", unique).tobytes(),
        live_bytes=summed(snapshot["live_bytes_by_node"]),
        live_bytes_variance=summed(snapshot["live_bytes_variance_by_node"]),
        live_objects=objects.tobytes(),
        live_objects_variance=summed(snapshot["live_objects_variance_by_node"]),
        alloc_bytes=summed(snapshot["alloc_bytes_by_node"]),
        alloc_objects=summed(snapshot["alloc_objects_by_node"]),
        samples=samples.tobytes(),
        birth_oldest_ms=oldest.tobytes(),
        birth_mean_ms=mean.tobytes(),
        birth_minutes=minutes.tobytes(),
    )


def _types(
    snapshot: Snapshot, wanted: set[int], type_of_index: Sequence[int], stack_of_type_row: Sequence[int]
) -> tuple[heap_pb2.HeapTypes, set[int], int]:
    keep = [stack in wanted for stack in stack_of_type_row]
    stacks = compress(stack_of_type_row, keep)
    types = [type_of_index[index] for index in _ints(snapshot["type_index"], "I", keep)]
    pairs = list(zip(stacks, types, strict=True))
    unique = list(dict.fromkeys(pairs))
    slots = None if len(unique) == len(pairs) else _slots(pairs, unique)
    count = len(unique)
    live_bytes = _floats(snapshot["type_live_bytes"], keep)
    live_objects = _floats(snapshot["type_live_objects"], keep)
    samples = _ints(snapshot["type_samples"], "I", keep)
    if slots is not None:
        live_bytes = _add_up(live_bytes, slots, count)
        live_objects = _add_up(live_objects, slots, count)
        samples = _add_up(samples, slots, count)
    columns = heap_pb2.HeapTypes(
        stack=array("Q", (stack for stack, _ in unique)).tobytes(),
        type=array("Q", (found for _, found in unique)).tobytes(),
        live_bytes=live_bytes.tobytes(),
        live_objects=live_objects.tobytes(),
        samples=samples.tobytes(),
    )
    return columns, set(types), count


def _floats(data: bytes, keep: Sequence[bool]) -> array[float]:
    return array("d", compress(memoryview(data).cast("d"), keep))


def _ints(data: bytes, code: Literal["I", "q"], keep: Sequence[bool]) -> array[int]:
    return array(code, compress(memoryview(data).cast(code), keep))


def _slots(keys: Iterable[object], unique: Iterable[object]) -> list[int]:
    position = {key: at for at, key in enumerate(unique)}
    return [position[key] for key in keys]


def _add_up(values: array[Number], slots: Sequence[int], count: int) -> array[Number]:
    totals = _zeros(values, count)
    for slot, value in zip(slots, values, strict=True):
        totals[slot] += value
    return totals


def _largest(values: array[int], slots: Sequence[int], count: int) -> array[int]:
    found = _zeros(values, count)
    for slot, value in zip(slots, values, strict=True):
        found[slot] = max(found[slot], value)
    return found


def _oldest(births_ms: array[int], slots: Sequence[int], count: int) -> array[int]:
    found = _zeros(births_ms, count)
    for slot, birth_ms in zip(slots, births_ms, strict=True):
        if birth_ms and (not found[slot] or birth_ms < found[slot]):
            found[slot] = birth_ms
    return found


def _weighted_mean(births_ms: array[int], weights: array[float], slots: Sequence[int], count: int) -> array[int]:
    sums, totals = [0.0] * count, [0.0] * count
    for slot, birth_ms, weight in zip(slots, births_ms, weights, strict=True):
        sums[slot] += birth_ms * weight
        totals[slot] += weight
    return array("q", (int(part / whole) if whole else 0 for part, whole in zip(sums, totals, strict=True)))


def _zeros(like: array[Number], count: int) -> array[Number]:
    zeros = like[:0]
    zeros.frombytes(bytes(like.itemsize * count))
    return zeros
