"""A log file for every order, kept in a list of the open ones from which cancelled orders are not taken."""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import IO

from program import run

ORDERS_PER_S = float(os.environ.get("ORDERS_PER_S", "10"))

logs: list[IO[str]] = []


def open_log(number: int) -> None:
    logs.append(Path(os.devnull).open("w"))  # BUG: nobody closes it  # noqa: SIM115
    logs[-1].write(f"order {number}\n")


def note(directory: str) -> None:
    """Opens files as well, and closes them."""
    (Path(directory) / "last").write_text("order")


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        number = 0
        while number < 800:
            open_log(number)
            note(directory)
            number += 1
            await asyncio.sleep(1 / ORDERS_PER_S)
        await asyncio.Event().wait()


if __name__ == "__main__":
    run(main)
