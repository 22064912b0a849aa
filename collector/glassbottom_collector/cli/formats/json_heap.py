"""The documents of `heap`; see json.py for what holds for all. Sizes are bytes, addresses hexadecimal text."""

from __future__ import annotations

from glassbottom.wire.v1 import heapdump_pb2

from .json import Document, when


def suspects(response: heapdump_pb2.LeakSuspectsResponse) -> Document:
    """The document of `glassbottom heap suspects`."""
    return {
        "schema": "glassbottom.heap-suspects/1",
        "dump": _dump(response.dump),
        "suspects": [
            {
                "sentence": each.sentence,
                "type": each.type,
                "objects": each.objects,
                "retained": each.retained,
                "share": each.share,
                "point": _object(each.point) if each.HasField("point") else None,
                "path": _path(each.path) if each.HasField("path") else None,
            }
            for each in response.suspects
        ],
    }


def largest(response: heapdump_pb2.LargestObjectsResponse) -> Document:
    """The document of `glassbottom heap largest`."""
    return {
        "schema": "glassbottom.heap-largest/1",
        "dump": _dump(response.dump),
        "objects": [_object(each) for each in response.objects],
    }


def types(response: heapdump_pb2.TypeTotalsResponse, by_module: bool) -> Document:
    """The document of `glassbottom heap types` and `modules`."""
    return {
        "schema": "glassbottom.heap-types/1",
        "dump": _dump(response.dump),
        "group_by": "module" if by_module else "type",
        "totals": [
            {"name": each.name, "objects": each.objects, "size": each.size, "retained": each.retained}
            for each in response.totals
        ],
    }


def paths(response: heapdump_pb2.HolderPathsResponse, type_name: str | None, address: int) -> Document:
    """The document of `glassbottom heap paths`."""
    return {
        "schema": "glassbottom.heap-paths/1",
        "dump": _dump(response.dump),
        "type": type_name,
        "address": f"{address:#x}" if address else None,
        "paths": [_path(each) for each in response.paths],
    }


def retained(response: heapdump_pb2.RetainedObjectsResponse) -> Document:
    """The document of `glassbottom heap retained`."""
    return {
        "schema": "glassbottom.heap-retained/1",
        "dump": _dump(response.dump),
        "objects": [
            {**_object(each), "depth": each.depth, "children_left": each.children_left} for each in response.objects
        ],
    }


def diff(response: heapdump_pb2.CompareDumpsResponse) -> Document:
    """The document of `glassbottom heap diff`."""
    return {
        "schema": "glassbottom.heap-diff/1",
        "before": _dump(response.before),
        "after": _dump(response.after),
        "growth": [
            {
                "path": each.path,
                "type": each.type,
                "objects_before": each.objects_before,
                "objects_after": each.objects_after,
                "size_before": each.size_before,
                "size_after": each.size_after,
                "length_before": each.length_before if each.HasField("length_before") else None,
                "length_after": each.length_after if each.HasField("length_after") else None,
            }
            for each in response.growth
        ],
        "notes": list(response.notes),
    }


def _dump(dump: heapdump_pb2.DumpSummary) -> Document:
    return {
        "capture": dump.capture_id,
        "service": dump.service,
        "instance_id": dump.instance_id,
        "at": when(dump.at_ns),
        "python_version": dump.python_version,
        "objects": dump.objects,
        "references": dump.references,
        "size": dump.size,
        "types": dump.types,
        "pause_s": dump.pause_ns / 1e9 if dump.pause_ns else None,
        "complete": dump.complete,
        "reason": dump.reason,
    }


def _object(each: heapdump_pb2.DumpObject) -> Document:
    return {
        "address": f"{each.address:#x}",
        "type": each.type,
        "text": each.text,
        "size": each.size,
        "retained": each.retained,
        "length": each.length if each.HasField("length") else None,
    }


def _path(path: heapdump_pb2.HolderPath) -> Document:
    return {
        "text": path.text,
        "root": path.root,
        "objects": path.objects,
        "retained": path.retained,
        "steps": [_object(each) for each in path.steps],
    }
