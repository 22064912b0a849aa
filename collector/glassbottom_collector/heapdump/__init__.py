"""Heap dumps: who holds what, and how much would be free without it.

A dump (docs/heap-dump-format.md) becomes arrays once, and every question is arithmetic over them:

    dump = load(path)
    dump.suspects()
    dump.paths(type_name="app.ws.Session")
    diff(load(earlier), dump)

A HeapDump does not change after load() and may be asked from several threads. Five million objects take about a
gigabyte while it lives.
"""

from __future__ import annotations

from .dump import HeapDump, diff, load

__all__ = ["HeapDump", "diff", "load"]
