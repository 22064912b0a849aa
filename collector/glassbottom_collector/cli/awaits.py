"""The await graph of one process, as a tree a person can read, and the circles in it.

Nodes are groups: tasks that wait at the same place. An edge says that so many tasks of one group await tasks of
another. A circle of groups alone proves nothing, since a coroutine may well await another task of its own kind. It is
a deadlock when every task of every group in it awaits a task in it: in a finite graph in which each node has a
successor, some path closes, and only a timeout or a cancellation can free who stands on it.

How many pairs there are tells that only where a task awaits one other: one that gathers has several pairs and could
hide one that has none. Such a group counts when it has a single task, or when all its pairs lead into the circle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2


class Cycle(NamedTuple):
    """Groups that await each other, in ascending order; deadlock when no task of theirs goes on."""

    groups: tuple[int, ...]
    deadlock: bool


class Branch(NamedTuple):
    """One line of the tree. pairs: how many tasks of the line above await one of this group, 0 at the top. mark: what
    ends the branch here, "cycle", "deadlock" or "above" (drawn before), else empty."""

    depth: int
    group: int
    pairs: int
    mark: str


def edges_of(process: query_pb2.ProcessTasks) -> dict[int, dict[int, int]]:
    """Waiter to awaited to pairs; edges to groups that are not listed are left out."""
    groups = range(len(process.groups))
    edges: dict[int, dict[int, int]] = {}
    for each in process.waits:
        if each.waiter in groups and each.awaited in groups:
            to = edges.setdefault(each.waiter, {})
            to[each.awaited] = to.get(each.awaited, 0) + each.count
    return edges


def cycles(process: query_pb2.ProcessTasks) -> list[Cycle]:
    """Every set of groups that await each other, also one group that awaits itself."""
    edges = edges_of(process)
    found = []
    for component in _components(edges):
        within = set(component)
        if len(component) > 1 or component[0] in edges.get(component[0], {}):
            stuck = all(_all_await(process.groups[at].count, edges[at], within) for at in component)
            found.append(Cycle(tuple(sorted(component)), stuck))
    return sorted(found)


def _all_await(tasks: int, pairs: Mapping[int, int], within: set[int]) -> bool:
    """Whether each of so many tasks awaits one of the groups within."""
    total = sum(pairs.values())
    inside = sum(number for to, number in pairs.items() if to in within)
    return inside >= tasks and (tasks == 1 or total in (tasks, inside))


def tree(process: query_pb2.ProcessTasks) -> list[Branch]:
    """Who awaits whom, from those nobody awaits downwards; each group is followed once."""
    edges = edges_of(process)
    circles = {at: cycle for cycle in cycles(process) for at in cycle.groups}
    awaited = {to for targets in edges.values() for to in targets}
    # Those in a circle are all awaited; whichever is not reached from elsewhere begins a tree of its own.
    roots = [at for at in sorted(edges) if at not in awaited] + [at for at in sorted(edges) if at in awaited]
    lines: list[Branch] = []
    drawn: set[int] = set()
    for root in roots:
        if root in drawn:
            continue
        open_branches = [(0, root, 0, frozenset[int]())]
        while open_branches:
            depth, at, pairs, above = open_branches.pop()
            if at in above:
                lines.append(Branch(depth, at, pairs, "deadlock" if circles[at].deadlock else "cycle"))
                continue
            again = at in drawn and at in edges
            lines.append(Branch(depth, at, pairs, "above" if again else ""))
            drawn.add(at)
            if not again:
                below = sorted(edges.get(at, {}).items(), key=lambda item: (-item[1], item[0]), reverse=True)
                open_branches += [(depth + 1, to, number, above | {at}) for to, number in below]
    return lines


def _components(edges: Mapping[int, Mapping[int, int]]) -> list[list[int]]:
    """Strongly connected components (Tarjan), without recursion: a chain of awaits may be long."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for start in edges:
        if start in number:
            continue
        number[start] = low[start] = len(number)
        stack.append(start)
        on_stack.add(start)
        work = [(start, iter(edges[start]))]
        while work:
            at, rest = work[-1]
            to = next(rest, None)
            if to is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[at])
                if low[at] == number[at]:
                    cut = stack.index(at)
                    found.append(stack[cut:])
                    on_stack.difference_update(stack[cut:])
                    del stack[cut:]
            elif to not in number:
                number[to] = low[to] = len(number)
                stack.append(to)
                on_stack.add(to)
                work.append((to, iter(edges.get(to, {}))))
            elif to in on_stack:
                low[at] = min(low[at], number[to])
    return found
