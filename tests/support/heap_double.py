"""A collector's answers about heap dumps without a collector: fixed things, as a dump of a chat service would say them.

For tests of the command line only. What a collector really answers is tested with real dumps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field

import grpc
from glassbottom.wire.v1 import heapdump_pb2, heapdump_pb2_grpc, query_pb2_grpc

from tests.support.query_double import Answers, QueryDouble
from tests.support.query_double_memory import AT_NS, INSTANCE, SECOND_NS

KIB, MIB = 1024, 1024 * 1024
CAPTURE = "c0ffee00000000000000000000000001"
EARLIER = "c0ffee00000000000000000000000000"
HOSTILE_TYPE = "evil.\x1b[31m[bold red]x[/]\n</script>\u202e"


def summary(earlier: bool = False, **more: object) -> heapdump_pb2.DumpSummary:
    """The dump, or the one ten minutes before it."""
    values: dict[str, object] = {
        "capture_id": EARLIER if earlier else CAPTURE,
        "service": "checkout",
        "instance_id": INSTANCE,
        "at_ns": AT_NS - 600 * SECOND_NS if earlier else AT_NS,
        "python_version": "3.12.3",
        "objects": 512_345,
        "references": 1_834_567,
        "size": 64 * MIB,
        "types": 1_234,
        "pause_ns": 0 if earlier else 3_120_000,
        "complete": True,
    }
    return heapdump_pb2.DumpSummary(**{**values, **more})  # type: ignore[arg-type]


def thing(
    text: str, type_name: str, size: int, retained: int, length: int | None = None, depth: int = 0, left: int = 0
) -> heapdump_pb2.DumpObject:
    """An object; its address follows from what it is called."""
    return heapdump_pb2.DumpObject(
        address=0x7F21C4000000 + 16 * (sum(map(ord, text)) % 100_000),
        type=type_name,
        size=size,
        retained=retained,
        length=length,
        text=text,
        children_left=left,
        depth=depth,
    )


HANDLERS = thing("app.ws.HANDLERS dict[18 204]", "dict", 590 * KIB, 48 * MIB, 18_204)
SESSION = thing("Session", "app.ws.Session", 56, 2_700)
EVIL = thing("app.evil.THING evil\x1b[31m[bold red]x[/]", HOSTILE_TYPE, 2 * MIB, 2 * MIB)


def path() -> heapdump_pb2.HolderPath:
    """From a module to the sessions."""
    module = thing("", "module", 72, 49 * MIB)
    steps = [module, HANDLERS, thing("bound method", "method", 64, 2_764), SESSION]
    return heapdump_pb2.HolderPath(
        root="module app.ws",
        steps=steps,
        objects=18_204,
        retained=47 * MIB,
        text=" -> ".join(step.text for step in steps if step.text),
    )


def tree() -> list[heapdump_pb2.DumpObject]:
    """Two levels of the dominator tree."""
    whole = heapdump_pb2.DumpObject(text="the whole heap", retained=64 * MIB, children_left=1_400)
    handlers = thing("app.ws.HANDLERS dict[18 204]", "dict", 590 * KIB, 48 * MIB, 18_204, 1, 18_202)
    session = thing("Session", "app.ws.Session", 56, 2_700, None, 2)
    other = thing("Session", "app.ws.Session", 56, 2_600, None, 2)
    evil = thing(EVIL.text, EVIL.type, 2 * MIB, 2 * MIB, None, 1)
    return [whole, handlers, session, other, evil]


def suspects() -> list[heapdump_pb2.HeapSuspect]:
    """One that has a place, and many of a type that have none."""
    return [
        heapdump_pb2.HeapSuspect(
            sentence="18 204 objects of app.ws.Session retain 75 % of the heap, all held by app.ws.HANDLERS.",
            type="app.ws.Session",
            objects=18_204,
            retained=48 * MIB,
            share=0.75,
            point=HANDLERS,
            path=path(),
        ),
        heapdump_pb2.HeapSuspect(
            sentence="1 204 objects of evil.x retain 12 % of the heap.",
            type=HOSTILE_TYPE,
            objects=1_204,
            retained=8 * MIB,
            share=0.125,
        ),
    ]


def growth() -> list[heapdump_pb2.OwnerGrowth]:
    """What grew, and what shrank."""
    return [
        heapdump_pb2.OwnerGrowth(
            path="app.ws.HANDLERS dict",
            type="app.ws.Session",
            objects_before=6_100,
            objects_after=18_204,
            size_before=333 * KIB,
            size_after=995 * KIB,
            length_before=6_100,
            length_after=18_204,
        ),
        heapdump_pb2.OwnerGrowth(
            path="app.evil.THING",
            type=HOSTILE_TYPE,
            objects_before=3,
            objects_after=1,
            size_before=6 * MIB,
            size_after=2 * MIB,
        ),
    ]


@dataclass
class HeapAnswers:
    """What the double is to say, and what it was asked."""

    services: tuple[str, ...] = ("checkout",)
    error: tuple[grpc.StatusCode, str] | None = None
    dump: heapdump_pb2.DumpSummary = field(default_factory=summary)
    suspects: list[heapdump_pb2.HeapSuspect] = field(default_factory=suspects)
    objects: list[heapdump_pb2.DumpObject] = field(default_factory=lambda: [HANDLERS, SESSION, EVIL])
    paths: list[heapdump_pb2.HolderPath] = field(default_factory=lambda: [path()])
    growth: list[heapdump_pb2.OwnerGrowth] = field(default_factory=growth)
    notes: tuple[str, ...] = ()
    requests: list[object] = field(default_factory=list)


class HeapDumpDouble(heapdump_pb2_grpc.HeapDumpServiceServicer):
    """HeapDumpService with those answers."""

    def __init__(self, answers: HeapAnswers) -> None:
        self._answers = answers

    def LargestObjects(
        self, request: heapdump_pb2.LargestObjectsRequest, context: grpc.ServicerContext
    ) -> heapdump_pb2.LargestObjectsResponse:
        self._begin(request, context)
        return heapdump_pb2.LargestObjectsResponse(dump=self._answers.dump, objects=self._answers.objects)

    def TypeTotals(
        self, request: heapdump_pb2.TypeTotalsRequest, context: grpc.ServicerContext
    ) -> heapdump_pb2.TypeTotalsResponse:
        self._begin(request, context)
        by_module = request.group_by == heapdump_pb2.TYPE_GROUPING_MODULE
        names = ["app.ws", "builtins"] if by_module else ["app.ws.Session", "dict", HOSTILE_TYPE]
        totals = [
            heapdump_pb2.TypeTotal(
                name=name, objects=18_204 // number, size=996 * KIB // number, retained=48 * MIB // number
            )
            for number, name in enumerate(names, 1)
        ]
        return heapdump_pb2.TypeTotalsResponse(dump=self._answers.dump, totals=totals)

    def HolderPaths(
        self, request: heapdump_pb2.HolderPathsRequest, context: grpc.ServicerContext
    ) -> heapdump_pb2.HolderPathsResponse:
        self._begin(request, context)
        return heapdump_pb2.HolderPathsResponse(dump=self._answers.dump, paths=self._answers.paths)

    def RetainedObjects(
        self, request: heapdump_pb2.RetainedObjectsRequest, context: grpc.ServicerContext
    ) -> heapdump_pb2.RetainedObjectsResponse:
        self._begin(request, context)
        return heapdump_pb2.RetainedObjectsResponse(dump=self._answers.dump, objects=tree())

    def LeakSuspects(
        self, request: heapdump_pb2.LeakSuspectsRequest, context: grpc.ServicerContext
    ) -> heapdump_pb2.LeakSuspectsResponse:
        self._begin(request, context)
        return heapdump_pb2.LeakSuspectsResponse(dump=self._answers.dump, suspects=self._answers.suspects)

    def CompareDumps(
        self, request: heapdump_pb2.CompareDumpsRequest, context: grpc.ServicerContext
    ) -> heapdump_pb2.CompareDumpsResponse:
        self._begin(request, context)
        return heapdump_pb2.CompareDumpsResponse(
            before=summary(earlier=True),
            after=self._answers.dump,
            growth=self._answers.growth,
            notes=self._answers.notes,
        )

    def _begin(self, request: object, context: grpc.ServicerContext) -> None:
        self._answers.requests.append(request)
        if self._answers.error is not None:
            context.abort(*self._answers.error)


@contextlib.contextmanager
def serving(answers: HeapAnswers) -> Iterator[str]:
    """Serves on a free port of the loopback interface; gives HOST:PORT."""
    server = grpc.server(futures.ThreadPoolExecutor(4, thread_name_prefix="heap-double"))
    query_pb2_grpc.add_QueryServiceServicer_to_server(QueryDouble(Answers(services=answers.services)), server)
    heapdump_pb2_grpc.add_HeapDumpServiceServicer_to_server(HeapDumpDouble(answers), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(10)
