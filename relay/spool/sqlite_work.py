"""Working on messages: lease, begin, progress, settle, release. The contract is `relay.spool.Spool`."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from relay.envelope import Message
from relay.errors import SpoolError
from relay.spool import Lease, QueueKey, Standing
from relay.spool.sqlite_bodies import Damaged
from relay.spool.sqlite_core import Core, Held
from relay.spool.sqlite_rows import CODES, COLUMNS, decode, encode, read_row, row_sum
from relay.spool.sqlite_writes import Remove, Rewrite, Touch, Write

_QUEUED = CODES[Standing.QUEUED]


async def lease_due(core: Core, key: QueueKey, *, now: float, limit: int, skip: int) -> list[Lease]:
    number = core.tallies.numbers.get(key)
    if number is None or limit <= 0:
        return []
    tally = core.tallies.by_number[number]
    if tally.known and (tally.next_due is None or tally.next_due > now):
        return []
    leases: list[Lease] = []
    with core.watch() as changed:
        # Leased messages whose attempt is not begun still stand in the index.
        room = limit + sum(1 for held in core.by_key.values() if held.queue == number and not held.begun)
        for row, message in await core.read(partial(_due, number, now, room, skip)):
            if row[0] in core.by_key or row[0] in changed:
                continue
            if isinstance(message, Damaged):
                await core.quarantine(row, str(message))
                continue
            if len(leases) == limit:
                break
            leases.append(_take(core, row, message))
    return leases


async def lease(core: Core, message_id: str) -> Lease | None:
    with core.watch() as changed:
        row = await core.read(lambda connection: read_row(connection, message_id))
        if row is None or row[0] in core.by_key or row[0] in changed or row[3] != _QUEUED:
            return None
        message = _decoded(row)
        if isinstance(message, Damaged):
            await core.quarantine(row, str(message))
            return None
        return _take(core, row, message)


def _take(core: Core, row: tuple[Any, ...], message: Message) -> Lease:
    row_key, number, due, _, _, attempts, _, size, received, message_id, reason, _, _, file = row
    held = Held(
        key=row_key,
        id=message_id,
        queue=number,
        size=size,
        received=received,
        due=due,
        begun=False,
        attempts=attempts,
        base=attempts,
        file=bool(file),
        reason=reason,
    )
    core.tallies.by_number[number].taken(due)
    return core.hold(held, message)


async def begin(core: Core, leases: Sequence[Lease]) -> list[Lease]:
    helds = [await core.held(lease) for lease in leases]
    writes = [Touch(h.key, h.due, _QUEUED, 1, h.attempts + 1, h.reason) for h in helds]
    begun: list[Lease] = []

    def after(_: None) -> None:
        for held, lease in zip(helds, leases, strict=True):
            held.base, held.attempts, held.begun = held.attempts, held.attempts + 1, True
            begun.append(core.hold(held, replace(lease.message, attempts=held.attempts)))

    if writes:
        await core.write(writes, after, helds)
    return begun


async def progress(core: Core, lease: Lease, message: Message) -> Lease:
    held = await core.held(lease)
    write = _rewrite(held, message, due=held.due, standing=Standing.QUEUED, begun=held.begun, reason=held.reason)
    kept: list[Lease] = []

    def after(_: None) -> None:
        core.ledger.settled(held.leases[-1].message, message)
        # From here on the attempt has results: it was one, whatever follows.
        held.attempts = held.base = message.attempts
        kept.append(core.hold(held, message))

    await core.write([write], after, [held], size=len(write.data))
    return kept[0]


async def settle(core: Core, lease: Lease, message: Message, due: float, standing: Standing, reason: str) -> None:
    held = await core.held(lease)
    tally = core.tallies.by_number[held.queue]
    if not message.pending:

        def removed(_: None) -> None:
            core.ledger.settled(held.leases[-1].message, message)
            core.end(held)
            core.tallies.remove(held.queue, Standing.QUEUED, held.size, held.received)
            if held.file:
                core.remove_body(held.id)

        await core.write([Remove(held.key)], removed, [held], patient=True)
        return
    write = _rewrite(held, message, due=_sane(due), standing=standing, begun=False, reason=reason)

    def after(_: None) -> None:
        core.ledger.settled(held.leases[-1].message, message)
        core.end(held)
        tally.move(Standing.QUEUED, standing)
        if standing is Standing.QUEUED:
            tally.waits(due)

    await core.write([write], after, [held], size=len(write.data))


async def release(core: Core, leases: Sequence[Lease], due: float | None, reason: str) -> None:
    due = None if due is None else _sane(due)
    helds: list[Held] = []
    for lease in leases:
        with contextlib.suppress(SpoolError):  # LeaseLost: nothing is left to give back
            held = await core.held(lease)
            if held not in helds:
                helds.append(held)
    changed = [held for held in helds if held.begun or due is not None or reason]

    def after(_: None, done: Sequence[Held] = changed) -> None:
        for held in done:
            core.end(held)
            core.tallies.by_number[held.queue].waits(held.due if due is None else due)

    after(None, [held for held in helds if held not in changed])
    writes: list[Write] = [
        Touch(h.key, h.due if due is None else due, _QUEUED, 0, h.base if h.begun else h.attempts, reason or h.reason)
        for h in changed
    ]
    if writes:
        await core.write(writes, after, changed)


def _rewrite(held: Held, message: Message, *, due: float, standing: Standing, begun: bool, reason: str) -> Rewrite:
    data = encode(message)
    total = row_sum(held.id, data)
    return Rewrite(held.key, due, CODES[standing], int(begun), message.attempts, message.crashes, reason, total, data)


def _sane(due: float) -> float:
    if not math.isfinite(due):
        raise ValueError(f"{due} is no time to try again")
    return float(due)


def _due(
    number: int, now: float, limit: int, skip: int, connection: sqlite3.Connection
) -> list[tuple[Any, Message | Damaged]]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM message INDEXED BY waiting"  # noqa: S608 - our own column list
        " WHERE queue = ? AND standing = 0 AND begun = 0 AND due <= ? ORDER BY due, key LIMIT ? OFFSET ?",
        (number, now, limit, skip),
    )
    return [(row, _decoded(row)) for row in rows]


def _decoded(row: tuple[Any, ...]) -> Message | Damaged:
    try:
        return decode(row)
    except Damaged as error:
        return error
