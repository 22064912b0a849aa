"""A task that asks to be run again at once, over and over, instead of waiting for what it wants."""

import asyncio

from program import run


class Connection:
    """Becomes ready some day."""

    ready = False


async def wait_until_ready(connection: Connection) -> None:
    while not connection.ready:
        await asyncio.sleep(0)  # BUG: an Event is meant


async def main() -> None:
    task = asyncio.create_task(wait_until_ready(Connection()))
    while not task.done():
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    run(main)
