"""The send API: messages of apps that speak HTTP, with the logins of bridges, through the same acceptance as SMTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from relay.admin.context import Context
from relay.admin.refusals import Refused
from relay.admin.security.roles import Caller
from relay.admin.services.compose import Canonical, Unfit, canonical, compose
from relay.admin.services.envelope_of import envelope_of
from relay.config import Config
from relay.control.protocol import ControlError
from relay.envelope import Reply
from relay.listener.body import BodyLimits

INLINE_OCTETS = 128 * 1024
"""Larger bodies go to the worker as a file, as those of the listener do."""

BATCH = 100
AT_ONCE = 8
"""Requests whose messages are in memory at the same time; more wait their turn."""

_KEY = re.compile(r"[!-~]{1,120}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """`token` alone, or username and password; `bridge` for an operator's test message, without a login."""

    username: str = ""
    password: str = ""
    token: str = ""
    bridge: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message of a request.

    Attributes:
        refusal: why it is none; all else is empty then.
        digest: of what was asked for, hex.
    """

    content: Canonical | None = None
    sender: str = ""
    recipients: tuple[str, ...] = ()
    key: str = ""
    digest: str = ""
    refusal: Refused | None = None


class Sending:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._places = asyncio.Semaphore(AT_ONCE)

    async def one(self, login: Login, peer: str, outgoing: Outgoing) -> dict[str, Any]:
        """Take one message. Raises Refused when it was not taken."""
        (result,) = await self.many(login, peer, [outgoing])
        if isinstance(result, Refused):
            raise result
        return result

    async def many(self, login: Login, peer: str, batch: Sequence[Outgoing]) -> list[dict[str, Any] | Refused]:
        """Take messages, each by itself. Raises Refused when the login is wrong or no worker answers."""
        good = [outgoing for outgoing in batch if outgoing.refusal is None]
        async with self._places, _spooled(self._context.site.directory / "incoming", good) as messages:
            try:
                answer = await self._context.workers.any(
                    "submit", peer=peer, messages=messages, username=login.username, password=login.password,
                    token=login.token, bridge=login.bridge,
                )  # fmt: skip
            except ControlError as error:
                raise Refused(
                    503,
                    f"{error}; whether a message was taken is not known: repeat the request, best with an "
                    "Idempotency-Key",
                    headers={"Retry-After": "2"},
                ) from error
        if answer["refused"]:
            raise _of_reply(answer["refused"])
        if not answer["bridge"]:
            raise Refused(401, "this login opens no bridge", headers={"WWW-Authenticate": 'Basic realm="relay bridge"'})
        results = iter(answer["results"])
        return [
            outgoing.refusal if outgoing.refusal is not None else _result(next(results), outgoing) for outgoing in batch
        ]

    async def test(self, caller: Caller, bridge: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message as if a client of the bridge had: same rules, limits and queue. Raises Refused."""
        outgoing = await self.from_json(fields, "")
        if outgoing.refusal is not None:
            raise outgoing.refusal
        result = await self.one(Login(bridge=bridge), caller.peer, outgoing)
        told = {"id": result["id"], "sender": outgoing.sender, "recipients": list(outgoing.recipients)}
        await self._context.audit.note(caller, "message.test", bridge, after=told)
        return result

    async def from_json(self, fields: Mapping[str, Any], key: str) -> Outgoing:
        return await asyncio.to_thread(_from_json, fields, key, self._context.current.config)

    async def from_raw(self, raw: bytes, sender: str | None, recipients: Sequence[str], key: str) -> Outgoing:
        return await asyncio.to_thread(_from_raw, raw, sender, recipients, key, self._context.current.config)


def check_key(key: str) -> str:
    """Raises Refused for what is no idempotency key."""
    if key and not _KEY.fullmatch(key):
        raise Refused(422, "an Idempotency-Key is 1 to 120 printable ASCII characters without blanks")
    return key


def _from_json(fields: Mapping[str, Any], key: str, config: Config) -> Outgoing:
    digest = hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()
    try:
        composed = compose(fields)
    except Unfit as error:
        fault = {"where": error.where, "what": error.what}
        return Outgoing(refusal=Refused(422, "the message is not as it must be", errors=[fault]))
    return _outgoing(composed.raw, composed.sender, composed.recipients, key, digest, config)


def _from_raw(raw: bytes, sender: str | None, recipients: Sequence[str], key: str, config: Config) -> Outgoing:
    digest = hashlib.sha256(b"\0".join([str(sender).encode(), *(r.encode() for r in recipients), raw])).hexdigest()
    found_sender, found_recipients = envelope_of(raw)
    return _outgoing(
        raw, found_sender if sender is None else sender, tuple(recipients or found_recipients), key, digest, config
    )


def _outgoing(raw: bytes, sender: str, recipients: tuple[str, ...], key: str, digest: str, config: Config) -> Outgoing:
    limits = config.limits
    content = canonical(
        raw,
        BodyLimits(
            max_size=limits.size,
            max_header=limits.header,
            max_received=limits.received,
            memory_limit=len(raw) + 4096,
            normalize=config.line_endings == "normalize",
        ),
    )
    if isinstance(content, Reply):
        return Outgoing(refusal=_of_reply({"code": content.code, "enhanced": content.enhanced, "text": content.text}))
    if not recipients:
        return Outgoing(refusal=Refused(422, "no recipients: neither given nor in To, Cc or Bcc"))
    return Outgoing(content=content, sender=sender, recipients=recipients, key=key, digest=digest)


@asynccontextmanager
async def _spooled(folder: Path, batch: Sequence[Outgoing]) -> AsyncIterator[list[dict[str, Any]]]:
    """The messages as the worker wants them; files that it did not take over are removed at the end."""
    written: list[Path] = []
    try:
        messages = []
        for outgoing in batch:
            content = outgoing.content
            assert content is not None
            row: dict[str, Any] = {
                "sender": outgoing.sender,
                "recipients": outgoing.recipients,
                "head": base64.b64encode(content.head).decode(),
                "eight_bit": content.eight_bit,
                "long_lines": content.long_lines,
                "key": outgoing.key,
                "digest": outgoing.digest if outgoing.key else "",
            }
            if len(content.body) > INLINE_OCTETS or len(batch) > 1:
                path = folder / f"api-{secrets.token_hex(12)}"
                written.append(path)
                await asyncio.to_thread(_write, path, content.body)
                row |= {"file": path.name, "size": len(content.body)}
            else:
                row["body"] = base64.b64encode(content.body).decode()
            messages.append(row)
        yield messages
    except OSError as error:
        raise Refused(503, f"the message cannot be kept: {error.strerror}", headers={"Retry-After": "30"}) from error
    finally:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(body)


def _result(row: Mapping[str, Any], outgoing: Outgoing) -> dict[str, Any] | Refused:
    if row["code"] < 400:
        return {"id": row["id"], "status": "accepted", "recipients": len(set(outgoing.recipients))}
    return _of_reply(row)


def _of_reply(row: Mapping[str, Any]) -> Refused:
    """An SMTP reply as an HTTP answer; its words are kept."""
    code, enhanced, text = row["code"], row["enhanced"], row["text"]
    more = {"smtp": {"code": code, "enhanced": enhanced}}
    wait = re.search(r"in (\d+) seconds", text)
    match code, enhanced:
        case 554, "5.5.0":
            return Refused(409, text, more=more)
        case 451, "4.5.0":
            return Refused(409, text, more=more, headers={"Retry-After": "1"})
        case (452, "4.7.1") | (454, _):
            return Refused(429, text, more=more, headers={"Retry-After": wait[1] if wait else "60"})
        case _ if code < 500:
            return Refused(503, text, more=more, headers={"Retry-After": "30"})
        case 552, _:
            return Refused(413, text, more=more)
        case 550, "5.7.1":
            return Refused(403, text, more=more)
        case _:
            return Refused(422, text, more=more)
