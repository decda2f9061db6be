"""Taking a new message: body to a file if it is large, then one row in the next group."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

from relay.envelope import BodyFile, Content, Message
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy
from relay.group_commit import StoreBusy, StoreFailed, StoreFull, Ticket
from relay.ids import is_id
from relay.spool import Lease, QueueKey, Standing
from relay.spool.sqlite_bodies import checksum
from relay.spool.sqlite_core import Core, Held, translated
from relay.spool.sqlite_rows import CODES, encode, row_sum
from relay.spool.sqlite_work import release
from relay.spool.sqlite_writes import Insert
from relay.values import evolve

BODY_FILE_BYTES = 128 * 1024
"""Bodies above this are files: from here on a file of its own costs less than chains of overflow pages and a log
that holds every byte once more."""


async def store(core: Core, message: Message, content: Content, lease: bool) -> Lease | None:
    """See `relay.spool.Spool.store`."""
    if not is_id(message.id):
        raise SpoolError(f"{message.id!r} is not an id this spool can keep")
    if core.group.failure:
        raise SpoolUnhealthy(core.group.failure)
    # A report takes the place of a message that leaves once it is stored: were the bounds for it too, a queue full of
    # undeliverable mail could never empty itself. Clients hear of a full queue at MAIL, whatever their reverse-path.
    messages, octets = (core.tallies.messages, core.tallies.size) if message.sender else (0, 0)
    core.room.check(messages, octets, message.size)
    made: list[Lease] = []

    def give_back() -> None:
        if made:  # the write went on, and nobody took the lease
            core.spawn(release(core, made, None, ""))

    try:
        if isinstance(content.body, BodyFile) or len(content.body) > BODY_FILE_BYTES:
            await _apart(_with_file(core, message, content, lease, made), give_back)
        else:
            total = checksum(message.id, content.head, (content.body,))
            ticket = _insert(core, message, content, total, lease, made)
            try:
                await ticket.future
            except asyncio.CancelledError:
                ticket.when_finished(give_back)
                raise
    except StoreFull as error:
        core.room.look_again()
        raise translated(error) from error
    except (StoreBusy, StoreFailed) as error:
        raise translated(error) from error
    return made[0] if lease else None


async def _apart(work: Coroutine[Any, Any, None], give_back: Callable[[], None]) -> None:
    """Let `work` go on when we are cancelled, and give its lease back then."""
    task = asyncio.ensure_future(work)

    def abandoned(done: asyncio.Future[None]) -> None:
        if not done.cancelled():
            done.exception()  # nobody is left to hear it; asked for, so that asyncio does not complain
        give_back()

    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(abandoned)
        raise


async def _with_file(core: Core, message: Message, content: Content, lease: bool, made: list[Lease]) -> None:
    try:
        total = await core.in_files(core.bodies.keep, message.id, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            core.room.look_again()
            raise SpoolFull(f"no room for the body: {error.strerror}") from error
        raise SpoolError(f"the body cannot be kept: {error.strerror or error}") from error
    kept = Content(content.head, BodyFile(core.bodies.path(message.id), _body_size(content)))
    try:
        await _insert(core, message, kept, total, lease, made).future
    except (SpoolError, StoreFull, StoreBusy):
        await core.in_files(core.bodies.remove, message.id)
        raise
    # After StoreFailed the row may be there or not; its file stays until the next start has looked.


def _insert(core: Core, message: Message, content: Content, total: int, lease: bool, made: list[Lease]) -> Ticket:
    tallies = core.tallies
    if lease:
        message = evolve(message, attempts=1)  # the only copy on the way of most messages
    key = QueueKey(message.pool, message.lane, message.bridge)
    number = tallies.number(key)
    data = encode(message)
    body = None if isinstance(content.body, BodyFile) else content.body
    insert = Insert(
        id=message.id,
        queue=number,
        new_queue=None if number in tallies.saved else key,
        row=(
            number,
            message.received_at,
            CODES[Standing.QUEUED],
            int(lease),
            message.attempts,
            message.crashes,
            message.size,
            message.received_at,
            message.id,
            "",
            row_sum(message.id, data),
            data,
            int(body is None),
        ),
        content=(total, _body_size(content), content.head, body),
    )

    def after(row_key: int) -> None:
        tallies.saved.add(number)
        tallies.add(number, Standing.QUEUED, message.size, message.received_at)
        core.ledger.stored(message.recipients)
        if not lease:
            tallies.by_number[number].waits(message.received_at)
            return
        held = Held(
            key=row_key,
            id=message.id,
            queue=number,
            size=message.size,
            received=message.received_at,
            due=message.received_at,
            begun=True,
            attempts=1,
            base=0,
            file=body is None,
        )
        core.remember(message.id, content)
        made.append(core.hold(held, message))

    return core.join([insert], size=len(data) + len(content.head) + len(body or b""), after=after)


def _body_size(content: Content) -> int:
    return len(content.body) if isinstance(content.body, bytes) else content.body.size
