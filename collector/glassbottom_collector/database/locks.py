"""Who waits for whom, as trees: each begins with a session that waits for nobody and holds what others want.

A deadlock has no such session until the server breaks it; it is told by its smallest pid. A lock that a prepared
transaction holds has pid 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEPTH_MAX = 50
SESSIONS_MAX = 400


def tree(answers: dict[str, Any]) -> dict[str, Any]:
    """The answer to `locks` with its sessions in the order of the trees; see chains()."""
    answer = answers["locks"]
    if "rows" in answer:
        answer = {**answer, "rows": chains(answer["rows"])}
    return {**answers, "locks": answer}


def chains(sessions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every session with `root`, `level` (0 is the root) and `path` (pids from the root), a root before what waits.

    A session that waits for several is there once for each. sessions: rows with pid and blocked_by. At most
    SESSIONS_MAX, at most DEPTH_MAX deep.
    """
    by_pid = {int(row["pid"]): row for row in sessions}
    waits: dict[int, list[int]] = {pid: sorted(set(row["blocked_by"])) for pid, row in by_pid.items()}
    for pid in {blocker for blockers in waits.values() for blocker in blockers} - set(by_pid):
        by_pid[pid] = {"pid": pid, "state": "prepared" if pid == 0 else "ended meanwhile"}
        waits[pid] = []
    behind: dict[int, list[int]] = {}
    for pid, blockers in sorted(waits.items()):
        for blocker in blockers:
            behind.setdefault(blocker, []).append(pid)
    found: list[dict[str, Any]] = []
    seen: set[int] = set()

    def walk(root: int) -> None:
        stack: list[tuple[int, tuple[int, ...]]] = [(root, (root,))]
        while stack and len(found) < SESSIONS_MAX:
            pid, path = stack.pop()
            seen.add(pid)
            row = {key: value for key, value in by_pid[pid].items() if key != "blocked_by"}
            found.append({**row, "root": root, "level": len(path) - 1, "path": list(path)})
            next_ones = [each for each in behind.get(pid, []) if each not in path and len(path) < DEPTH_MAX]
            stack += [(each, (*path, each)) for each in reversed(next_ones)]

    for pid in sorted(pid for pid, blockers in waits.items() if not blockers and pid in behind):
        walk(pid)
    for pid in sorted(by_pid):
        if pid not in seen and pid in behind:
            start = len(found)
            walk(pid)
            for row in found[start:]:
                row["deadlock"] = True
    return found
