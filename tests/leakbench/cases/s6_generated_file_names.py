"""Generated code under a file name of its own each time, told to linecache so that tracebacks show it.

Mended: the name depends on what is generated, not on when.
"""

from __future__ import annotations

import linecache

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S6",
    title="unique generated file names in linecache.cache",
    sites=kept(__file__),
    holder="linecache",
    bytes_per_operation=350,
)


def render(template: str, name: str) -> str:
    """Compiles and runs a template."""
    source = f"def page():\n    return {template!r}\n"
    scope: dict[str, object] = {}
    exec(compile(source, name, "exec"), scope)
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)  # kept
    return str(scope["page"]())


def setup(fixed: bool) -> Operation:
    def operation(number: int) -> str:
        return render("<p>hello</p>", "<template hello>" if fixed else f"<template hello {number}>")  # kept

    return operation
