"""gRPC servicer of Snapshots: labelled snapshots, listed and compared, in threads of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from glassbottom.wire.v1 import snapshots_pb2, snapshots_pb2_grpc

from ..storage import Reader
from .errors import answering
from .snapshots_query import SnapshotAnswers

THREADS = 2


class Snapshots(snapshots_pb2_grpc.SnapshotServiceServicer):
    """Errors: see query.proto. clock_ns: now."""

    def __init__(self, reader: Reader, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._answers = SnapshotAnswers(reader, clock_ns)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="glassbottom-snapshots")

    @answering
    async def ListSnapshots(self, request: Any, context: Any) -> snapshots_pb2.ListSnapshotsResponse:  # noqa: N802, ARG002
        """Labelled snapshots of a service."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._answers.listed, request)

    @answering
    async def DiffSnapshots(self, request: Any, context: Any) -> snapshots_pb2.DiffSnapshotsResponse:  # noqa: N802, ARG002
        """What changed between two of them, or between one and any other moment."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._answers.diff, request)
