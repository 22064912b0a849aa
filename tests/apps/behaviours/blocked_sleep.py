"""A request handler that sleeps with time.sleep(): the whole loop stands still meanwhile."""

import asyncio
import time

from program import run


async def handle_request() -> None:
    await asyncio.sleep(0)
    wait_for_the_printer()


def wait_for_the_printer() -> None:
    time.sleep(0.6)  # BUG: asyncio.sleep() is meant


async def main() -> None:
    while True:
        await asyncio.create_task(handle_request())
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    run(main)
