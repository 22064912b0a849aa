"""Bounds that make others wait instead of failing."""

from __future__ import annotations

import asyncio

from glassbottom_collector.ingest.limits import ByteBudget, KnownIds, RowRate


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_came_first_is_served_first_even_if_a_later_one_would_fit() -> None:
    """Otherwise one large snapshot could wait for ever behind many small ones."""

    async def story() -> list[str]:
        budget = ByteBudget(100)
        order: list[str] = []

        async def take(name: str, size: int) -> None:
            await budget.take(size)
            order.append(name)

        await budget.take(60)
        tasks = [asyncio.create_task(take("large", 80)), asyncio.create_task(take("small", 10))]
        await settle()
        assert order == []
        assert budget.waiting() == 2
        budget.give(60)
        await settle()
        assert order == ["large", "small"]
        assert budget.bytes_held == 90
        await asyncio.gather(*tasks)
        return order

    asyncio.run(story())


def test_one_that_gives_up_waiting_neither_blocks_nor_leaks() -> None:
    async def story() -> None:
        budget = ByteBudget(100)
        await budget.take(100)
        quitter = asyncio.create_task(budget.take(50))
        next_one = asyncio.create_task(budget.take(100))
        await settle()
        quitter.cancel()
        await settle()
        budget.give(100)
        await asyncio.wait_for(next_one, 1)
        budget.give(100)
        assert budget.bytes_held == 0

    asyncio.run(story())


def test_one_that_is_cancelled_just_when_its_turn_comes_gives_it_back() -> None:
    async def story() -> None:
        budget = ByteBudget(100)
        await budget.take(100)
        waiting = asyncio.create_task(budget.take(50))
        await settle()
        budget.give(100)  # its turn is set, and it has not run yet
        waiting.cancel()
        await settle()
        assert budget.bytes_held == 0

    asyncio.run(story())


def test_more_than_everything_counts_as_everything() -> None:
    async def story() -> None:
        budget = ByteBudget(100)
        await budget.take(500)
        assert budget.bytes_held == 100
        budget.give(500)
        assert budget.bytes_held == 0

    asyncio.run(story())


def test_what_turns_out_smaller_lets_the_next_one_in() -> None:
    async def story() -> None:
        budget = ByteBudget(100)
        await budget.take(80)
        waiting = asyncio.create_task(budget.take(50))
        await settle()
        budget.exchange(80, 60)
        await settle()
        assert not waiting.done()
        budget.exchange(60, 50)
        await asyncio.wait_for(waiting, 1)
        assert (budget.bytes_held, budget.bytes_high) == (100, 100)

    asyncio.run(story())


def test_known_ids_are_forgotten_rather_than_kept_without_bound() -> None:
    known = KnownIds(count_max=3)
    known.add([1, 2, 3])
    assert 2 in known
    known.add([4])
    assert len(known) == 0
    assert 2 not in known


def test_a_burst_is_free_and_what_exceeds_the_rate_waits_its_share() -> None:
    now_s = [0.0]
    rate = RowRate(100, lambda: now_s[0])
    assert rate.delay_s(1_000) == 0.0
    assert rate.delay_s(50) == 0.5
    now_s[0] = 0.5
    assert rate.delay_s(0) == 0.0
    now_s[0] = 1_000.0
    assert rate.delay_s(1_000) == 0.0
    assert rate.delay_s(1) == 0.01
