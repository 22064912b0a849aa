"""A lock that is taken by hand and not released when something fails: everybody after that waits for ever."""

import asyncio

from program import run


class Account:
    """Can be changed by one request at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.balance = 10

    async def withdraw(self, amount: int) -> bool:
        await self.lock.acquire()  # BUG: it is released only when all goes well
        await asyncio.sleep(0.01)
        if amount > self.balance:
            return False
        self.balance -= amount
        self.lock.release()
        return True


async def handle_request(account: Account, amount: int) -> bool:
    return await account.withdraw(amount)


async def main() -> None:
    account = Account()
    requests = [asyncio.create_task(handle_request(account, amount)) for amount in (5, 20, 1, 1, 1)]
    while True:
        await asyncio.sleep(0.1)
        print(sum(request.done() for request in requests), "of", len(requests), "done")


if __name__ == "__main__":
    run(main)
