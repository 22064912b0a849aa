"""Collects all garbage after every request, with a large catalogue in memory that is looked through each time."""

import asyncio
import gc
import os

from program import run

ARTICLES = int(os.environ.get("ARTICLES", "150000"))


def make_catalogue() -> list[dict[str, list[int]]]:
    return [{"sizes": [size, size + 1], "stock": [0]} for size in range(ARTICLES)]


def handle_request() -> int:
    answer = sum(range(1000))
    gc.collect()  # BUG: once meant to keep memory low
    return answer


async def main() -> None:
    catalogue = make_catalogue()
    while catalogue:
        handle_request()
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    run(main)
