"""A program with the habits of good services. Nothing of it may be found fault with."""

import asyncio
import contextlib
import threading

from program import run


class Service:
    """Answers lines, over a pool of workers that take turns at something."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[tuple[bytes, asyncio.Future[bytes]]] = asyncio.Queue(100)
        self.turn = asyncio.Lock()
        self.stop = asyncio.Event()

    async def worker(self) -> None:
        while True:
            line, answer = await self.lines.get()
            async with self.turn:
                await asyncio.sleep(0.001)
            if not answer.done():
                answer.set_result(line.upper())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                answer = asyncio.get_running_loop().create_future()
                await self.lines.put((line, answer))
                writer.write(await asyncio.wait_for(answer, 30))
                await writer.drain()
        writer.close()

    async def until_stopped(self) -> None:
        await self.stop.wait()


async def client(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        await asyncio.sleep(0.02)


async def main() -> None:
    service, never = Service(), threading.Event()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(service.worker())
            group.create_task(client(server.sockets[0].getsockname()[1]))
        group.create_task(service.until_stopped())
        group.create_task(asyncio.to_thread(never.wait))
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    run(main)
