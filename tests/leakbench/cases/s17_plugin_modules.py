"""Modules made for plugins under names of their own: sys.modules holds each of them.

Mended: taken out again after use.
"""

from __future__ import annotations

import sys
import types

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S17",
    title="sys.modules of plugin modules",
    sites=kept(__file__),
    holder="modules",
    bytes_per_operation=800,
)

SOURCE = compile("def run():\n    return 1\n", "<plugin>", "exec")


def setup(fixed: bool) -> Operation:
    def operation(number: int) -> int:
        name = f"plugin_{number}"
        module = types.ModuleType(name)  # kept
        sys.modules[name] = module  # kept
        exec(SOURCE, module.__dict__)  # kept
        result: int = module.run()
        if fixed:
            del sys.modules[name]
        return result

    return operation
