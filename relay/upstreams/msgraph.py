"""Microsoft Graph, `sendMail` with the message as MIME. Recipients are those of the header section.

Recipients that the message hides are put into Bcc, which Exchange takes out; shown ones this hand-over is not for are
taken out of To and Cc. Exchange rebuilds the message, signs it itself, keeps a copy in Sent Items, and answers without
an id. From must be the mailbox or one it may send as.

Source: Microsoft Graph "user: sendMail", "Send Outlook messages using MIME format", "Throttling limits", error
responses. The limit of 4 MB is what the service answers ("The maximum request length supported is 4MB").
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal
from urllib.parse import quote

from pydantic import model_validator

from relay.fields import Address
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import Answer, Api, Call, Letter, Means, Raw, Rule, for_all, judged, outcome, well
from relay.upstreams.api_options import ShownOptions
from relay.upstreams.carries import Carries
from relay.upstreams.oauth_options import OAuthOptions, TokenPlan

MAX_CONTENT = 4 * 2**20 * 3 // 4 - 4096


_LOGIN = {
    "us-government": "https://login.microsoftonline.us",
    "us-dod": "https://login.microsoftonline.us",
    "china": "https://login.partner.microsoftonline.cn",
}


class Options(ShownOptions):
    """A Microsoft 365 mailbox, over Microsoft Graph."""

    mailbox: Address
    """Mailbox to send from (user principal name)."""
    sign_in: Literal["application", "delegated"] = "application"
    """Whose token it is: `application` acts on the mailbox, `delegated` is the mailbox's own."""
    cloud: Literal["global", "us-government", "us-dod", "china"] = "global"
    """National cloud of the tenant."""
    oauth: OAuthOptions
    """How the relay logs in: flow client-credentials for `application`, refresh-token for `delegated`."""

    @model_validator(mode="after")
    def _plan_is_whole(self) -> Options:
        self.token_plan()
        return self

    def token_plan(self) -> TokenPlan:
        """How tokens for Graph are had. Raises ValueError for what is missing."""
        plan = self.oauth.plan(use="api", provider="microsoft", account=self.mailbox)
        if self.cloud == "global":
            return plan
        graph, login = self.api_url.removesuffix("/v1.0"), _LOGIN[self.cloud]
        changed = {
            name: getattr(plan, name).replace("https://login.microsoftonline.com", login)
            for name in ("token_url", "device_url", "authorize_url")
        }
        scopes = tuple(scope.replace("https://graph.microsoft.com", graph) for scope in plan.scopes)
        return replace(plan, scopes=scopes, **changed)

    def _vendor_url(self) -> str:
        host = {
            "global": "graph.microsoft.com",
            "us-government": "graph.microsoft.us",
            "us-dod": "dod-graph.microsoft.us",
            "china": "microsoftgraph.chinacloudapi.cn",
        }[self.cloud]
        return f"https://{host}/v1.0"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_CONTENT, max_recipients=500)


RULES = (
    Rule("token", Means.ACCOUNT, status="401"),
    Rule(
        "the mailbox may not send as this author", Means.SENDER, code="ErrorSendAsDenied|ErrorSubmissionQuota.*Denied"
    ),
    Rule("rights", Means.ACCOUNT, code="ErrorAccessDenied|Authorization_RequestDenied|Forbidden"),
    Rule("no such mailbox", Means.ACCOUNT, status="404"),
    Rule("limits of the mailbox", Means.QUOTA, code="ErrorExceededMessageLimit|ErrorQuotaExceeded|.*QuotaExceeded"),
    Rule("throttled", Means.QUOTA, code="ApplicationThrottled|MailboxConcurrency|TooManyRequests|ErrorServerBusy"),
    Rule("too large", Means.SIZE, code="ErrorMessageSizeExceeded|RequestEntityTooLarge|.*MaximumValueExceeded"),
    Rule("the message", Means.MESSAGE, status="400"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter."""
    return Call(
        path=f"{_who(options)}/sendMail",
        headers=(("Content-Type", "text/plain"),),
        body=(Raw(letter.content, "base64"),),
    )


def _who(options: Options) -> str:
    return "/me" if options.sign_in == "delegated" else f"/users/{quote(options.mailbox, safe='@')}"


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 202:
        return for_all(letter, outcome(Means.SENT, answer, vendor_id=answer.headers.get("request-id", "")))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    error = answer.fields.get("error")
    found = error if isinstance(error, dict) else {}
    return judged(RULES, answer, str(found.get("code", "")), str(found.get("message") or answer.words))


def probe(options: Options) -> Call:
    """The send endpoint with what is no message: refused before anything is sent, behind the check of token and
    rights."""
    return Call(path=f"{_who(options)}/sendMail", headers=(("Content-Type", "text/plain"),), body=(b"!",))


def parse_probe(answer: Answer) -> Outcome:
    error = answer.fields.get("error")
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    if answer.status == 400 and code:
        return well(answer, f"token may send (what is no message was refused, as it should be: {code})")
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, headers_decide=True, auth="token")
