"""The books of the spool balance whatever is done, and say what the files hold."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from relay.envelope import Content, Lane, Message, Recipient, RecipientStatus
from relay.ids import IdSource
from relay.spool import Selection, Standing
from relay.spool.ledger import Ledger
from relay.spool.sqlite import SqliteSpool

FINAL = [RecipientStatus.DELIVERED, RecipientStatus.FAILED, RecipientStatus.EXPIRED]


def balance(ledger: Ledger) -> int:
    done = ledger.delivered + ledger.failed + ledger.expired + ledger.dropped + ledger.withdrawn
    return ledger.found + ledger.accepted - done - ledger.pending


def message(ids: IdSource, recipients: int) -> Message:
    return Message(
        id=ids.next(),
        bridge="app",
        pool="main",
        lane=Lane.BULK,
        sender="a@acme.example",
        recipients=tuple(Recipient(address=f"r{n}@x.example") for n in range(recipients)),
        received_at=1_700_000_000.0,
        size=10,
    )


def settled(rng: random.Random, message: Message) -> Message:
    return replace(
        message,
        recipients=tuple(
            replace(r, status=rng.choice([*FINAL, r.status])) if r.status is RecipientStatus.PENDING else r
            for r in message.recipients
        ),
    )


async def pending(spool: SqliteSpool) -> int:
    return sum(len(e.message.pending) for e in await spool.entries(Selection(), limit=10_000))


def make(directory: Path, shard: str = "0") -> SqliteSpool:
    return SqliteSpool(directory, shard, min_free=0, ballast_bytes=0)


@pytest.mark.parametrize("seed", range(3))
async def test_every_change_is_booked_and_restarts_carry_over(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    ids = IdSource(lambda: 1_700_000_000.0)
    carried = 0
    for _ in range(3):
        spool = make(tmp_path)
        await spool.start()
        await spool.recover(1_700_000_000.0)
        assert (spool.ledger.found, spool.ledger.pending) == (carried, carried)
        for _ in range(40):
            lease = await spool.store(message(ids, rng.randint(1, 4)), Content(b"A: b\r\n", b"x\r\n"), lease=True)
            assert lease is not None
            match rng.randint(0, 6):
                case 0:
                    await spool.settle(lease, settled(rng, lease.message), due=1e9)
                case 1:
                    lease = await spool.progress(lease, settled(rng, lease.message))
                    await spool.settle(lease, settled(rng, lease.message), due=1e9, standing=Standing.HELD)
                case 2:
                    await spool.release([lease])
                case 3:
                    await spool.settle(lease, replace(lease.message, recipients=()), due=0.0)  # unmade
                case 4:
                    await spool.release([lease])
                    await spool.drop(Selection(ids=(lease.message.id,)))
                case 5:
                    await spool.release([lease])
                    await spool.hold(Selection(ids=(lease.message.id,)), reason="x")
                case _:
                    pass  # its lease stays open, as at a crash
            assert balance(spool.ledger) == 0
        assert await pending(spool) == spool.ledger.pending
        carried = spool.ledger.pending
        await spool.close()
    assert carried > 0


async def test_what_another_shard_leaves_is_found(tmp_path: Path) -> None:
    ids = IdSource(lambda: 1_700_000_000.0, shard="1")
    other, ours = make(tmp_path, "1"), make(tmp_path, "0")
    await other.start()
    for _ in range(3):
        await other.store(message(ids, 2), Content(b"A: b\r\n", b"x\r\n"), lease=False)
    await other.close()
    await ours.start()
    await ours.adopt("1", now=1_700_000_000.0)
    assert (ours.ledger.found, ours.ledger.pending, balance(ours.ledger)) == (6, 6, 0)
    await ours.close()
    await asyncio.sleep(0)
