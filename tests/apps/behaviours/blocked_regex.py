"""An expression that backtracks for exponential time on the wrong input, while it holds the loop and the GIL."""

import asyncio
import re

from program import run

WORDS = re.compile(r"^(\w+\s?)+$")


async def handle_request(text: str) -> bool:
    await asyncio.sleep(0)
    return is_a_sentence(text)


def is_a_sentence(text: str) -> bool:
    return WORDS.match(text) is not None  # BUG: the longer the text before a wrong letter, the longer it takes


def slow_text() -> str:
    """Long enough to keep this machine busy for about half a second."""
    import time

    text = "a" * 16
    while True:
        began_s = time.perf_counter()
        is_a_sentence(text + "!")
        if time.perf_counter() - began_s > 0.3:
            return text + "!"
        text += "a"


async def main() -> None:
    text = slow_text()
    while True:
        await asyncio.create_task(handle_request(text))
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    run(main)
