"""malloc without free in a C library: no allocator of Python's sees it, only resident memory does.

Mended: freed.
"""

from __future__ import annotations

import ctypes

from tests.leakbench.case import NATIVE, Case, Operation

CASE = Case(id="S16", title="malloc without free", kinds=(NATIVE,), bytes_per_operation=4000)

SIZE = 4000


def setup(fixed: bool) -> Operation:
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]

    def operation(number: int) -> None:
        block = library.malloc(SIZE)
        ctypes.memset(block, number % 256, SIZE)
        if fixed:
            library.free(block)

    return operation
