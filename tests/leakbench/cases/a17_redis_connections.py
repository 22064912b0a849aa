"""redis-py 4.5.4 with hiredis 2.2.2, #2741: each connection's parser stays, and what it has read with it.

Mended with hiredis 2.2.3. The server is a few lines of asyncio.
"""

from __future__ import annotations

import asyncio

from tests.leakbench.case import CYCLIC, FIXED, LEAKY, REACHABLE, Case, Operation, Site, kept

CASE = Case(
    id="A17",
    title="redis-py 4.5.4 and hiredis 2.2.2: a client per call",
    kinds=(CYCLIC, REACHABLE),
    sites=(*kept(__file__), Site("redis/asyncio/connection.py"), Site("asyncio/streams.py")),
    holder="Reader",
    bytes_per_operation=20_000,
    per_second=12,
    environments={LEAKY: "hiredis-2.2.2", FIXED: "hiredis-2.2.3"},
)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers whatever is asked with OK."""
    try:
        while line := await reader.readline():
            if line.startswith(b"*"):
                for _ in range(2 * int(line[1:])):
                    await reader.readline()
                writer.write(b"+OK\r\n")
                await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def setup(fixed: bool) -> Operation:
    from redis.asyncio import Redis

    ports: list[int] = []

    async def operation(number: int) -> None:
        if not ports:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            ports.append(server.sockets[0].getsockname()[1])
        client = Redis(port=ports[0], single_connection_client=True)
        await client.execute_command("SET", "number", number)  # kept
        await client.close()

    return operation
