"""A DataLoader that lasts as long as the process: its cache, meant for one request, keeps every row ever loaded.

Mended: a loader per request.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="B9",
    title="global aiodataloader.DataLoader",
    sites=kept(__file__),
    holder="_cache",
    bytes_per_operation=250,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    from aiodataloader import DataLoader

    async def load(numbers: list[int]) -> list[list[int]]:
        return [[number * 1000 + each for each in range(6)] for number in numbers]  # kept

    loaders: list[DataLoader[int, list[int]]] = []

    async def operation(number: int) -> int:
        if fixed or not loaders:
            loaders[:] = [DataLoader(load)]
        return len(await loaders[0].load(number))  # kept

    return operation
