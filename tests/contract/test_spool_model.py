"""Random histories over every spool, compared step by step with a dictionary that cannot be wrong."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.envelope import Content, Lane, Message
from relay.redisdb.address import parse
from relay.spool import Lease, QueueKey, Selection, Standing
from relay.spool.memory import MemorySpool
from relay.spool.redis_store import RedisSpool
from relay.spool.sqlite import SqliteSpool
from tests.contract.spool_fixtures import HEAD, NOW, delivered, folder_of, message, sqlite_options

KEYS = [QueueKey("acme-pool", lane, bridge) for lane in Lane for bridge in ("shop", "web")]
OFFSETS = st.integers(-3, 3).map(float)


@dataclass
class Known:
    """What the dictionary knows of a message."""

    message: Message
    due: float
    standing: Standing = Standing.QUEUED
    lease: Lease | None = None
    begun: bool = False
    base: int = 0

    @property
    def key(self) -> QueueKey:
        return QueueKey(self.message.pool, self.message.lane, self.message.bridge)


class SpoolMachine(RuleBasedStateMachine):
    durable = False
    url: Callable[[], str] | None = None

    def __init__(self) -> None:
        super().__init__()
        if self.url:
            self.address = parse(type(self).url())  # type: ignore[misc]
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.now = NOW
        self.known: dict[str, Known] = {}
        self.spool = self.run(self.opened())

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def opened(self) -> Any:
        spool: Any = SqliteSpool(folder_of(self.folder), **sqlite_options()) if self.durable else MemorySpool()
        if self.url:
            spool = RedisSpool(self.address, folder_of(self.folder))
        await spool.start()
        return spool

    def teardown(self) -> None:
        self.run(self.spool.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def pick(self, number: int, leased: bool) -> Known | None:
        choice = [known for known in self.known.values() if (known.lease is not None) is leased]
        return choice[number % len(choice)] if choice else None

    # What may happen

    @rule(key=st.sampled_from(KEYS), offset=OFFSETS, lease=st.booleans(), recipients=st.integers(1, 3))
    def store(self, key: QueueKey, offset: float, lease: bool, recipients: int) -> None:
        made = message(
            *(f"r{number}@customer.example" for number in range(recipients)),
            lane=key.lane,
            bridge=key.bridge,
            received_at=self.now + offset,
        )
        got = self.run(self.spool.store(made, Content(HEAD, made.id.encode()), lease=lease))
        known = Known(made, made.received_at, lease=got, begun=lease)
        if lease:
            known.message = replace(made, attempts=1)
            assert got.message == known.message
        self.known[made.id] = known

    @rule(key=st.sampled_from(KEYS), limit=st.integers(0, 4))
    def lease_due(self, key: QueueKey, limit: int) -> None:
        got = self.run(self.spool.lease_due(key, now=self.now, limit=limit))
        ready = [
            known
            for known in self.known.values()
            if known.key == key and known.standing is Standing.QUEUED and not known.lease and known.due <= self.now
        ]
        ready.sort(key=lambda known: (known.due, known.message.id))
        assert [lease.message for lease in got] == [known.message for known in ready[:limit]]
        for lease in got:
            known = self.known[lease.message.id]
            known.lease, known.base = lease, lease.message.attempts

    @rule(number=st.integers(0, 99))
    def begin(self, number: int) -> None:
        known = self.pick(number, leased=True)
        if known is None:
            return
        assert known.lease is not None
        (known.lease,) = self.run(self.spool.begin([known.lease]))
        known.base, known.begun = known.message.attempts, True
        known.message = replace(known.message, attempts=known.message.attempts + 1)
        assert known.lease.message == known.message

    @rule(number=st.integers(0, 99), count=st.integers(0, 2))
    def progress(self, number: int, count: int) -> None:
        known = self.pick(number, leased=True)
        if known is None or known.lease is None:
            return
        known.message = delivered(known.message, count)
        known.base = known.message.attempts
        known.lease = self.run(self.spool.progress(known.lease, known.message))

    @rule(number=st.integers(0, 99), finished=st.booleans(), offset=OFFSETS, standing=st.sampled_from(Standing))
    def settle(self, number: int, finished: bool, offset: float, standing: Standing) -> None:
        known = self.pick(number, leased=True)
        if known is None:
            return
        if finished:
            known.message = delivered(known.message)
        due = self.now + offset
        self.run(self.spool.settle(known.lease, known.message, due=due, standing=standing))
        if known.message.pending:
            known.lease, known.begun, known.due, known.standing = None, False, due, standing
        else:
            del self.known[known.message.id]

    @rule(number=st.integers(0, 99), offset=st.none() | OFFSETS)
    def release(self, number: int, offset: float | None) -> None:
        known = self.pick(number, leased=True)
        if known is None:
            return
        due = known.due if offset is None else self.now + offset
        self.run(self.spool.release([known.lease], due=None if offset is None else due))
        if known.begun:
            known.message = replace(known.message, attempts=known.base)
        known.lease, known.begun, known.due = None, False, due

    @rule(
        action=st.sampled_from(["retry", "hold", "drop"]),
        bridge=st.sampled_from(["", "shop", "web"]),
        standing=st.none() | st.sampled_from(Standing),
    )
    def operate(self, action: str, bridge: str, standing: Standing | None) -> None:
        selection = Selection(bridge=bridge, standing=standing)
        chosen = [
            known
            for known in self.known.values()
            if not known.lease and bridge in ("", known.message.bridge) and standing in (None, known.standing)
        ]
        if action == "retry":
            assert self.run(self.spool.retry(selection, now=self.now)) == len(chosen)
            for known in chosen:
                known.due, known.standing = self.now, Standing.QUEUED
                known.message = replace(known.message, crashes=0)
        elif action == "hold":
            chosen = [known for known in chosen if known.standing is Standing.QUEUED]
            assert self.run(self.spool.hold(selection, reason="asked")) == len(chosen)
            for known in chosen:
                known.standing = Standing.HELD
        else:
            gone = self.run(self.spool.drop(selection))
            assert sorted(each.id for each in gone) == sorted(known.message.id for known in chosen)
            for known in chosen:
                del self.known[known.message.id]

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.durable)
    @rule()
    def restart(self) -> None:
        self.run(self.spool.close())
        self.spool = self.run(self.opened())
        open_ = self.run(self.spool.recover(self.now))
        assert {each.id for each in open_} == {known.message.id for known in self.known.values() if known.begun}
        for known in self.known.values():
            if known.begun:
                known.message = replace(known.message, crashes=known.message.crashes + 1)
                known.due = self.now
            known.lease, known.begun = None, False

    # What must hold after each step

    @invariant()
    def entries_agree(self) -> None:
        entries = self.run(self.spool.entries(Selection(), limit=1000))
        assert [entry.message for entry in entries] == [self.known[each].message for each in sorted(self.known)]
        for entry in entries:
            known = self.known[entry.message.id]
            assert (entry.standing, entry.due, entry.leased) == (known.standing, known.due, known.lease is not None)

    @invariant()
    def depths_agree(self) -> None:
        depths = {depth.key: depth for depth in self.run(self.spool.depths())}
        assert set(depths) == {known.key for known in self.known.values()}
        for key, depth in depths.items():
            mine = [known for known in self.known.values() if known.key == key]
            waiting = [known.due for known in mine if known.standing is Standing.QUEUED and not known.lease]
            standings = [known.standing for known in mine]
            assert depth.next_due == min(waiting, default=None)
            assert depth.queued == standings.count(Standing.QUEUED)
            assert depth.held == standings.count(Standing.HELD)
            assert depth.quarantined == standings.count(Standing.QUARANTINED)
            assert depth.size == sum(known.message.size for known in mine)
            oldest = min(known.message.received_at for known in mine)
            assert depth.oldest is not None
            assert oldest - 10 <= depth.oldest <= oldest

    @invariant()
    def contents_agree(self) -> None:
        for message_id in list(self.known)[:2]:
            assert self.run(self.spool.content(message_id)).body == message_id.encode()


class DurableSpoolMachine(SpoolMachine):
    durable = True


@pytest.mark.parametrize(
    ("machine", "examples"),
    [(SpoolMachine, 40), (DurableSpoolMachine, 25), (DurableSpoolMachine, 20)],
    ids=["memory", "sqlite", "redis"],
)
def test_any_history_agrees_with_the_model(
    machine: type[SpoolMachine], examples: int, request: pytest.FixtureRequest, fresh_url: Callable[[], str]
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    if request.node.callspec.id == "redis":
        machine = type("RedisSpoolMachine", (DurableSpoolMachine,), {"url": staticmethod(fresh_url)})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
