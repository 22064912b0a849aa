"""fsspec caches file systems by their arguments; with arguments of their own every request makes another that stays.

Mended: the argument that is always different is left out.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="B1",
    title="fsspec.filesystem with unique arguments",
    sites=kept(__file__),
    holder="_cache",
    bytes_per_operation=770,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    import fsspec

    def operation(number: int) -> str:
        options = {} if fixed else {"request": f"request {number}"}  # kept
        return str(fsspec.filesystem("file", **options).protocol)  # kept

    return operation
