"""Who waits for which grant, and with what end."""

import asyncio

import pytest

from edgegw.core.messages import ASKS_MAX
from edgegw.uplink.asks import LAST_WORD_MS, WAITING_MAX, Asks, Outcome


def waiting(asks: Asks, count: int = 1) -> list[asyncio.Task[Outcome]]:
    return [
        asyncio.create_task(asks.wait(epoch=3, account_id="a", currency="CNY", amount_minor=5))
        for _ in range(count)
    ]


async def started(asks: Asks, count: int = 1, *, send: bool = True) -> list[asyncio.Task[Outcome]]:
    """Tasks that wait by now, their asks sent."""
    tasks = waiting(asks, count)
    await asyncio.sleep(0)
    if send:
        asks.to_send()
    return tasks


async def test_a_rush_that_would_fill_the_memory_is_told_down_at_once() -> None:
    """No more wait than WAITING_MAX; a message carries no more than ASKS_MAX of them, the oldest first."""
    asks = Asks(boot="b", timeout_ms=60_000)
    tasks = await started(asks, WAITING_MAX)
    assert await asks.wait(epoch=3, account_id="a", currency="CNY", amount_minor=5) is Outcome.DOWN
    assert [ask.request_id for ask in asks.to_send()] == [f"3-b-{n}" for n in range(1, ASKS_MAX + 1)]
    asks.give_up()
    assert set(await asyncio.gather(*tasks)) == {Outcome.DOWN}
    assert len(asks) == 0


async def test_a_grant_that_is_being_written_is_not_given_up() -> None:
    """The pen was told that somebody waits: he does, though the line goes down meanwhile."""
    asks = Asks(boot="b", timeout_ms=60_000)
    (task,) = await started(asks)
    still_awaited = asks.awaited("3-b-1")
    assert still_awaited
    asks.give_up()
    await asyncio.sleep(0)
    assert not task.done()
    asks.resolve("3-b-1", Outcome.GRANTED)
    assert await task is Outcome.GRANTED


@pytest.mark.parametrize("how", ["timeout", "cancelled", "down"])
async def test_a_grant_that_nobody_waits_for_is_not_awaited(how: str) -> None:
    """However the waiting ended, a later grant is for nobody: the pen hands it back."""
    asks = Asks(boot="b", timeout_ms=1 if how == "timeout" else 60_000)
    (task,) = await started(asks)
    if how == "cancelled":
        task.cancel()
    if how == "down":
        asks.give_up()
    await asyncio.wait((task,))
    assert not asks.awaited("3-b-1")
    asks.resolve("3-b-1", Outcome.GRANTED)


async def test_an_ask_that_was_never_sent_is_sent_no_more() -> None:
    """Nobody waits for it, and the hub knows nothing of it."""
    asks = Asks(boot="b", timeout_ms=1)
    (task,) = await started(asks, send=False)
    assert asks.unsent
    assert await task is Outcome.TIMEOUT
    assert not asks.unsent


async def test_an_ask_says_how_long_its_answer_may_take() -> None:
    """After that one more message still brings the word in time; who has no time left says 0."""
    asks = Asks(boot="b", timeout_ms=60_000)
    await started(asks, send=False)
    [fresh] = asks.to_send()
    [slow] = asks.to_send(spent_ms=10_000)
    [late] = asks.to_send(spent_ms=40_000)
    assert 50_000 < fresh.patience_ms <= 60_000 - LAST_WORD_MS
    assert 30_000 < slow.patience_ms <= 40_000 - LAST_WORD_MS
    assert late.patience_ms == 0
    asks.give_up()
