"""Gmail API, `messages.send` by media upload: the raw message. Recipients are those of the header section.

Recipients that the message hides are put into Bcc, which Gmail takes out; shown ones this hand-over is not for are
taken out of To and Cc. From must be the account or an alias of it, else Gmail writes its own there. A copy lands in
Sent.

Source: Gmail API v1 discovery document and "Resolve errors".
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from pydantic import model_validator

from relay.fields import Address
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import Answer, Api, Call, Letter, Means, Raw, Rule, for_all, judged, outcome, well
from relay.upstreams.api_options import ShownOptions
from relay.upstreams.carries import Carries
from relay.upstreams.oauth_options import OAuthOptions, TokenPlan

MAX_CONTENT = 36_700_160


class Options(ShownOptions):
    """A Gmail or Google Workspace mailbox, over the Gmail API."""

    mailbox: Address
    """Mailbox to send from."""
    oauth: OAuthOptions
    """How the relay logs in: flow refresh-token with one person's consent, or service-account."""

    @model_validator(mode="after")
    def _plan_is_whole(self) -> Options:
        self.token_plan()
        return self

    def token_plan(self) -> TokenPlan:
        """How tokens for the Gmail API are had. Raises ValueError for what is missing."""
        return self.oauth.plan(use="api", provider="google", account=self.mailbox)

    def _vendor_url(self) -> str:
        return "https://gmail.googleapis.com"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=True, max_size=MAX_CONTENT, max_recipients=500)


RULES = (
    Rule("mail is not switched on for this account", Means.ACCOUNT, words="mail service not enabled"),
    Rule("state of the account", Means.ACCOUNT, code="failedPrecondition"),
    Rule("token", Means.ACCOUNT, status="401"),
    Rule("too fast", Means.QUOTA, code="rateLimitExceeded|userRateLimitExceeded|RESOURCE_EXHAUSTED"),
    Rule("daily limit", Means.QUOTA, code="dailyLimitExceeded|quotaExceeded"),
    Rule(
        "rights",
        Means.ACCOUNT,
        code="insufficientPermissions|domainPolicy|accessNotConfigured|forbidden|PERMISSION_DENIED",
    ),
    Rule("the message", Means.MESSAGE, status="400"),
)


def build(_options: Options, letter: Letter) -> Call:
    """The call for a letter."""
    return Call(
        path="/upload/gmail/v1/users/me/messages/send?uploadType=media",
        headers=(("Content-Type", "message/rfc822"), ("Accept", "application/json")),
        body=(Raw(letter.content),),
    )


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 200 and (found := answer.fields.get("id")):
        return for_all(letter, outcome(Means.SENT, answer, vendor_id=str(found)))
    return for_all(letter, _trouble(answer))


def _error(answer: Answer) -> tuple[str, str]:
    error = answer.fields.get("error")
    if not isinstance(error, dict):
        return "", answer.words
    errors: Any = error.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    return str(first.get("reason") or error.get("status") or ""), str(error.get("message") or answer.words)


def _trouble(answer: Answer) -> Outcome:
    reason, text = _error(answer)
    return judged(RULES, answer, reason, text, wait_s=_until(text, answer))


def _until(text: str, answer: Answer) -> float | None:
    """Gmail writes the time into the text: "Retry after 2026-01-31T12:00:00.000Z"."""
    found = re.search(r"retry after (\d{4}-\d\d-\d\dT[\d:.]+)Z", text, re.IGNORECASE)
    if found is None:
        return None
    try:
        return max(0.0, datetime.fromisoformat(f"{found[1]}+00:00").timestamp() - answer.at)
    except ValueError:
        return None


def probe(_options: Options) -> Call:
    """The send endpoint with nothing: refused before anything is sent, behind the check of token and rights."""
    return Call(
        path="/gmail/v1/users/me/messages/send",
        headers=(("Content-Type", "application/json"), ("Accept", "application/json")),
        body=(b"{}",),
    )


def parse_probe(answer: Answer) -> Outcome:
    reason, text = _error(answer)
    if (
        answer.status == 400
        and not re.search("failedPrecondition|FAILED_PRECONDITION", reason)
        and "not enabled" not in text
    ):
        return well(answer, f"token may send (what is no message was refused, as it should be: {text})")
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, headers_decide=True, auth="token")
