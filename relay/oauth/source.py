"""Access tokens of one node: kept while they are good, got anew in time, by one request whoever asks.

The rules
  - A token is renewed five minutes before its end; as long as it still has half a minute, a failed renewal is told and
    the old one goes on.
  - One renewal at a time in a process, and for refresh tokens over all processes: a server that rotates them would
    take a second use for theft and end the consent. Whoever waited for the turn first looks what the other one got.
  - A renewal runs to its end even if nobody waits for it any longer: a rotated token that nobody stored is lost.
  - A failed renewal changes nothing of what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from relay.oauth import judge, requests
from relay.oauth.assertion import UnusableKey, parse_key_file, sign
from relay.oauth.requests import Answer, Failed, Form, Granted, NoAnswer, Refused
from relay.oauth.store import Stored, TokenStore, TokenStoreFault
from relay.outcome import Outcome, Scope
from relay.upstreams.oauth_options import TokenPlan
from relay.upstreams.tokens import TokenFault

EARLY_S = 300.0
"""A token is renewed this long before its end, or at three quarters of a shorter life."""

LAST_S = 30.0
"""A token with less than this left is not used: the login has to reach the server before its end."""

QUIET_S = 5.0
"""After a failure nothing is asked for this long: twenty connections that open at once are one question."""

PATIENCE_S = 90.0
"""How long another process may take for its renewal."""

EXPIRY_TOLD_S = 3 * 86400.0
"""A consent that ends within this time is told."""

Ask = Callable[[Form], Awaitable[Answer]]
"""Posts a form; raises NoAnswer."""

Tell = Callable[[str, bool], None]
"""Takes what went wrong and what to do, and whether only an operator can mend it."""


@dataclass(frozen=True, slots=True)
class _Access:
    token: str = field(repr=False)
    expires_at: float
    renew_at: float


class NodeTokens:
    """Implements `relay.upstreams.tokens.TokenSource` for one node.

    Args:
        clock: epoch seconds.
    """

    def __init__(
        self, node: str, plan: TokenPlan, *, ask: Ask, store: TokenStore, clock: Callable[[], float], tell: Tell
    ) -> None:
        self.node = self._node = node
        self._plan = plan
        self._ask = ask
        self._store = store
        self._clock = clock
        self._tell = tell
        self._seed = seed_of(plan)
        self._access: _Access | None = None
        self._rejected = ""
        self._flight: asyncio.Task[_Access | Outcome] | None = None
        self._unsaved: tuple[Stored, int] | None = None
        self._fault: Outcome | None = None
        self._quiet_until = 0.0

    async def token(self) -> str:
        """See `TokenSource.token`."""
        now = self._clock()
        access = self._access
        if access is not None and now < access.renew_at:
            return access.token
        if self._fault is not None and now < self._quiet_until <= now + QUIET_S:
            return self._old_or_fault(self._fault)
        if self._flight is None:
            self._flight = asyncio.create_task(self._renew(), name=f"token-{self._node}")
        got = await asyncio.shield(self._flight)
        return self._old_or_fault(got) if isinstance(got, Outcome) else got.token

    async def invalidate(self, token: str) -> None:
        """See `TokenSource.invalidate`."""
        self._rejected = token
        if self._access is not None and self._access.token == token:
            self._access = None

    @property
    def is_busy(self) -> bool:
        """A renewal runs."""
        return self._flight is not None

    async def close(self) -> None:
        """Wait for a renewal that runs: its token must be stored."""
        if self._flight is not None:
            await asyncio.wait([self._flight])

    def _old_or_fault(self, fault: Outcome) -> str:
        access = self._access
        if access is not None and self._clock() < access.expires_at - LAST_S:
            return access.token
        raise TokenFault(fault)

    async def _renew(self) -> _Access | Outcome:
        try:
            got = await (self._by_consent() if self._plan.flow == "refresh-token" else self._by_own_right())
        except TokenStoreFault as fault:
            got = judge.no_store(self._node, str(fault))
        finally:
            self._flight = None
        if isinstance(got, Outcome):
            self._fault = got
            self._quiet_until = self._clock() + QUIET_S
            self._tell(got.text, got.scope is Scope.ACCOUNT)
        else:
            self._fault = None
            self._access = got
        return got

    # Flows

    async def _by_own_right(self) -> _Access | Outcome:
        if self._plan.flow == "client-credentials":
            form = requests.client_credentials(self._plan)
        else:
            try:
                form = requests.assertion(self._plan, await asyncio.to_thread(self._assertion))
            except (OSError, UnusableKey) as error:
                why = error.strerror if isinstance(error, OSError) else error
                refused = Refused(error="key_file", text=f"key file {self._plan.key_file}: {why}", status=0)
                return judge.outcome(refused, node=self._node, flow=self._plan.flow)
        verdict = await self._question(form)
        return self._accessible(verdict) if isinstance(verdict, Granted) else self._judged(verdict)

    def _assertion(self) -> str:
        plan = self._plan
        account = parse_key_file(Path(plan.key_file).read_bytes())
        return sign(account, audience=plan.token_url, scopes=plan.scopes, subject=plan.account, now=self._clock())

    async def _by_consent(self) -> _Access | Outcome:
        with contextlib.suppress(TokenStoreFault):
            await self._save_what_was_not()
        if (found := self._usable(await self._store.load(self._node))) is not None:
            return found
        async with self._store.turn(self._node, patience_s=PATIENCE_S):
            stored = await self._store.load(self._node)
            again = False
            while True:
                if (found := self._usable(stored)) is not None:
                    return found
                verdict = await self._refresh(stored)
                if not isinstance(verdict, Refused):
                    return self._judged(verdict) if isinstance(verdict, Failed) else verdict
                # Where the turn cannot keep others out (a disk that cannot lock), another process may have been first.
                newer = await self._store.load(self._node)
                if again or newer == stored:
                    return self._judged(verdict)
                stored, again = newer, True

    async def _refresh(self, stored: Stored | None) -> _Access | Outcome | Refused | Failed:
        latest = self._unsaved[0] if self._unsaved else stored
        ours = latest is not None and latest.seed == self._seed
        refresh_token = latest.refresh_token if latest and ours else self._plan.refresh_token
        if not refresh_token:
            return judge.no_login_yet(self._node)
        verdict = await self._question(requests.refresh(self._plan, refresh_token))
        return await self._keep(verdict, latest, refresh_token) if isinstance(verdict, Granted) else verdict

    async def _keep(self, granted: Granted, stored: Stored | None, refresh_token: str) -> _Access:
        now = self._clock()
        version = stored.version if stored else 0
        record = Stored(
            version=version + 1,
            seed=self._seed,
            refresh_token=granted.refresh_token or refresh_token,
            access_token=granted.access_token,
            expires_at=now + granted.life_s,
            obtained_at=now,
            refresh_expires_at=self._consent_ends(granted, stored, now),
            scope=granted.scope,
            account=self._plan.account,
        )
        self._unsaved = (record, self._unsaved[1] if self._unsaved else version)
        try:
            await self._save_what_was_not()
        except TokenStoreFault as fault:
            self._tell(f"the new token could not be stored and is kept in memory until it can: {fault}", False)
        return self._accessible(granted)

    async def _save_what_was_not(self) -> None:
        """What could not be stored when it was got. A record that changed meanwhile is another process's, and newer."""
        if self._unsaved is not None:
            record, seen = self._unsaved
            await self._store.save(self._node, record, seen=seen)
            self._unsaved = None

    def _consent_ends(self, granted: Granted, stored: Stored | None, now: float) -> float:
        ends = now + granted.refresh_life_s if granted.refresh_life_s else stored.refresh_expires_at if stored else 0.0
        if ends and ends - now < EXPIRY_TOLD_S:
            when = f"{datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC"
            self._tell(f"the consent ends at {when}: `relay oauth login {self._node}` renews it", False)
        return ends

    # Helpers

    async def _question(self, form: Form) -> Granted | Refused | Failed:
        try:
            return requests.read_token(await self._ask(form))
        except NoAnswer as error:
            return Failed(text=str(error))

    def _judged(self, verdict: Refused | Failed) -> Outcome:
        return judge.outcome(verdict, node=self._node, flow=self._plan.flow)

    def _accessible(self, granted: Granted) -> _Access:
        return _access(granted.access_token, self._clock() + granted.life_s, granted.life_s)

    def _usable(self, stored: Stored | None) -> _Access | None:
        """What another process got, if it is good for long enough."""
        if stored is None or stored.seed != self._seed or stored.access_token in ("", self._rejected):
            return None
        access = _access(stored.access_token, stored.expires_at, stored.expires_at - stored.obtained_at)
        # One that seems to live longer than it was given was stored before the clock was set back.
        return access if stored.obtained_at <= self._clock() + LAST_S and self._clock() < access.renew_at else None


def seed_of(plan: TokenPlan) -> str:
    """Marks the application, endpoint and configured refresh token that a chain of tokens began with: after any of
    them was changed, what is stored belongs to something else. No secret can be read from it."""
    text = "\0".join((plan.client_id, plan.token_url, plan.account, plan.refresh_token))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def logged_in(plan: TokenPlan, granted: Granted, before: Stored | None, *, now: float) -> Stored:
    """The record after an operator's login."""
    return Stored(
        version=(before.version if before else 0) + 1,
        seed=seed_of(plan),
        refresh_token=granted.refresh_token,
        access_token=granted.access_token,
        expires_at=now + granted.life_s,
        obtained_at=now,
        refresh_expires_at=now + granted.refresh_life_s if granted.refresh_life_s else 0.0,
        scope=granted.scope,
        account=plan.account,
    )


def _access(token: str, expires_at: float, life_s: float) -> _Access:
    return _Access(token, expires_at, expires_at - min(EARLY_S, life_s / 4))
