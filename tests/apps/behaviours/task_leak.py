"""A task for every request waits for an answer that never comes, and is kept for ever."""

import asyncio

from program import run

pending: dict[int, "asyncio.Future[str]"] = {}
tasks: set["asyncio.Task[str]"] = set()


async def call_backend(number: int) -> str:
    answer = pending[number] = asyncio.get_running_loop().create_future()
    return await answer  # BUG: no timeout, and nobody answers number 7 and its like


async def answer(number: int) -> None:
    await asyncio.sleep(0.01)
    pending.pop(number).set_result("answer")


async def main() -> None:
    number = 0
    while True:
        number += 1
        task = asyncio.create_task(call_backend(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.01)
        if number % 3:
            await answer(number)


if __name__ == "__main__":
    run(main)
