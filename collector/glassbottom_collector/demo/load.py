"""The clients: customers who come and go by WebSocket, and ordinary traffic beside them.

One arrival a second or so, each staying for some seconds, while pages and orders are asked for. What is opened is
counted with its moment, since that count is one half of the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

ARRIVAL_S = 1.0
STAY_S = (2.0, 6.0)
READY_S_MAX = 15.0
PAGES_PER_S = 40.0
ORDERS_PER_S = 10.0
ORDER_LINES = 40
# A crawler looks at this many pages first, which are also those asked for most; they fill the cache. Then one page of
# thirty is any other, and takes the place of one in the cache.
POPULAR, PRODUCTS = 200, 2000


@dataclass
class Driven:
    """What the clients did. sessions_at_ns: when each WebSocket session was open, Unix epoch."""

    sessions_at_ns: list[int] = field(default_factory=list)
    pages: int = 0
    orders: int = 0


async def wait_until_open(address: str, meanwhile: Callable[[], None]) -> None:
    """Returns when the shop answers. meanwhile is called now and then, and may raise to end the wait.

    Raises TimeoutError after READY_S_MAX.
    """
    import httpx

    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client, asyncio.timeout(READY_S_MAX):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/health")).is_success:
                    return
            meanwhile()
            await asyncio.sleep(0.1)


async def drive(address: str, seconds: float, every_second: Callable[[float, Driven], None]) -> Driven:
    """Plays the clients for that long; calls every_second(elapsed_s, driven) on the way, which may raise to end it.

    Raises the first error of any client: a shop that fails must not be mistaken for one that is idle.
    """
    chance = random.Random(11)  # noqa: S311 - the same customers every time
    driven = Driven()
    started_s = time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as clients:
            clients.create_task(_customers(address, chance, driven, clients))
            clients.create_task(_pages(address, chance, driven))
            clients.create_task(_orders(address, chance, driven))
            while True:
                await asyncio.sleep(1)
                every_second(time.monotonic() - started_s, driven)
    return driven


async def _customers(address: str, chance: random.Random, driven: Driven, clients: asyncio.TaskGroup) -> None:
    while True:
        clients.create_task(_customer(address, chance.uniform(*STAY_S), driven))
        await asyncio.sleep(ARRIVAL_S)


async def _customer(address: str, stay_s: float, driven: Driven) -> None:
    from websockets.asyncio.client import connect

    async with connect(f"ws://{address}/ws", proxy=None) as websocket:
        await websocket.recv()
        driven.sessions_at_ns.append(time.time_ns())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stay_s):
                async for _ in websocket:
                    pass


async def _pages(address: str, chance: random.Random, driven: Driven) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        for request in itertools.count():
            number = request if request < POPULAR else chance.randrange(PRODUCTS if request % 30 == 0 else POPULAR)
            (await client.get(f"/products/{number}")).raise_for_status()
            driven.pages += 1
            await asyncio.sleep(1 / PAGES_PER_S)


async def _orders(address: str, chance: random.Random, driven: Driven) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        while True:
            lines = [{"price_eur": chance.uniform(1, 99), "pieces": chance.randrange(1, 9)} for _ in range(ORDER_LINES)]
            (await client.post("/orders", json=lines)).raise_for_status()
            driven.orders += 1
            await asyncio.sleep(1 / ORDERS_PER_S)
