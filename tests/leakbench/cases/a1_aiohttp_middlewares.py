"""aiohttp 3.10.10, #9852, CVE-2024-52303: a wrong method makes a handler that becomes a key of an lru_cache.

Mended in 3.10.11. A real server; the client is one connection of asyncio's.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.leakbench.case import FIXED, LEAKY, Case, Operation, Site

CASE = Case(
    id="A1",
    title="aiohttp 3.10.10: error routes in the cache of middlewares",
    sites=(
        Site("aiohttp/web_app.py"),
        Site("aiohttp/web_urldispatcher.py"),
        Site("aiohttp/web_exceptions.py"),
    ),
    holder="lru_cache",
    bytes_per_operation=8600,
    environments={LEAKY: "aiohttp-3.10.10", FIXED: "aiohttp-3.10.11"},
)


REQUEST = b"POST /items HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


def setup(fixed: bool) -> Operation:
    from aiohttp import web

    @web.middleware
    async def timing(request: web.Request, handler: Any) -> web.StreamResponse:
        return await handler(request)

    async def items(request: web.Request) -> web.Response:
        return web.Response(text="items")

    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect() -> None:
        app = web.Application(middlewares=[timing])
        app.router.add_get("/items", items)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        connections.append(await asyncio.open_connection("127.0.0.1", runner.addresses[0][1]))

    async def operation(number: int) -> bytes:
        if not connections:
            await connect()
        reader, writer = connections[0]
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        return head[:12]

    return operation
