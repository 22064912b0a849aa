"""asgiref's Local per operation, gone with its context or at the next collection. Must not be called a leak.

Each operation has a context of its own, as each request of a server has: a context keeps all variables ever set in it.
"""

from __future__ import annotations

import contextvars

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C7", title="asgiref Local", kinds=(NONE,), environments={"both": "misuse"})


def setup(fixed: bool) -> Operation:
    from asgiref.local import Local

    def request(number: int) -> int:
        local = Local()
        local.rows = [number * 1000 + each for each in range(8)]
        return len(local.rows)

    return lambda number: contextvars.copy_context().run(request, number)
