from __future__ import annotations

import asyncio

import pytest

from relay.delivery.watchdog import Watchdog


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.delivery.watchdog.LOOK_S", 0.01)


async def test_what_does_not_come_back_is_ended() -> None:
    dog = Watchdog()
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError), dog.until(loop.time() + 0.02):
        await asyncio.sleep(60)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_comes_back_in_time_is_left_alone() -> None:
    dog = Watchdog()
    with dog.until(asyncio.get_running_loop().time() + 0.02):
        pass
    await asyncio.sleep(0.05)


async def test_it_looks_again_after_a_pause() -> None:
    dog = Watchdog()
    for _ in range(2):
        with pytest.raises(TimeoutError), dog.until(asyncio.get_running_loop().time()):
            await asyncio.sleep(60)
        await asyncio.sleep(0.03)


async def test_somebody_elses_cancellation_goes_on() -> None:
    dog = Watchdog()

    async def work() -> None:
        with dog.until(asyncio.get_running_loop().time() + 60):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
