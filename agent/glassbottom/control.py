"""Commands from the collector. Each is allowed by name in the local configuration, and none carries code.

What is not allowed, too late, or asked again within a second is refused with a sentence; the collector passes that on
to the person who asked.
"""

from __future__ import annotations

from collections.abc import Callable

from ._clock import Clock
from .wire.v1 import ingest_pb2

PAUSE_S = 1.0
"""Between two commands carried out: a command must not be a way to slow a process down."""

Answer = Callable[[ingest_pb2.CommandResult], None]
LABEL_CHARACTERS_MAX = 100
"""Of a snapshot's name: what a collector takes."""

Take = Callable[[Callable[[], None], Callable[[str], None], str], str | None]
"""Takes a snapshot under a name, which may be empty: calls the first argument when it is stored, the second, with a
reason, when it never will be.

Returns a sentence when it cannot be taken at all."""


class Commands:
    """Decides about commands and carries them out. In the sender's thread only."""

    def __init__(
        self,
        allowed: frozenset[str],
        clock: Clock,
        take_snapshot: Take,
        capture: Callable[[ingest_pb2.Command, str], None],
        answer: Answer,
    ) -> None:
        self._allowed = allowed
        self._clock = clock
        self._take_snapshot = take_snapshot
        self._capture = capture
        self._answer = answer
        self._last_s = float("-inf")

    def kinds_allowed(self) -> list[ingest_pb2.CommandKind.ValueType]:
        """For Hello."""
        return [kind for name, kind in KINDS.items() if name in self._allowed]

    def carry_out(self, command: ingest_pb2.Command) -> None:
        """Answers once: at once when refused, else when the outcome is known."""
        refusal = self._refusal(command)
        if refusal is not None:
            self._finish(command.id, ingest_pb2.COMMAND_OUTCOME_REFUSED, refusal)
            return
        self._last_s = self._clock.monotonic_s()
        name = _name_of(command)
        if name is not None and name != "snapshot":
            self._capture(command, name)  # which answers
            return

        def stored() -> None:
            self._finish(command.id, ingest_pb2.COMMAND_OUTCOME_DONE, "")

        def lost(reason: str) -> None:
            self._finish(command.id, ingest_pb2.COMMAND_OUTCOME_FAILED, f"The snapshot was not stored: {reason}.")

        impossible = self._take_snapshot(stored, lost, command.label[:LABEL_CHARACTERS_MAX])
        if impossible is not None:
            self._finish(command.id, ingest_pb2.COMMAND_OUTCOME_FAILED, impossible)

    def _refusal(self, command: ingest_pb2.Command) -> str | None:
        name = _name_of(command)
        if name is None:
            return f"This agent does not know command {command.kind}; it may be older than the collector."
        if name not in self._allowed:
            return f'The configuration of this process does not allow "{name}"; see GLASSBOTTOM_COMMANDS.'
        if command.deadline_ns and self._clock.time_ns() > command.deadline_ns:
            return "The command arrived after its deadline; the clocks may differ."
        if self._clock.monotonic_s() - self._last_s < PAUSE_S:
            return f"Another command was carried out less than {PAUSE_S:g} s ago; try again."
        return None

    def _finish(self, command_id: str, outcome: ingest_pb2.CommandOutcome.ValueType, reason: str) -> None:
        self._answer(ingest_pb2.CommandResult(id=command_id, outcome=outcome, reason=reason))


KINDS = {
    "snapshot": ingest_pb2.COMMAND_KIND_SNAPSHOT,
    "dump_heap": ingest_pb2.COMMAND_KIND_DUMP_HEAP,
    "dump_memray": ingest_pb2.COMMAND_KIND_DUMP_MEMRAY,
    "dump_stacks": ingest_pb2.COMMAND_KIND_DUMP_STACKS,
    "dump_cpu": ingest_pb2.COMMAND_KIND_DUMP_CPU,
    "gc_collect": ingest_pb2.COMMAND_KIND_GC_COLLECT,
    "malloc_trim": ingest_pb2.COMMAND_KIND_MALLOC_TRIM,
    "state": ingest_pb2.COMMAND_KIND_STATE,
}
"""Every command, by the name used in the configuration."""


def _name_of(command: ingest_pb2.Command) -> str | None:
    return next((name for name, kind in KINDS.items() if kind == command.kind), None)
