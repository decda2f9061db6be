"""Telling one target: mail through the relay itself, a webhook, or a service by Apprise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from relay.admin.alerts.rules import carrier
from relay.admin.alerts.store import Issue
from relay.admin.alerts.words import OPENED, Words, payload, words
from relay.config import Config
from relay.config.models.alerts import AlertTargetModel

APPRISE_S = 60.0
"""A service that takes longer is given up for this time."""

_KEPT = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")
"""Of the environment; secrets and proxies that stand there are not the services' affair."""


@dataclass(frozen=True, slots=True)
class Told:
    taken: bool
    answer: str


class Mails(Protocol):
    """Sends a mail of the relay itself through a bridge; the answer as SMTP would have given it."""

    async def __call__(self, bridge: str, sender: str, to: tuple[str, ...], said: Words) -> Told: ...


Posts = Callable[[str, str, str, Mapping[str, Any]], Awaitable[bool]]
"""`Webhooks.post`."""


class Targets:
    def __init__(self, mail: Mails, post: Posts) -> None:
        self._mail = mail
        self._post = post

    async def tell(
        self, target: AlertTargetModel, config: Config, issue: Issue, what: str, pools_in_trouble: Collection[str]
    ) -> Told:
        """Tell it once. Never raises for what the outside does."""
        said = words(issue, what, config.hostname or "relay")
        if target.webhook is not None:
            event_id = f"evt_alert-{issue.number}-{what}-{int(issue.since * 1000)}"
            if await self._post(target.webhook, f"alert.{what}", event_id, payload(issue, what)):
                return Told(True, f"handed to webhook {target.webhook}")
            return Told(False, f"there is no webhook {target.webhook!r} now")
        if target.apprise is not None:
            url = target.apprise.get_secret_value()
            return await call_apprise(url, said, allow_private=target.allow_private)
        pools = {bridge.name: bridge.pool for bridge in config.bridges}
        known = [(name, pools[name] or "") for name in target.bridges if name in pools]
        # When it is over the pool carries mail again.
        bridge = carrier(known, issue.pool if what == OPENED else "", pools_in_trouble)
        if bridge is None:
            return Told(
                False, f"no bridge of this target leads to another pool than {issue.pool!r}, which is in trouble"
            )
        return await self._mail(bridge, sender_of(target, config), target.email, said)


def sender_of(target: AlertTargetModel, config: Config) -> str:
    return target.sender or f"relay@{config.hostname or 'localhost'}"


async def call_apprise(url: str, said: Words, *, allow_private: bool) -> Told:
    """Run the call as a process; see `apprise_call`."""
    environment = {name: value for name in _KEPT if (value := os.environ.get(name)) is not None}
    asked = json.dumps({"url": url, "title": said.subject, "body": said.body, "allow_private": allow_private})
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "relay.admin.alerts.apprise_call",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )  # fmt: skip
    except OSError as error:
        return Told(False, f"the call cannot be started: {error.strerror}")
    try:
        async with asyncio.timeout(APPRISE_S):
            answer, _ = await process.communicate(asked.encode())
        found = json.loads(answer)
        return Told(bool(found["taken"]), str(found["answer"]))
    except TimeoutError:
        return Told(False, f"no answer within {APPRISE_S:.0f} s")
    except (ValueError, KeyError, TypeError):
        return Told(False, f"the call ended without an answer (exit {process.returncode})")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
