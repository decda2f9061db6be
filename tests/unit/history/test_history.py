"""The stories of messages: kept in the background, trimmed, readable from outside."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.events import Event, Events
from relay.history import Filter, HistorySink, decode, encode
from relay.history.memory import MemoryHistory
from relay.history.sqlite import SqliteHistory, forget_abandoned, recent, story
from relay.ids import IdSource
from relay.router.selection import Considered, Verdict

AnyHistory = MemoryHistory | SqliteHistory
ids = IdSource(lambda: 1_700_000_000.0)


class Clock:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "sqlite"])
async def history(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyHistory]:
    made: AnyHistory = MemoryHistory()
    if request.param == "sqlite":
        made = SqliteHistory(tmp_path / "var", clock=Clock())
        await made.start()
    yield made
    await made.close()


@pytest.fixture
async def open_history(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[SqliteHistory]]]:
    opened: list[SqliteHistory] = []

    async def opener(**options: Any) -> SqliteHistory:
        made = SqliteHistory(tmp_path, **options)
        opened.append(made)
        await made.start()
        return made

    yield opener
    for made in opened:
        await made.close()


def event(message_id: str, name: str = "attempt.delivered", at: float = 1.0, **data: Any) -> Event:
    return Event(name, at, "info", message_id, data)


def record(history: AnyHistory, made: Event) -> None:
    history.record(made.message_id, encode(made))


async def test_a_story_is_told_in_order_and_of_one_message(history: AnyHistory) -> None:
    mine, other = ids.next(), ids.next()
    told = [event(mine, f"step.{number}", at=float(number), number=number) for number in range(5)]
    for made in told:
        record(history, made)
        record(history, event(other))
    assert await history.story(mine) == told
    assert await history.story(ids.next()) == []
    assert await history.story("no id") == []


async def test_ids_that_share_a_row_key_have_stories_of_their_own(history: AnyHistory) -> None:
    first = ids.next()
    second = first[:-1] + ("0" if first[-1] != "0" else "1")
    record(history, event(first, at=1.0))
    record(history, event(second, at=2.0))
    assert await history.story(first) == [event(first, at=1.0)]


async def test_the_sink_keeps_events_of_messages_and_nodes_and_not_those_of_sessions(history: AnyHistory) -> None:
    events = Events([HistorySink(history)], Clock())
    mine = ids.next()
    events.message_accepted(mine, bridge="shop")
    events.node_paused(node="n1", pool="p", by="ann", reason="", until=0.0)
    events.message_rejected(session="s", bridge="shop", peer="192.0.2.1", stage="rcpt", reply="501 5.1.3 Malformed")
    events.message_held(mine, until=5.0, why=["over the cap"])
    assert [told.name for told in await history.story(mine)] == ["message.accepted", "route.held"]
    assert [told.name for told in await history.recent(10)] == ["route.held", "node.paused", "message.accepted"]


async def test_recent_events_come_newest_first_and_filtered(history: AnyHistory) -> None:
    mine = ids.next()
    record(history, event(mine, "attempt.deferred", at=1.0, node="primary", text="451 Later"))
    record(history, event(mine, "attempt.delivered", at=2.0, node="second"))
    record(history, event(mine, "attempts", at=3.0))
    assert [told.at for told in await history.recent(2)] == [3.0, 2.0]
    assert [told.at for told in await history.recent(9, Filter(name="attempt"))] == [2.0, 1.0]
    assert [told.at for told in await history.recent(9, Filter(name="attempt.deferred"))] == [1.0]
    assert [told.at for told in await history.recent(9, Filter(text="later"))] == [1.0]
    assert [told.at for told in await history.recent(9, Filter(since=2.0))] == [3.0, 2.0]
    assert await history.recent(0) == []


def test_events_survive_encoding_and_odd_data_does_no_harm() -> None:
    made = event("x", node="n", codes=[1, 2], nothing=None, text="ünï")
    assert decode(encode(made)) == made
    odd = decode(encode(event("x", path=Path("/tmp"), text="\udc80", big=2**80)))
    assert odd.data["big"] == str(2**80)
    with pytest.raises(ValueError, match="not an event"):
        decode(b'{"name": 1}')


async def test_the_file_is_ours_alone_and_outlives_the_process(open_history: Any, tmp_path: Path) -> None:
    mine = ids.next()
    first = await open_history()
    record(first, event(mine))
    await first.close()
    await first.close()
    assert (tmp_path / "history-0.db").stat().st_mode & 0o777 == 0o600
    again = await open_history()
    assert await again.story(mine) == [event(mine)]


async def test_another_process_reads_while_the_relay_writes(open_history: Any, tmp_path: Path) -> None:
    history = await open_history()
    mine = ids.next()
    record(history, event(mine, node="primary"))
    assert len(await history.story(mine)) == 1
    code = "import sys, pathlib; from relay.history.sqlite import story; "
    code += "print([e.data for e in story(pathlib.Path(sys.argv[1]), sys.argv[2])])"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), mine, stdout=subprocess.PIPE
    )
    output, _ = await child.communicate()
    assert output.decode().strip() == "[{'node': 'primary'}]"


async def test_stories_are_gathered_over_all_shards(tmp_path: Path) -> None:
    mine = ids.next()
    for shard, at in (("1", 2.0), ("0", 1.0)):
        history = SqliteHistory(tmp_path, shard)
        await history.start()
        record(history, event(mine, at=at))
        await history.close()
    assert [told.at for told in story(tmp_path, mine)] == [1.0, 2.0]
    assert [told.at for told in recent(tmp_path, 1)] == [2.0]


async def test_too_many_events_push_the_oldest_out(open_history: Any) -> None:
    history = await open_history(max_events=100)
    mine = ids.next()
    for number in range(250):
        record(history, event(mine, at=float(number)))
        if number % 50 == 49:
            await history.story(mine)  # a round of writing
    assert [told.at for told in await history.story(mine)] == [float(number) for number in range(150, 250)]
    assert history.dropped == 0


async def test_old_events_go_in_bounded_pieces(open_history: Any) -> None:
    clock = Clock()
    history = await open_history(max_age_s=100.0, clock=clock)
    mine = ids.next()
    for number in range(4500):
        record(history, event(mine, at=float(number)))
    assert len(await history.story(mine)) == 4500
    clock.now += 60
    record(history, event(mine, at=9999.0))
    assert len(await history.story(mine)) == 4501
    clock.now += 60
    counts = [len(await history.story(mine)) for _ in range(4)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] >= 4501 - 2 * 2000, "a round removes 2,000 at most; one may have come in between"
    assert counts[-1] == 1


async def test_under_pressure_the_oldest_unwritten_are_dropped_and_counted(tmp_path: Path) -> None:
    history = SqliteHistory(tmp_path, max_waiting=10)
    mine = ids.next()
    for number in range(25):
        record(history, event(mine, at=float(number)))
    assert history.dropped == 15
    await history.start()
    assert [told.at for told in await history.story(mine)] == [float(number) for number in range(15, 25)]
    await history.close()


async def test_an_unusable_file_is_moved_aside(open_history: Any, tmp_path: Path) -> None:
    (tmp_path / "history-0.db").write_bytes(b"garbage " * 1000)
    history = await open_history()
    mine = ids.next()
    record(history, event(mine))
    assert len(await history.story(mine)) == 1
    assert (tmp_path / "history-0.db.unusable").exists()


async def test_files_that_nobody_trims_any_more_go_when_all_they_tell_is_too_old(tmp_path: Path) -> None:
    now = time.time()
    for name in ("history-0.db", "history-1.db", "history-1.db-wal", "history-2.db", "history-3.db", "history-3.db-wal",
                 "history-0.db.unusable", "state.db"):  # fmt: skip
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now - 100, now - 100))
    os.utime(tmp_path / "history-3.db-wal")
    assert forget_abandoned(tmp_path, ["0", "2"], max_age_s=200, now=now) == []
    gone = forget_abandoned(tmp_path, ["0", "2"], max_age_s=50, now=now)
    assert [path.name for path in gone] == ["history-0.db.unusable", "history-1.db"]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["history-0.db", "history-2.db", "history-3.db", "history-3.db-wal", "state.db"]


async def test_a_store_that_fails_loses_events_and_nothing_else(open_history: Any, tmp_path: Path) -> None:
    history = await open_history(write_every_s=0.01)
    mine = ids.next()
    other = sqlite3.connect(tmp_path / "history-0.db", isolation_level=None)
    other.execute("DROP TABLE event")
    record(history, event(mine))
    assert await history.story(mine) == []
    assert history.dropped == 1
    other.close()
    record(history, event(mine))
    assert len(await history.story(mine)) == 1, "the next round opens the file anew"
    assert history.trouble == ""


async def test_an_event_costs_its_caller_a_few_microseconds(open_history: Any) -> None:
    """About 2 us on an idle machine; the bound leaves room for a busy one."""
    history = await open_history(max_waiting=1_000_000)
    events = Events([HistorySink(history)], time.time)
    mine = ids.next()
    costs = []
    for _ in range(5):
        begin = time.thread_time()
        for _ in range(2000):
            events.attempt(mine, "delivered", node="primary", pool="acme", code=250, text="2.0.0 Ok", ms=41.5)
        costs.append((time.thread_time() - begin) / 2000)
    assert min(costs) < 30e-6


def test_a_decision_s_trace_is_kept_as_lists_that_can_be_read_again() -> None:
    trace = (Considered("a", Verdict.CHOSEN, "its turn"), Considered("b", Verdict.ELIGIBLE, ""))
    kept = decode(encode(event("01J", route=trace)))
    assert kept.data["route"] == [["a", "chosen", "its turn"], ["b", "eligible", ""]]
