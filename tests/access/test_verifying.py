"""Verifying beside the loop: by turns of addresses, bounded, and no place is ever lost."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from edgegw.access import verifying
from edgegw.access.verifying import AT_ONCE, TooMany, Verifiers


class Slow:
    """A key whose verifications begin in an order that is kept, and end when they may."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.go = threading.Semaphore(0)

    def verify(self, message: bytes, _: bytes) -> bool:
        self.begun.append(message)
        assert self.go.acquire(timeout=30)
        return True


@pytest.fixture
async def verifiers() -> AsyncIterator[Verifiers]:
    made = Verifiers()
    yield made
    made.close()


def asked(verifiers: Verifiers, key: Slow, name: str, number: int) -> asyncio.Task[bool]:
    message = f"{name}{number}".encode()
    return asyncio.create_task(verifiers.verify(key, message, b"", peer=name))  # type: ignore[arg-type]


async def test_an_address_that_floods_delays_another_by_its_turn_alone(verifiers: Verifiers) -> None:
    """A hundred of one address wait; the one of another is the next but one."""
    key = Slow()
    tasks = [asked(verifiers, key, "flood", number) for number in range(100)]
    await asyncio.sleep(0)
    tasks += [asked(verifiers, key, "till", number) for number in range(2)]
    await asyncio.sleep(0)
    key.go.release(len(tasks))
    assert all(await asyncio.gather(*tasks))
    places = [key.begun.index(b"till0"), key.begun.index(b"till1")]
    assert places[0] <= AT_ONCE + 2
    assert places[1] <= AT_ONCE + 4


async def test_so_many_wait_and_no_more(verifiers: Verifiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each address; another address still finds its place."""
    monkeypatch.setattr(verifying, "WAITING_EACH_MAX", 3)
    key = Slow()
    tasks = [asked(verifiers, key, "flood", number) for number in range(AT_ONCE + 5)]
    other = asked(verifiers, key, "till", 0)
    await asyncio.sleep(0)
    key.go.release(100)
    done = await asyncio.gather(*tasks, other, return_exceptions=True)
    assert [type(one) for one in done] == [bool] * (AT_ONCE + 3) + [TooMany] * 2 + [bool]


async def test_who_gives_up_waiting_takes_no_place_away(verifiers: Verifiers) -> None:
    """Also one whose turn has come at the same moment."""
    key = Slow()
    tasks = [asked(verifiers, key, "till", number) for number in range(AT_ONCE + 20)]
    await asyncio.sleep(0)
    for task in tasks[AT_ONCE : AT_ONCE + 10]:
        task.cancel()
    key.go.release(100)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(task.cancelled() for task in tasks) == 10
    assert verifiers._running == 0
    assert await asyncio.wait_for(asked(verifiers, key, "till", 99), 10)
