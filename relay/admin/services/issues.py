"""Issues, and the targets of alerts: seen and tried."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from relay.admin.alerts.rules import Rule
from relay.admin.alerts.store import Issue, Notice
from relay.admin.alerts.targets import Targets, Told
from relay.admin.alerts.words import OPENED, TEST, issue_row
from relay.admin.context import Context
from relay.admin.refusals import not_found
from relay.admin.security.roles import Caller
from relay.admin.services.own_mail import OwnMail
from relay.admin.webhooks.service import Webhooks
from relay.config import Config
from relay.config.models.alerts import AlertTargetModel

WEBHOOK_S = 15.0
"""How long a test waits for the receiver's answer."""


class Issues:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def page(
        self, *, state: str = "", node: str = "", rule: str = "", before: int = 0, limit: int = 100
    ) -> list[dict[str, Any]]:
        """The newest first. `state`: `open`, `closed`, or empty for both."""
        found = await asyncio.to_thread(
            lambda: self._context.alerts.store.issues(state=state, node=node, rule=rule, before=before, limit=limit)
        )
        return [issue_row(issue) for issue in found]

    async def one(self, number: int) -> dict[str, Any]:
        """With what was told of it, and to whom."""
        found = await asyncio.to_thread(self._context.alerts.store.issue, number)
        if found is None:
            raise not_found("issue", str(number))
        issue, notices = found
        return {**issue_row(issue), "notices": [notice_row(notice) for notice in notices]}

    async def targets(self) -> list[dict[str, Any]]:
        """Who is told, without secrets."""
        config = (await self._context.current.look()).config
        return [target_row(target) for target in config.alerts.targets]

    async def test(self, caller: Caller, name: str) -> dict[str, Any]:
        """Tell one target that this is a test; whether it took it, and its answer."""
        context = self._context
        config = (await context.current.look()).config
        target = next((each for each in config.alerts.targets if each.name == name), None)
        if target is None:
            raise not_found("target of alerts", name)
        await context.webhooks.take_over(config)
        told = await try_target(target, config, context.webhooks, OwnMail(context.workers), by=caller.name)
        row = {"target": name, "taken": told.taken, "answer": told.answer}
        await context.audit.note(caller, "alert.test", name, after=row)
        return row


async def try_target(target: AlertTargetModel, config: Config, webhooks: Webhooks, mail: OwnMail, *, by: str) -> Told:
    """Tell a target that this is a test, the way it would be told of trouble."""
    error = f"{by} tries the target {target.name}; nothing is wrong"
    now = time.time()
    issue = Issue(
        number=0, key=TEST, rule=Rule.NODE, node="", pool="", error=error, last_error=error, since=now, until=None,
        how="",
    )  # fmt: skip
    told = await Targets(mail, webhooks.post).tell(target, config, issue, OPENED, ())
    if target.webhook is None or not told.taken:
        return told
    event_id = f"evt_alert-0-{OPENED}-{int(now * 1000)}"
    loop = asyncio.get_running_loop()
    give_up = loop.time() + WEBHOOK_S
    while loop.time() < give_up:
        calls = await webhooks.calls(target.webhook, limit=50)
        call = next((each for each in calls if each["id"] == event_id), None)
        if call is not None and call["tries"]:
            return Told(call["state"] == "taken", f"webhook {target.webhook}: {call['answer']}")
        await asyncio.sleep(0.2)
    return Told(False, f"webhook {target.webhook} was not called within {WEBHOOK_S:.0f} s: does the relay run?")


def notice_row(notice: Notice) -> dict[str, Any]:
    return {
        "what": notice.what,
        "target": notice.target,
        "state": str(notice.state),
        "since": notice.since,
        "due": notice.due if notice.state == "waiting" else None,
        "tries": notice.tries,
        "answer": notice.answer,
    }


def target_row(target: AlertTargetModel) -> dict[str, Any]:
    scheme = target.apprise.get_secret_value().partition("://")[0] if target.apprise is not None else ""
    return {
        "name": target.name,
        "kind": "email" if target.email else "webhook" if target.webhook is not None else "apprise",
        "to": ", ".join(target.email) or target.webhook or f"{scheme}://***",
        "rules": list(target.rules),
        "recovery": target.recovery,
    }
