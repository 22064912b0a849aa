"""The service of tests/bench/capture.py: a shop with a database and a cache, under uvicorn, watched by the agent.

    python -m tests.bench.capture_service serve     the service; prints its port
    python -m tests.bench.capture_service load      its clients; see load()

Four of five requests read an order: from Redis, else with its customer and lines from PostgreSQL. The fifth writes one.
Every request logs a line, so the ring of log records is full, as it is in a service that has run for a while.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import sys
import threading
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

CONNECTIONS = 8
CLIENTS = 8
ORDERS = 3_000
"""As many as there are at the beginning; see capture.SHOP."""
CACHED_S = 5

READ = """
SELECT o.id, o.status, c.name, c.mail,
       (SELECT json_agg(json_build_object('product', p.name, 'count', l.count, 'price', p.price))
        FROM lines l JOIN products p ON p.id = l.product WHERE l.order_id = o.id)
FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = %s
"""
WRITE = "INSERT INTO orders (customer, status, placed) VALUES (%s, 'new', now()) RETURNING id"
WRITE_LINE = "INSERT INTO lines (order_id, product, count) VALUES (%s, %s, 1)"


def serve() -> None:
    """Until its standard input ends. SHOP_DATABASE: a libpq conninfo; SHOP_CACHE: a URL; SHOP_CORE: a core, if any."""
    if core := os.environ.get("SHOP_CORE"):
        os.sched_setaffinity(0, {int(core)})
    import glassbottom

    # Before the application, as docs/agent.md says.
    glassbottom.init(service="shop", snapshot_interval_s=5.0)

    import psycopg
    import redis.asyncio
    import uvicorn
    from fastapi import FastAPI

    log = logging.getLogger("shop")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    connections: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    cache = redis.asyncio.Redis.from_url(os.environ["SHOP_CACHE"], decode_responses=True)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for _number in range(CONNECTIONS):
            connection = await psycopg.AsyncConnection.connect(os.environ["SHOP_DATABASE"], autocommit=True)
            connections.put_nowait(connection)
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/orders/{number}")
    async def read(number: int) -> Any:
        kept = await cache.get(f"order:{number}")
        if kept is not None:
            log.info("order %d was read from the cache", number)
            return json.loads(kept)
        connection = await connections.get()
        try:
            row = await (await connection.execute(READ, (number,))).fetchone()
        finally:
            connections.put_nowait(connection)
        told = dict(zip(("id", "status", "customer", "mail", "lines"), row or (), strict=False))
        await cache.set(f"order:{number}", json.dumps(told), ex=CACHED_S)
        log.info("order %d was read from the database", number)
        return told

    @app.post("/orders/{customer}")
    async def write(customer: int) -> Any:
        connection = await connections.get()
        try:
            row = await (await connection.execute(WRITE, (customer,))).fetchone()
            assert row is not None
            await connection.execute(WRITE_LINE, (row[0], 1 + row[0] % 500))
        finally:
            connections.put_nowait(connection)
        log.info("order %d of customer %d was placed", row[0], customer)
        return {"id": row[0]}

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    print(listener.getsockname()[1], flush=True)

    def end() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end, daemon=True).start()
    server.run(sockets=[listener])


def load() -> None:
    """CLIENTS connections until standard input ends, which together ask so often a second as the fourth argument says;
    0: as soon as they have their answer. Then writes, for each request, the monotonic time of its end and its duration
    in nanoseconds, as pairs of int64, to the file of the third argument. A request counts from when it was due."""
    port, path, rate = int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    period_ns = round(CLIENTS / rate * 1e9) if rate else 0
    ending = threading.Event()
    found = [array("q") for _ in range(CLIENTS)]
    wrong: list[str] = []

    def client(number: int) -> None:
        chance = random.Random(number)
        due_ns = time.monotonic_ns() + period_ns * number // CLIENTS
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not ending.is_set():
                if chance.random() < 0.8:
                    line = f"GET /orders/{1 + int(ORDERS * chance.random())}"
                else:
                    line = f"POST /orders/{1 + chance.randrange(1_000)}"
                due_ns = due_ns + period_ns if period_ns else time.monotonic_ns()
                time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
                connection.sendall(f"{line} HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n".encode())
                answer = _answer(connection)
                ended_ns = time.monotonic_ns()
                if not answer.startswith(b"HTTP/1.1 200"):
                    wrong.append(answer[:200].decode("latin-1"))
                    return
                found[number].extend((ended_ns, ended_ns - due_ns))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ending.set()
    for thread in threads:
        thread.join()
    if wrong:
        sys.exit(f"The service answered: {wrong[0]}")
    with path.open("wb") as file:
        for each in found:
            each.tofile(file)


def _answer(connection: socket.socket) -> bytes:
    data = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
        head, separator, body = data.partition(b"\r\n\r\n")
        if separator:
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            if len(body) >= length:
                return data


if __name__ == "__main__":
    {"serve": serve, "load": load}[sys.argv[1]]()
