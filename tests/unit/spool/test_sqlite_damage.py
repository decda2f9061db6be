"""Every file read back is input: what does not fit is set aside with a reason, and all else goes on (B370-B375)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.envelope import Content, Message
from relay.errors import SpoolError, SpoolUnhealthy
from relay.spool import LeaseLost, Selection, Standing
from relay.spool.sqlite import SqliteSpool
from tests.contract.spool_fixtures import CONTENT, HEAD, KEY, NOW, delivered, folder_of, message, sqlite_options

LARGE = Content(HEAD, b"large body\r\n" * 20_000)


class Place:
    """A spool folder that can be opened, closed and tampered with in between."""

    def __init__(self, base: Path) -> None:
        self.folder = folder_of(base)
        self.spool: SqliteSpool | None = None
        self.told: list[tuple[str, str]] = []

    async def open(self) -> SqliteSpool:
        self.spool = SqliteSpool(
            self.folder, on_quarantine=lambda message_id, why: self.told.append((message_id, why)), **sqlite_options()
        )
        await self.spool.start()
        await self.spool.recover(NOW)
        return self.spool

    async def close(self) -> None:
        if self.spool is not None:
            await self.spool.close()
            self.spool = None

    async def tampered(self, statement: str, *values: Any) -> SqliteSpool:
        await self.close()
        connection = sqlite3.connect(self.folder / "spool-0.db", isolation_level=None)
        assert connection.execute(statement, values).rowcount > 0
        connection.close()
        return await self.open()

    def body(self, made: Message) -> Path:
        return self.folder / "bodies-0" / made.id[-2:] / made.id


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    await place.close()


async def two(spool: SqliteSpool, content: Content = CONTENT) -> tuple[Message, Message]:
    """One to damage, and a bystander after it."""
    made = message(), message()
    for each in made:
        await spool.store(each, content, lease=False)
    return made


async def assert_set_aside(place: Place, spool: SqliteSpool, bystander: Message, words: str) -> None:
    """The victim is quarantined with a reason, told once, not leased; the bystander is delivered."""
    (lease,) = await spool.lease_due(KEY, now=NOW, limit=10)
    assert lease.message == bystander
    (entry,) = await spool.entries(Selection(standing=Standing.QUARANTINED), limit=10)
    assert entry.standing is Standing.QUARANTINED
    assert words in entry.reason
    assert [words in why for _, why in place.told] == [True]
    assert sum(depth.quarantined for depth in await spool.depths()) == 1
    await spool.settle(lease, delivered(lease.message), due=NOW)
    assert await spool.lease_due(KEY, now=NOW, limit=10) == []
    dropped = await spool.drop(Selection(ids=(entry.message.id,)))
    assert len(dropped) == 1, "an operator can remove it by the id that is shown"
    assert await spool.depths() == []


BROKEN_ROWS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "truncated": ("data", lambda data: data[:-7]),
    "empty": ("data", lambda data: b""),
    "zeroes": ("data", lambda data: bytes(len(data))),
    "one bit": ("data", lambda data: data[:40] + bytes([data[40] ^ 4]) + data[41:]),
    "junk appended": ("data", lambda data: data + b"junk"),
    "text instead of octets": ("data", lambda data: data.decode()),
    "checksum": ("sum", lambda data: 1),
    "checksum is text": ("sum", lambda data: "x"),
    "negative attempts": ("attempts", lambda data: -1),
    "a billion attempts": ("attempts", lambda data: 10**9),
    "crashes is text": ("crashes", lambda data: "many"),
    "id of another": ("id", lambda data: message().id),
    "id is no id": ("id", lambda data: "../../etc/passwd\n"),
}


@pytest.mark.parametrize("how", BROKEN_ROWS)
async def test_a_broken_row_is_set_aside(place: Place, how: str) -> None:
    column, change = BROKEN_ROWS[how]
    victim, bystander = await two(await place.open())
    await place.close()
    connection = sqlite3.connect(place.folder / "spool-0.db")
    (data,) = connection.execute("SELECT data FROM message WHERE id = ?", (victim.id,)).fetchone()
    connection.close()
    spool = await place.tampered(f"UPDATE message SET {column} = ? WHERE id = ?", change(data), victim.id)
    await assert_set_aside(place, spool, bystander, "")


async def test_every_bit_of_a_row_counts(place: Place) -> None:
    victim, _ = await two(await place.open())
    await place.close()
    from relay.spool.sqlite_bodies import Damaged
    from relay.spool.sqlite_rows import COLUMNS, decode

    connection = sqlite3.connect(place.folder / "spool-0.db")
    row = connection.execute(f"SELECT {COLUMNS} FROM message WHERE id = ?", (victim.id,)).fetchone()
    connection.close()
    assert decode(row) == victim
    data = row[12]
    for position in range(len(data)):
        for changed in (
            data[:position],
            data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :],
        ):
            with pytest.raises(Damaged):
                decode((*row[:12], changed, row[13]))


async def test_an_unknown_standing_or_queue_is_set_aside_at_recovery(place: Place) -> None:
    for column, value, words in (("standing", 9, "unknown standing"), ("queue", 77, "unknown queue")):
        place.told.clear()
        spool = await place.open()
        victim, bystander = await two(spool)
        spool = await place.tampered(f"UPDATE message SET {column} = ? WHERE id = ?", value, victim.id)
        await assert_set_aside(place, spool, bystander, words)
        await place.close()


@pytest.mark.parametrize("due", [-1e12, 0.5 - NOW, 253402300800.0, 9e99, "soon"])
async def test_a_due_time_no_clock_meant_becomes_now(place: Place, due: object) -> None:
    victim, _ = await two(await place.open())
    spool = await place.tampered("UPDATE message SET due = ? WHERE id = ?", due, victim.id)
    leases = await spool.lease_due(KEY, now=NOW, limit=10)
    assert victim in [lease.message for lease in leases]
    assert place.told == []


async def test_a_broken_row_that_was_being_tried_is_set_aside_at_recovery(place: Place) -> None:
    spool = await place.open()
    lease = await spool.store(message(), CONTENT, lease=True)
    assert lease is not None
    spool = await place.tampered("UPDATE message SET data = x'00'")
    assert [why for _, why in place.told] == ["the row was changed on disk"]
    entry = await spool.find(lease.message.id)
    assert entry is not None
    assert (entry.standing, entry.message.pool) == (Standing.QUARANTINED, "acme-pool")


BROKEN_CONTENTS = {
    "body": "UPDATE content SET body = x'00'",
    "body longer": "UPDATE content SET body = body || x'00'",
    "head": "UPDATE content SET head = x'41'",
    "head is text": "UPDATE content SET head = 'text'",
    "body gone": "UPDATE content SET body = NULL",
    "row gone": "DELETE FROM content",
    "checksum": "UPDATE content SET sum = 0",
}


@pytest.mark.parametrize("how", BROKEN_CONTENTS)
async def test_a_broken_content_is_never_delivered(place: Place, how: str) -> None:
    spool = await place.open()
    made = message()
    await spool.store(made, CONTENT, lease=False)
    spool = await place.tampered(BROKEN_CONTENTS[how])
    await assert_content_set_aside(place, spool, made)


async def assert_content_set_aside(place: Place, spool: SqliteSpool, made: Message) -> None:
    (lease,) = await spool.begin(await spool.lease_due(KEY, now=NOW, limit=1))
    with pytest.raises(SpoolError, match="damaged"):
        await spool.content(made.id)
    assert [message_id for message_id, _ in place.told] == [made.id]
    with pytest.raises(LeaseLost):
        await spool.settle(lease, delivered(lease.message), due=NOW)
    entry = await spool.find(made.id)
    assert entry is not None
    assert (entry.standing, entry.leased) == (Standing.QUARANTINED, False)
    assert entry.message.recipients == made.recipients
    (depth,) = await spool.depths()
    assert (depth.queued, depth.quarantined) == (0, 1)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


BROKEN_BODIES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, 100_000),
    "one octet short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one bit": _flip,
    "junk appended": lambda path: path.write_bytes(path.read_bytes() + b"junk"),
    "zeroes": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "symlink": lambda path: _replace(path, lambda path: path.symlink_to("/etc/passwd")),
    "folder": lambda path: _replace(path, lambda path: path.mkdir()),
    "pipe": lambda path: _replace(path, os.mkfifo),
}


@pytest.mark.parametrize("how", BROKEN_BODIES)
async def test_a_broken_body_file_is_never_delivered(place: Place, how: str) -> None:
    spool = await place.open()
    made = message()
    await spool.store(made, LARGE, lease=False)
    BROKEN_BODIES[how](place.body(made))
    await assert_content_set_aside(place, spool, made)


async def test_swapped_body_files_are_noticed(place: Place) -> None:
    spool = await place.open()
    first, second = await two(spool, LARGE)
    place.body(first).write_bytes(LARGE.body)  # type: ignore[arg-type]
    await spool.content(first.id)
    assert spool._core.bodies.path(first.id) == place.body(first)
    swap = place.folder / "swap"
    place.body(first).rename(swap)
    place.body(second).rename(place.body(first))
    swap.rename(place.body(second))
    await spool.content(first.id)  # equal octets: nobody could tell, and it does not matter
    other = Content(HEAD, b"other body\r\n" * 20_000)
    third = message()
    await spool.store(third, other, lease=False)
    place.body(third).replace(place.body(first))
    with pytest.raises(SpoolError, match="changed on disk"):
        await spool.content(first.id)


async def test_retrying_a_mended_message_delivers_it(place: Place) -> None:
    spool = await place.open()
    made = message()
    await spool.store(made, LARGE, lease=False)
    octets = place.body(made).read_bytes()
    place.body(made).write_bytes(b"")
    with pytest.raises(SpoolError):
        await spool.content(made.id)
    place.body(made).write_bytes(octets)
    assert await spool.retry(Selection(ids=(made.id,)), now=NOW) == 1
    (lease,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert (await spool.content(lease.message.id)).size == LARGE.size


async def test_damaged_pages_are_said_plainly_and_nothing_is_deleted(place: Place) -> None:
    spool = await place.open()
    for _ in range(60):
        await spool.store(message(), CONTENT, lease=False)
    await place.close()
    path = place.folder / "spool-0.db"
    octets = path.read_bytes()
    path.write_bytes(octets[: 4096 * 2] + b"\xff" * (len(octets) - 4096 * 2))
    with pytest.raises(SpoolUnhealthy, match=r"spool-0\.db"):
        await place.open()
    assert path.stat().st_size == len(octets)
    path.write_bytes(octets)
    spool = await place.open()
    assert len(await spool.entries(Selection(), limit=100)) == 60
