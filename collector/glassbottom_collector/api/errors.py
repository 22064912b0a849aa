"""What a caller is told when a question cannot be answered: one sentence and the right status, never a traceback.

What nobody foresaw is logged here with its traceback, and the caller is told where to look.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from ..errors import BadRequest, CollectorError, ConfigError, HeapDumpError, NotFound, StorageError

_STATUS: tuple[tuple[type[CollectorError], grpc.StatusCode], ...] = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (HeapDumpError, grpc.StatusCode.NOT_FOUND),
    (BadRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (StorageError, grpc.StatusCode.UNAVAILABLE),
    (ConfigError, grpc.StatusCode.FAILED_PRECONDITION),
)
_UNFORESEEN = "The collector failed on this question; its log says more."

_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Status and sentence for an error."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status, str(error)
    return grpc.StatusCode.INTERNAL, _UNFORESEEN


def answering(method: Callable[[Any, Any, Any], Awaitable[Answer]]) -> Callable[[Any, Any, Any], Awaitable[Answer]]:
    """A unary method of a servicer whose errors become statuses."""

    @functools.wraps(method)
    async def guarded(self: Any, request: Any, context: Any) -> Answer:
        try:
            return await method(self, request, context)
        except Exception as error:  # noqa: BLE001 - the border to the network
            raise await _aborted(error, context) from None

    return guarded


def streaming(
    method: Callable[[Any, Any, Any], AsyncIterator[Answer]],
) -> Callable[[Any, Any, Any], AsyncIterator[Answer]]:
    """A method of a servicer that streams its answer, likewise."""

    @functools.wraps(method)
    async def guarded(self: Any, request: Any, context: Any) -> AsyncIterator[Answer]:
        try:
            async for answer in method(self, request, context):
                yield answer
        except Exception as error:  # noqa: BLE001 - the border to the network
            raise await _aborted(error, context) from None

    return guarded


async def _aborted(error: Exception, context: Any) -> Exception:
    """Ends the call; returns what context.abort raises, for the caller to raise in its own frame."""
    if isinstance(error, grpc.aio.AbortError):
        return error
    status, sentence = status_of(error)
    if status is grpc.StatusCode.INTERNAL:
        _log.error("a question failed", exc_info=error)
    try:
        await context.abort(status, sentence)
    except grpc.aio.AbortError as abort:
        return abort
    raise AssertionError("abort returned")
