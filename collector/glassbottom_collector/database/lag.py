"""How far a replica is behind, which is not what it seems.

The age of the last replayed transaction grows on an idle primary with no lag at all, and a replica that hears nothing
has replayed all it received: both are told apart here, and a replica that is cut off is never "0 s behind".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SILENT_S = 45.0
"""A primary says something every 30 s when it has nothing to send (half of wal_sender_timeout)."""
LAG = """
SELECT pg_is_in_recovery() AS in_recovery,
       pg_last_wal_receive_lsn()::text AS received, pg_last_wal_replay_lsn()::text AS replayed,
       pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint AS behind_bytes,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS replayed_ago_s,
       CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS paused,
       (SELECT count(*) FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) AS receivers,
       (SELECT status FROM pg_stat_wal_receiver) AS status,
       (SELECT extract(epoch FROM clock_timestamp() - last_msg_receipt_time)::float8 FROM pg_stat_wal_receiver)
         AS heard_ago_s
"""


@dataclass(frozen=True)
class Lag:
    """state: streaming, silent (connected, nothing heard), disconnected, or primary. seconds: None when nobody can
    know; behind_bytes: received and not yet replayed."""

    state: str
    seconds: float | None
    behind_bytes: int | None
    says: str
    paused: bool = False

    def grown(self, before: Lag, seconds_max: float, bytes_max: int) -> str:
        """What is said when it has fallen behind by more than that since `before`; empty when it has not."""
        if self.seconds is not None and self.seconds - (before.seconds or 0.0) > seconds_max:
            return f"has fallen behind from {before.seconds or 0.0:.1f} s to {self.seconds:.1f} s"
        if self.behind_bytes is not None and self.behind_bytes - (before.behind_bytes or 0) > bytes_max:
            return f"has fallen behind from {before.behind_bytes or 0} to {self.behind_bytes} bytes"
        return ""

    def as_dict(self) -> dict[str, Any]:
        """For a file of the archive."""
        return asdict(self)


def read_lag(row: Mapping[str, Any]) -> Lag:
    """A row of LAG, understood."""
    if not row["in_recovery"]:
        return Lag("primary", None, None, "This node takes writes; it lags behind nobody.")
    behind, paused = row["behind_bytes"], bool(row["paused"])
    if not row["receivers"]:
        since = "" if row["replayed_ago_s"] is None else f"; its newest data is {row['replayed_ago_s']:.0f} s old"
        return Lag("disconnected", None, behind, f"Disconnected: this replica hears from no primary{since}.", paused)
    if row["heard_ago_s"] is not None and row["heard_ago_s"] > SILENT_S:
        silent = f"Silent: nothing was heard from the primary for {row['heard_ago_s']:.0f} s."
        return Lag("silent", None, behind, silent, paused)
    seconds = 0.0 if behind == 0 else row["replayed_ago_s"]
    if seconds is None:
        return Lag("streaming", None, behind, f"Streaming, {behind} bytes to replay.", paused)
    halted = ", replay is paused" if paused else ""
    return Lag("streaming", round(seconds, 3), behind, f"Streaming, {seconds:.1f} s behind{halted}.", paused)
