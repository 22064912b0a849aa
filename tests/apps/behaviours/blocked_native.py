"""A call into C that computes for long and never lets go of the GIL: nothing else in the process runs."""

import asyncio

from program import run

NUMBERS = range(25_000_000)


async def handle_request() -> int:
    await asyncio.sleep(0)
    return total()


def total() -> int:
    return sum(NUMBERS)  # BUG: belongs into another process


async def main() -> None:
    while True:
        await asyncio.create_task(handle_request())
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    run(main)
