"""A thread for every order, which waits for a message that nobody sends when the order is cancelled."""

import asyncio
import os
import queue
import threading

from program import run

ORDERS_PER_S = float(os.environ.get("ORDERS_PER_S", "10"))


class Order:
    def __init__(self) -> None:
        self.messages: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self) -> None:  # BUG: cancel() should send what ends it
        while self.messages.get() not in ("delivered", "cancelled"):
            pass

    def cancel(self) -> None:
        pass


async def main() -> None:
    while threading.active_count() < 2000:
        Order().cancel()
        await asyncio.sleep(1 / ORDERS_PER_S)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main)
