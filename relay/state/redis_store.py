"""State on a Redis or Valkey server, shared by any number of replicas.

Every change is one script, on the server's clock, so there is one truth and it is dated in the order in which it came
about. The arithmetic of caps is that of `relay.pools.caps`, done there (`lua/caps.lua`).

What it guarantees beyond `relay.state.State`
- A call without an answer is not carried out twice: permits, refunds and counts carry a number of their owner, and the
  answer to the last permits of each owner is kept there. Permits whose answer never came are asked for again later and
  given back.
- A server that has lost everything (restarted empty, flushed, a copy that had nothing) is noticed by its `epoch`. Then
  every replica tells what it knows: how full each cap was when it last looked, at most a second ago, which nodes are
  out, and whose turn it is. For `grace_s` nothing is granted, so that all have told. What they tell of caps counts as
  taken now, which is later than it was: never more than a cap's limit goes out, a little less may.

Keys, behind `{relay:<name>}`: `cap:<candidate>`, `turns`, `health`, `version`, `claim:<name>`, `counts`, `epoch`,
`rebuilding`, and by owner `answer:`, `refunded:`, `counted:`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from relay.errors import StateUnavailable
from relay.pools.health import NodeHealth
from relay.redisdb.address import Address
from relay.redisdb.gather import Gather
from relay.redisdb.link import Link, LinkDown, LinkError, LinkRefused, Word
from relay.redisdb.script import Needs, load_script
from relay.state import Candidate, CountKey, Denied, Permit, PermitRequest, Usage
from relay.state.granting import check
from relay.state.health_record import dump_health, load_health
from relay.state.redis_wire import SERVER_CLOCK, Question, ask, doubles, read_answer, read_usage, shapes
from relay.state.sqlite_counts import CAMPAIGNS, SLACK

GRACE_S: Final = 1.5
"""Longer than the slowest replica takes to notice that the state was lost: a look at the version each 0.25 s, and one
timeout."""

LOOK_S: Final = 1.0
"""How often the fill of all caps is looked at, for the case that the state is lost."""

PATIENCE_S: Final = 1.0
"""How long a permit is waited for while the server is away; then mail is held."""

MOST: Final = 500
"""Requests in one script: some ten milliseconds of the server's time."""

CURSORS: Final = 5000
"""Cursors of campaigns that are kept, those used last: some campaigns have several."""

REMEMBERED: Final = 2000
"""Candidates and cursors whose last figures are kept here."""

_LUA = Path(__file__).parent / "lua"
RESERVE = load_script(_LUA, "reserve", common="caps")
REFUND = load_script(_LUA, "refund", common="caps")
USAGE = load_script(_LUA, "usage", common="caps", keep=False, needs=Needs.READS)
RESTORE = load_script(_LUA, "restore", common="caps")
HEALTH = load_script(_LUA, "health")
CLAIM = load_script(_LUA, "claim")
COUNT = load_script(_LUA, "count", keep=False)
TURNS = load_script(_LUA, "turns", keep=False)
PEEK = load_script(_LUA, "peek", keep=False, needs=Needs.READS)
SCRIPTS = (RESERVE, REFUND, USAGE, RESTORE, HEALTH, CLAIM, COUNT, TURNS, PEEK)


class RedisState:
    """One worker's door to the shared state. Make it with `open`.

    Args:
        server_clock: permits and claims are dated by the server. Otherwise callers' times count, as suits tests.
        grace_s: how long nothing is granted after the state was lost.
    """

    def __init__(self, link: Link, *, server_clock: bool = True, grace_s: float = GRACE_S) -> None:
        self._link = link
        self._server_clock = server_clock
        self._grace_s = grace_s
        self._owner = secrets.token_hex(8)
        self._number = 0
        self._epoch = ""
        self._learning = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._counting = asyncio.Lock()
        self._refunding = asyncio.Lock()
        self._reserve = Gather(self._ask, most=MOST)
        self._unanswered: tuple[str, Question] | None = None
        self._uncounted: tuple[str, list[Word]] | None = None
        self._fill: dict[Candidate, tuple[int, ...]] = {}
        self._turns: dict[str, int] = {}
        self._health: dict[bytes, bytes] = {}
        self._version = 0
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        server_clock: bool = True,
        grace_s: float = GRACE_S,
        on_change: Callable[[str], None] | None = None,
    ) -> RedisState:
        """Begin. The server may be away: then every method says so until it is back.

        Args:
            on_change: told when the server went away, with the reason, and when it is back, with an empty one.
        """
        link = Link(address, SCRIPTS, on_change=on_change)
        await link.start()
        state = cls(link, server_clock=server_clock, grace_s=grace_s)
        with contextlib.suppress(StateUnavailable):
            await state._learn()
        state._watcher = asyncio.create_task(state._watch(), name="caps watch")
        return state

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._reserve.close()
        with contextlib.suppress(StateUnavailable):
            await self._count_again()
        await self._link.close()

    @property
    def link(self) -> Link:
        return self._link

    def away_reason(self) -> str:
        """Why the shared state cannot be used now, or empty. No I/O: hot path."""
        return self._link.reason

    # Caps

    async def reserve(self, requests: Sequence[PermitRequest], *, now: float) -> list[Permit | Denied]:
        """See `State.reserve`. What was granted to a caller that is cancelled meanwhile stays counted."""
        check(requests)
        return await self._reserve((requests, now))

    async def refund(self, permits: Sequence[tuple[Permit, int]]) -> None:
        parts = [(permit, min(count, permit.granted)) for permit, count in permits if permit.windows]
        if not parts:
            return
        numbers: list[float] = []
        for permit, count in parts:
            numbers += (count, permit.granted, permit.at, len(permit.windows), *permit.windows)
        names = [permit.key for permit, _ in parts]
        async with self._refunding:  # the server remembers the last number alone
            await self._call(REFUND, self._owner, self._next(), doubles(numbers), *names, patience_s=PATIENCE_S)

    async def usage(self, candidates: Sequence[Candidate], *, now: float) -> Mapping[str, tuple[Usage, ...]]:
        if not candidates:
            return {}
        at = SERVER_CLOCK if self._server_clock else now
        names = [candidate.key for candidate in candidates]
        reply = await self._call(USAGE, doubles([at, *shapes(candidates)]), *names)
        fill = read_usage(candidates, reply, asked=now if self._server_clock else None)
        for candidate in candidates:
            self._remember(candidate, tuple(cap.used for cap in fill[candidate.key]))
        return fill

    async def _ask(self, calls: Sequence[tuple[Sequence[PermitRequest], float]]) -> Sequence[list[Permit | Denied]]:
        """Answer several callers in one script."""
        await self._give_back_unanswered()
        now = SERVER_CLOCK if self._server_clock else max(now for _, now in calls)
        question = ask([request for requests, _ in calls for request in requests], now)
        number = self._next()
        try:
            given = await self._granted(question, number)
        except LinkDown as error:
            if error.unsure:
                self._unanswered = (number, question)
            raise StateUnavailable(str(error)) from error
        except LinkError as error:
            raise StateUnavailable(str(error)) from error
        answers = []
        for requests, _ in calls:
            answers.append(given[: len(requests)])
            given = given[len(requests) :]
        return answers

    async def _granted(self, question: Question, number: str, *, repeated: bool = False) -> list[Permit | Denied]:
        """Raises LinkError."""
        for _ in range(3):
            if not self._epoch:
                await self._learn()
            try:
                reply = await self._link.call(
                    RESERVE,
                    self._owner,
                    number,
                    self._epoch,
                    question.numbers,
                    *question.names,
                    patience_s=PATIENCE_S,
                    repeated=repeated,
                )
            except LinkRefused as error:
                if "STALEEPOCH" not in str(error):
                    raise
                await self._learn()
                continue
            answer = read_answer(question, reply)
            for candidate, used in answer.used:
                self._remember(candidate, used)
            return answer.given
        raise LinkDown("the shared state changes its identity again and again")

    async def _give_back_unanswered(self) -> None:
        """Permits of a call that was given up: whatever it was granted is not used."""
        if self._unanswered is None:
            return
        number, question = self._unanswered
        try:
            given = await self._granted(question, number, repeated=True)
        except LinkError as error:
            raise StateUnavailable(str(error)) from error
        self._unanswered = None
        unused = [(permit, permit.granted) for permit in given if isinstance(permit, Permit)]
        for permit, _ in tuple(unused):
            if permit.advance is not None:
                ahead = permit.advance
                unused.append((replace(permit, granted=ahead.granted, at=ahead.at), ahead.granted))
        await self.refund(unused)

    # Rotation

    async def turns(self, cursor: str, count: int) -> int:
        first = int(await self._call(TURNS, cursor, count, CURSORS, int("/campaign:" in cursor)))
        if len(self._turns) < REMEMBERED or cursor in self._turns:
            self._turns[cursor] = first + count
        return first

    # Health

    async def health(self) -> Mapping[str, NodeHealth]:
        records = _pairs(await self._command("HGETALL", self._link.key("health")))
        self._health = records
        return {node.decode(): load_health(record) for node, record in records.items()}

    async def update_health(self, node: str, change: Callable[[NodeHealth], NodeHealth]) -> NodeHealth:
        async with self._changing:  # of our own changes none has to be done over
            known = await self._command("HGET", self._link.key("health"), node) or b""
            while True:
                before = load_health(known) if known else NodeHealth()
                after = change(before)
                if after == before:
                    return after
                record = dump_health(after)
                reply = await self._call(HEALTH, node, known, record, patience_s=PATIENCE_S)
                if not reply:
                    self._health[node.encode()] = record
                    return after
                known = b"" if reply == b"null" else reply

    async def health_version(self) -> int:
        epoch, version = await self._call(PEEK)
        if (epoch or b"").decode() != self._epoch:
            await self._learn()
            _, version = await self._call(PEEK)
        self._version = int(version or 0)
        return self._version

    # Claims and counts

    async def claim(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        at = SERVER_CLOCK if self._server_clock else now
        return bool(await self._call(CLAIM, name, owner, repr(ttl_s), repr(at)))

    async def unclaim(self, name: str, *, owner: str) -> None:
        await self._call(CLAIM, name, owner, 0, repr(SERVER_CLOCK))

    async def count(self, deltas: Mapping[CountKey, int]) -> None:
        """See `State.count`. When it cannot be known whether they were counted, they are kept here until it is."""
        if not deltas:
            return
        async with self._counting:
            await self._count_again()
            words: list[Word] = []
            for key, delta in deltas.items():
                words += (_name(key), _name(replace(key, campaign="")), delta)
                words.append(orjson.dumps((key.pool, key.campaign)) if key.campaign else "")
            words = [CAMPAIGNS, SLACK, *words]
            number = self._next()
            try:
                await self._link.call(COUNT, self._owner, number, *words)
            except LinkError as error:
                if not error.unsure:
                    raise StateUnavailable(str(error)) from error
                self._uncounted = (number, words)

    async def _count_again(self) -> None:
        if self._uncounted is None:
            return
        number, words = self._uncounted
        try:
            await self._link.call(COUNT, self._owner, number, *words, repeated=True)
        except LinkError as error:
            raise StateUnavailable(str(error)) from error
        self._uncounted = None

    async def counts(self, *, pool: str = "") -> Mapping[CountKey, int]:
        found = {}
        for name, count in _pairs(await self._command("HGETALL", self._link.key("counts"))).items():
            key = CountKey(*orjson.loads(name))
            if not pool or key.pool == pool:
                found[key] = int(count)
        return found

    # A state that was lost

    async def _watch(self) -> None:
        """Keep what is known of the caps fresh."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._fill and not self._link.reason and self._server_clock:
                with contextlib.suppress(StateUnavailable):
                    await self.usage(list(self._fill), now=0.0)

    async def _learn(self) -> None:
        """Find out which state this is; tell one that is new what was known of the one before.

        Raises:
            StateUnavailable.
        """
        async with self._learning:
            known = self._epoch
            candidates = list(self._fill)
            now = SERVER_CLOCK if self._server_clock else 0.0
            used = [count for counts in self._fill.values() for count in counts]
            turns: list[Word] = [word for pair in self._turns.items() for word in pair]
            health: list[Word] = [word for pair in self._health.items() for word in pair]
            epoch = await self._call(
                RESTORE,
                known,
                secrets.token_hex(8),
                int(self._grace_s * 1000),
                self._version,
                doubles([now, *shapes(candidates), *used]),
                len(candidates),
                *(candidate.key for candidate in candidates),
                len(self._turns),
                *turns,
                *health,
                patience_s=PATIENCE_S,
            )
            self._epoch = epoch.decode()

    def _remember(self, candidate: Candidate, used: tuple[int, ...]) -> None:
        if candidate.caps and (candidate in self._fill or len(self._fill) < REMEMBERED):
            self._fill[candidate] = used

    # The link

    def _next(self) -> str:
        self._number += 1
        return str(self._number)

    async def _call(self, script: Any, *args: Word, patience_s: float = 0.0) -> Any:
        try:
            return await self._link.call(script, *args, patience_s=patience_s)
        except LinkError as error:
            raise StateUnavailable(str(error)) from error

    async def _command(self, *words: Word) -> Any:
        try:
            return await self._link.command(*words)
        except LinkError as error:
            raise StateUnavailable(str(error)) from error


def _name(key: CountKey) -> bytes:
    return orjson.dumps((key.pool, key.campaign, key.node, key.what))


def _pairs(reply: Mapping[bytes, bytes] | Iterable[bytes]) -> dict[bytes, bytes]:
    """A hash, as RESP3 (a map) or RESP2 (a row) tells it."""
    if isinstance(reply, Mapping):
        return dict(reply)
    words = list(reply)
    return dict(zip(words[::2], words[1::2], strict=True))
