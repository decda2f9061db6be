"""The HTTP driver: one vendor node's client, and what a hand-over to it came to.

The vendor's file says what to ask and what answers mean (`api.Api`); here the call is made, once. What an interrupted
call came to:

- no connection, no TLS, no proxy: DEFERRED/NODE, and no attempt was made;
- the connection broke before the last block of the request was given to it: DEFERRED/NODE, because a request shorter
  than its Content-Length is none;
- no answer, or half of one, after that: UNCERTAIN (RFC 1047), unless the status says that nothing was taken.

Only one kind of call is made a second time: the one whose credentials were refused while fresh ones can be had; a
refused call is nobody's. Redirects are never followed, so that no key goes where nobody meant it to go.

Secrets of the options never leave this file in words: they are replaced in whatever a vendor answers.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from relay import __version__
from relay.envelope import Content
from relay.errors import UpstreamError
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.pools.pool import Cap
from relay.upstreams.api import Answer, Api, Call, CannotCarry, Letter, Piece
from relay.upstreams.api_options import ApiOptions
from relay.upstreams.base import Capabilities, Outbound, Probe, Setting
from relay.upstreams.http_auth import NoCredentials, make_auth
from relay.upstreams.http_body import length, on_disk, pieces
from relay.upstreams.mime_parts import take_apart
from relay.upstreams.parts import address as address_parts
from relay.upstreams.readdress import readdress, says_envelope
from relay.upstreams.replies import clean

ANSWER_BYTES = 1024 * 1024
"""Octets read of an answer; no vendor's is a hundredth of it."""

PROBE_S = 60.0
"""A test of the credentials ends after this at the latest."""

LARGE_BYTES = 256 * 1024
"""From here on a message is taken apart in a thread."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

ALIKE = 10
"""Refusals in the same words for different messages, without a delivery between them, that are no longer about the
messages: the account or the node's settings are wrong."""


class HttpUpstream:
    """Driver of one node of a vendor. Implements `relay.upstreams.base.Upstream`."""

    def __init__(self, name: str, options: ApiOptions, setting: Setting, api: Api[Any]) -> None:
        self.name = name
        self.tells_quota = api.quota is not None
        self._options = options
        self._api = api
        self._clock = setting.clock
        self._room = setting.room
        self._tap = setting.tap
        try:
            self._auth = make_auth(api.auth, options, lambda: setting.tokens(name) if setting.tokens else None)
            self._client = _client(options)
        except UpstreamError as error:
            raise UpstreamError(f"node {name}: {error}") from error
        self._secrets = tuple(sorted(_secrets(options), key=len, reverse=True))
        self._spoken: tuple[str, ...] = ()  # of the last call: a token, a signature
        self._running = 0
        self._closing = False
        self._resumes_at = 0.0  # loop time
        self._alike: tuple[str, deque[str]] = ("", deque(maxlen=ALIKE))
        self._capabilities = Capabilities(
            eight_bit=not api.seven_bit, smtputf8=options.carries.smtputf8, max_size=options.carries.max_size
        )

    async def deliver(self, outbound: Outbound, *, deadline: float) -> list[RecipientOutcome]:
        """As the contract says."""
        if not outbound.recipients:
            return []
        wait_s = self._resumes_at - asyncio.get_running_loop().time()
        if wait_s > 0:
            text = "the vendor's own limit is used up, by its last answer"
            return _all(outbound, _unsent(Status.DEFERRED, Scope.QUOTA, text, retry_after_s=wait_s))
        self._running += 1
        try:
            return await self._deliver(outbound, deadline)
        finally:
            self._running -= 1
            if self._closing and not self._running:
                await self._client.aclose()

    async def _deliver(self, outbound: Outbound, deadline: float) -> list[RecipientOutcome]:
        try:
            content = await outbound.render(self._capabilities)
            letter = await self._letter(outbound, content)
            if content.size <= LARGE_BYTES:
                call, sent = self._built(letter)
            else:
                async with self._room:
                    call, sent = await asyncio.to_thread(self._built, letter)
        except CannotCarry as refusal:
            code = 552 if refusal.enhanced == "5.3.4" else 554
            return _all(outbound, _unsent(Status.REFUSED, Scope.MESSAGE, str(refusal), code, refusal.enhanced))
        except OSError as error:
            return _all(outbound, _unreadable(error))
        answer = await self._ask(call, deadline, sent)
        if isinstance(answer, Outcome):
            return _in_order(outbound, letter, [RecipientOutcome(a, answer) for a in letter.recipients])
        self._note_gauges(answer)
        found = [RecipientOutcome(o.address, self._masked(o.outcome)) for o in self._api.parse(answer, letter)]
        return _in_order(outbound, letter, self._doubted(letter, found))

    async def probe(self) -> Probe:
        """The vendor's harmless check of the credentials."""
        loop = asyncio.get_running_loop()
        call = self._api.probe(self._options)
        steps = [f"{call.method} {_shown(self._url(call))}"]
        answer = await self._ask(call, loop.time() + PROBE_S)
        outcome = answer if isinstance(answer, Outcome) else self._masked(self._api.parse_probe(answer))
        if outcome.status is Status.UNCERTAIN:  # nothing was handed over
            outcome = replace(outcome, status=Status.DEFERRED, scope=Scope.NODE)
        steps.append(f"{outcome.code or 'failed:'} {outcome.text}".rstrip())
        return Probe(outcome=replace(outcome, attempted=False), steps=tuple(steps))

    async def quota(self) -> tuple[Cap, ...] | None:
        """What the account may send, as the vendor says it; None when it does not, or cannot be asked."""
        if self._api.quota is None or self._api.parse_quota is None:
            return None
        answer = await self._ask(self._api.quota(self._options), asyncio.get_running_loop().time() + PROBE_S)
        return None if isinstance(answer, Outcome) else self._api.parse_quota(answer)

    async def close(self) -> None:
        """End idle connections; the last running delivery ends its own."""
        self._closing = True
        if not self._running:
            await self._client.aclose()

    async def _letter(self, outbound: Outbound, content: Content) -> Letter:
        recipients = tuple(recipient.address for recipient in outbound.recipients)
        if any(_CONTROL.search(address) for address in (outbound.sender, *recipients)):
            raise CannotCarry("an address with control characters", enhanced="5.1.3")
        drop = getattr(self._options, "other_recipients", "drop") == "drop"
        if self._api.headers_decide:
            shown = readdress(content, recipients, drop=drop)
            return Letter(
                id=outbound.id, sender=outbound.sender, recipients=recipients, content=shown.content, notes=shown.notes
            )
        if not self._api.takes_apart or (self._api.raw_as_shown and says_envelope(content, recipients)):
            return Letter(id=outbound.id, sender=outbound.sender, recipients=recipients, content=content)
        if content.size <= LARGE_BYTES:
            parts = take_apart(content, outbound.sender)
        else:
            async with self._room:
                parts = await asyncio.to_thread(take_apart, content, outbound.sender)
        if parts.calendar is not None and not self._api.calendar:
            raise CannotCarry("an invitation (text/calendar) has no place in what this vendor builds")
        addressed = address_parts(parts, recipients)
        if addressed.dropped and not drop:
            raise CannotCarry("To and Cc name others than the envelope, and `other_recipients` is `refuse`")
        left = frozenset(addressed.left)
        return Letter(
            id=outbound.id,
            sender=outbound.sender,
            recipients=tuple(address for address in recipients if address not in left),
            content=content,
            parts=replace(parts, to=addressed.to, cc=addressed.cc, bcc=addressed.bcc),
            left=addressed.left,
            notes=(f"{addressed.dropped} other recipients are not shown",) if addressed.dropped else (),
        )

    def _built(self, letter: Letter) -> tuple[Call, _Sent]:
        """The call and its body, which is known to fit. May read a body file: blocking."""
        most, size = self._options.carries.max_size, letter.content.size
        if most and letter.parts is None and size > most:
            raise CannotCarry(f"{size} octets are more than the {most} that fit", enhanced="5.3.4")
        call = self._api.build(self._options, letter)
        sent = _Sent(call.body)
        if most and letter.parts is not None and sent.length > most:
            text = f"a request of {sent.length} octets is more than the {most} that fit"
            raise CannotCarry(text, enhanced="5.3.4")
        return call, sent

    async def _ask(self, call: Call, deadline: float, sent: _Sent | None = None) -> Answer | Outcome:
        """Make the call; once more with fresh credentials where the old ones were refused."""
        url = self._url(call)
        for last in (False, True):
            added = await self._credentials(call, url, deadline)
            if isinstance(added, Outcome):
                return added
            self._spoken = tuple(value.removeprefix("Bearer ") for name, value in added if name == "Authorization")
            answer = await self._call(call, url, added, deadline, sent or _Sent(call.body))
            if last or isinstance(answer, Outcome) or answer.status not in (400, 401, 403):
                return answer
            if not await self._auth.refused(answer, added):
                return answer
            sent = None
        raise AssertionError("the second turn returns")

    async def _credentials(self, call: Call, url: str, deadline: float) -> list[tuple[str, str]] | Outcome:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._auth.headers(call, url)
        except NoCredentials as lack:
            return replace(lack.outcome, text=self._mask(clean(lack.outcome.text)), attempted=False)
        except TimeoutError:
            return _unsent(Status.DEFERRED, Scope.NODE, "no credentials in time", phase="auth")
        except OSError as error:  # the body file, which a signature covers
            return _unreadable(error)

    async def _call(
        self, call: Call, url: str, added: list[tuple[str, str]], deadline: float, sent: _Sent
    ) -> Answer | Outcome:
        begun = False
        try:
            async with asyncio.timeout_at(deadline):
                headers = [*call.headers, *added]
                if call.body or call.method != "GET":
                    headers.append(("Content-Length", str(sent.length)))
                request = self._client.build_request(
                    call.method, url, headers=headers, content=sent if call.body else None
                )
                begun = True
                if self._tap.open:
                    self._overhear(url, f"{call.method} {_shown(url)} ({sent.length} octets)")
                response = await self._client.send(request, stream=True)
                try:
                    answer = await self._answer(response)
                finally:
                    await response.aclose()
                if self._tap.open and isinstance(answer, Answer):
                    self._overhear(url, answer.words, answer.status)
                return answer
        except CannotCarry as refusal:
            return _unsent(Status.REFUSED, Scope.MESSAGE, str(refusal), 554, refusal.enhanced)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol) as error:
            return _unsent(Status.DEFERRED, Scope.NODE, self._trouble("no connection", url, error), phase="connect")
        except httpx.PoolTimeout:
            return _unsent(Status.DEFERRED, Scope.NODE, "no free connection in time", phase="connect")
        except TimeoutError:  # an OSError too, so it stands first
            return self._interrupted("no answer in time", sent, begun=begun)
        except OSError as error:  # the body file
            return _unreadable(error)
        except httpx.HTTPError as error:
            return self._interrupted(self._trouble("the call broke", url, error), sent, begun=begun)

    async def _answer(self, response: httpx.Response) -> Answer | Outcome:
        """The answer, read to its end; of one that breaks off, what its status proves."""
        body = b""
        try:
            async for block in response.aiter_bytes():
                body += block
                if len(body) > ANSWER_BYTES:
                    break
        except httpx.HTTPError as error:
            if response.status_code < 400:
                text = self._trouble(f"the answer {response.status_code} broke off", str(response.url), error)
                return Outcome(
                    status=Status.UNCERTAIN,
                    scope=Scope.MESSAGE,
                    code=response.status_code,
                    text=self._mask(text),
                    phase="http",
                )
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, body[:ANSWER_BYTES], self._clock())

    def _overhear(self, url: str, text: str, status: int = 0) -> None:
        """For those who listen in: what we ask, and what is answered."""
        talk, peer = f"{id(self):x}", urlsplit(url).netloc
        if status:
            self._tap.node_said(talk, self.name, peer, status, self._mask(text))
        else:
            self._tap.node_told(talk, self.name, peer, [text])

    def _interrupted(self, text: str, sent: _Sent, *, begun: bool) -> Outcome:
        if sent.all:
            return Outcome(status=Status.UNCERTAIN, scope=Scope.MESSAGE, text=self._mask(text), phase="http")
        return replace(_unsent(Status.DEFERRED, Scope.NODE, self._mask(text)), attempted=begun and sent.any)

    def _trouble(self, what: str, url: str, error: Exception) -> str:
        said = _said(error)
        return self._mask(clean(f"{what} with {urlsplit(url).netloc}: {said}"))

    def _url(self, call: Call) -> str:
        return call.path if call.path.startswith(("http:", "https:")) else f"{self._options.api_url}{call.path}"

    def _note_gauges(self, answer: Answer) -> None:
        """A vendor that says "nothing left" is not asked again before it has something."""
        pause_s = max((gauge.pause_s(answer) for gauge in self._api.gauges), default=0.0)
        if pause_s > 0:
            self._resumes_at = max(self._resumes_at, asyncio.get_running_loop().time() + pause_s)

    def _doubted(self, letter: Letter, found: list[RecipientOutcome]) -> list[RecipientOutcome]:
        """Refusals of messages in the light of those before: many alike are about the node."""
        if any(entry.outcome.status is Status.DELIVERED for entry in found):
            self._alike = ("", deque(maxlen=ALIKE))
            return found
        first = found[0].outcome if found else None
        if first is None or first.status is not Status.REFUSED or first.scope is not Scope.MESSAGE:
            return found
        if first.enhanced == "5.3.4":
            return found
        words, ids = self._alike
        said = f"{first.code} {first.text}"
        if said != words:
            ids = deque(maxlen=ALIKE)
        if letter.id not in ids:
            ids.append(letter.id)
        self._alike = (said, ids)
        if len(ids) < ALIKE:
            return found
        text = clean(f"{ALIKE} messages in a row were refused in the same words: {first.text}")
        return [
            RecipientOutcome(entry.address, replace(entry.outcome, scope=Scope.ACCOUNT, enhanced="", text=text))
            for entry in found
        ]

    def _masked(self, outcome: Outcome) -> Outcome:
        return replace(outcome, text=self._mask(outcome.text), vendor_id=self._mask(outcome.vendor_id))

    def _mask(self, text: str) -> str:
        for secret in (*self._secrets, *self._spoken):
            text = text.replace(secret, "***")
        return text


class _Sent(httpx.AsyncByteStream):
    """A request body that knows how much of it was given to the connection. Can be sent once."""

    def __init__(self, body: tuple[Piece, ...]) -> None:
        self._body = body
        self.length = length(body)
        self.any = False
        self.all = not body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        blocks = pieces(self._body)
        off_loop = on_disk(self._body)
        block = await asyncio.to_thread(next, blocks, None) if off_loop else next(blocks, None)
        while block is not None:
            after = await asyncio.to_thread(next, blocks, None) if off_loop else next(blocks, None)
            self.any = True
            # Before the block is handed over: what is lost while the last one is written may have arrived.
            self.all = after is None
            yield block
            block = after


def make(name: str, options: ApiOptions, setting: Setting, api: Api[Any]) -> HttpUpstream:
    """A driver. Raises UpstreamError for a certificate file that cannot be read."""
    return HttpUpstream(name, options, setting, api)


def _client(options: ApiOptions) -> httpx.AsyncClient:
    times = options.timeouts
    return httpx.AsyncClient(
        verify=_tls(options.ca_file),
        proxy=options.proxy.get_secret_value() if options.proxy else None,
        trust_env=options.proxy is None,
        follow_redirects=False,
        # Waiting for a connection of our own is bounded by the deadline of the whole call.
        timeout=httpx.Timeout(connect=times.connect, write=times.write, read=times.answer, pool=None),
        limits=httpx.Limits(
            max_connections=options.connections,
            max_keepalive_connections=options.connections,
            keepalive_expiry=options.idle_close,
        ),
        # Answers are small; what is not packed cannot unpack to gigabytes.
        headers={"User-Agent": f"relay/{__version__}", "Accept-Encoding": "identity"},
    )


@cache
def _tls(ca_file: str | None) -> ssl.SSLContext:
    """One context for all nodes with the same authorities: each costs half a megabyte."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError among them
        raise UpstreamError(f"ca_file {ca_file} cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _secrets(options: ApiOptions) -> Iterator[str]:
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, SecretStr) and len(value.get_secret_value()) >= 4:
            yield value.get_secret_value()


def _said(error: BaseException) -> str:
    """The words that say most: those of the system, which the libraries wrap in their own."""
    at: BaseException | None = error
    for _ in range(8):
        if isinstance(at, OSError) and at.errno and at.strerror:
            return os.strerror(at.errno) if isinstance(at, ConnectionError) else at.strerror
        at = at.exceptions[0] if isinstance(at, BaseExceptionGroup) else at and (at.__cause__ or at.__context__)
    return str(error) or type(error).__name__


def _shown(url: str) -> str:
    """A URL without its query, which may hold a key."""
    return url.partition("?")[0]


def _unsent(
    status: Status,
    scope: Scope,
    text: str,
    code: int = 0,
    enhanced: str = "",
    *,
    phase: str = "http",
    retry_after_s: float | None = None,
) -> Outcome:
    return Outcome(
        status=status,
        scope=scope,
        code=code,
        enhanced=enhanced,
        text=clean(text),
        phase=phase,
        retry_after_s=retry_after_s,
        attempted=False,
    )


def _unreadable(error: OSError) -> Outcome:
    return _unsent(Status.DEFERRED, Scope.MESSAGE, f"the content cannot be read: {error.strerror or error}")


def _all(outbound: Outbound, outcome: Outcome) -> list[RecipientOutcome]:
    return [RecipientOutcome(recipient.address, outcome) for recipient in outbound.recipients]


def _in_order(outbound: Outbound, letter: Letter, found: list[RecipientOutcome]) -> list[RecipientOutcome]:
    """One outcome for each recipient, in their order; the notes of the letter go with what was delivered."""
    by_address = {entry.address: entry.outcome for entry in found}
    silent = Outcome(
        status=Status.UNCERTAIN, scope=Scope.MESSAGE, text="the answer says nothing of this recipient", phase="http"
    )
    later = _unsent(Status.DEFERRED, Scope.RECIPIENT, "hidden from the others: goes in a call of its own", 452, "4.5.3")
    notes = f" ({'; '.join(letter.notes)})" if letter.notes else ""
    out = []
    for recipient in outbound.recipients:
        if recipient.address in letter.left:
            out.append(RecipientOutcome(recipient.address, later))
            continue
        outcome = by_address.get(recipient.address, silent)
        if notes and outcome.status is Status.DELIVERED:
            outcome = replace(outcome, text=clean(outcome.text + notes))
        out.append(RecipientOutcome(recipient.address, outcome))
    return out
