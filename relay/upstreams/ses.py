"""Amazon SES, API v2: SendEmail with raw content. Recipients are those of the envelope; SES puts its own return path.

The message is passed octet for octet, but for what SES would act on or refuse: `X-SES-` fields, which choose the
account's configuration and are not the client's to choose, and a second DKIM-Signature (SES allows one; the topmost,
ours, is kept). SES replaces Message-ID and Date and signs for the identity on its own.

Source: SES API v2 SendEmail and GetAccount, "Manage sending quotas", "Header fields", "Errors" (developer guide).
"""

from __future__ import annotations

import re
from typing import Annotated

import orjson
from pydantic import StringConstraints, model_validator

from relay.envelope import Content
from relay.fields import Login, Secret, Text
from relay.headers.fields import walk
from relay.outcome import Outcome, RecipientOutcome
from relay.pools.pool import Cap
from relay.upstreams.api import (
    Answer,
    Api,
    Call,
    Letter,
    Means,
    Raw,
    Rule,
    for_all,
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ApiOptions
from relay.upstreams.carries import Carries

MAX_CONTENT = 40_000_000 * 3 // 4
"""40 MB after base64."""


class Options(ApiOptions):
    """One region of an Amazon SES account, over its API (v2)."""

    region: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d{1,2}$")]
    """AWS region, for example `eu-west-1`."""
    access_key_id: Login | None = None
    """IAM access key. Without it the credentials are found as every AWS program finds them: environment, shared
    files, role of the container or machine."""
    secret_access_key: Secret | None = None
    """Its secret."""
    session_token: Secret | None = None
    """Of temporary credentials."""
    profile: Login | None = None
    """Profile of the shared AWS files."""
    role_arn: Text | None = None
    """Role to assume with the credentials that were found."""
    external_id: Text | None = None
    """External ID that the role asks for."""
    configuration_set: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Configuration set, for events and for switching tracking off."""
    identity_arn: Text | None = None
    """ARN of the identity, when another account owns it (sending authorisation)."""

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Options:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            missing = "secret_access_key" if self.secret_access_key is None else "access_key_id"
            raise ValueError(f"access_key_id and secret_access_key belong together; {missing} is missing")
        if self.access_key_id is not None and (self.profile or self.role_arn):
            raise ValueError("access_key_id stands alone; leave it out to use profile or role_arn")
        return self

    def _vendor_url(self) -> str:
        return f"https://email.{self.region}.amazonaws.com{'.cn' if self.region.startswith('cn-') else ''}"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_CONTENT, max_recipients=50)


RULES = (
    Rule("sandbox or unverified sender", Means.SENDER, code="MessageRejected", words="not verified|authority to send"),
    Rule("refused for its content", Means.MESSAGE, code="MessageRejected"),
    Rule("return path domain of the sender", Means.SENDER, code="MailFromDomainNotVerified(Exception)?"),
    Rule("the identity of this sender is not there", Means.SENDER, code="NotFound(Exception)?", words="identity"),
    Rule("configuration set is not there", Means.ACCOUNT, code="NotFound(Exception)?|ConfigurationSet.*"),
    Rule("account suspended", Means.ACCOUNT, code="AccountSuspended(Exception)?|AccountSendingPaused.*"),
    Rule("sending paused by AWS or by the owner", Means.ACCOUNT, code="SendingPaused(Exception)?"),
    Rule("quota", Means.QUOTA, code="LimitExceeded(Exception)?|TooManyRequests(Exception)?|Throttl.*|RequestLimit.*"),
    Rule("clock of this machine", Means.ACCOUNT, code="RequestExpired|RequestTimeTooSkewed|SignatureDoesNotMatch"),
    Rule(
        "credentials",
        Means.ACCOUNT,
        code="UnrecognizedClient(Exception)?|InvalidClientTokenId|AccessDenied(Exception)?|IncompleteSignature"
        "|ExpiredToken(Exception)?|MissingAuthenticationToken(Exception)?|NotAuthorized|OptInRequired",
    ),
    Rule("the service is away", Means.NODE, code="ServiceUnavailable(Exception)?"),
    Rule("too large", Means.SIZE, status="400", words="(message|raw).{0,40}(length|size|too large|exceed)"),
    Rule("the request", Means.MESSAGE, status="400"),
)
_SOURCE = "SES account"
_DAILY_WAIT_S = 900.0
"""The daily quota rolls: room opens bit by bit, a quarter of an hour is soon enough to look."""


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter."""
    fields: dict[str, object] = {"Destination": {"ToAddresses": list(letter.recipients)}}
    if options.configuration_set:
        fields["ConfigurationSetName"] = options.configuration_set
    if options.identity_arn:
        fields["FromEmailAddressIdentityArn"] = options.identity_arn
    fields["EmailTags"] = [{"Name": "relay-id", "Value": letter.id}]
    head = orjson.dumps(fields)[:-1]
    return Call(
        path="/v2/email/outbound-emails",
        headers=(("Content-Type", "application/json"),),
        body=(head + b',"Content":{"Raw":{"Data":"', Raw(_fitted(letter.content), "base64"), b'"}}}'),
    )


def _fitted(content: Content) -> Content:
    """The same object unless SES would act on a field or refuse it."""
    if not re.search(rb"(?i)(?:^|\r\n)(?:x-ses-|dkim-signature[ \t]*:)", content.head):
        return content
    out, signed = [], False
    for item in (fields := walk(content.head)):
        if item.name.startswith(b"x-ses-") or (signed and item.name == b"dkim-signature"):
            continue
        signed = signed or item.name == b"dkim-signature"
        out.append(item.raw)
    return content if len(out) == len(fields) else Content(b"".join(out), content.body)


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 200 and (found := answer.fields.get("MessageId")):
        return for_all(letter, outcome(Means.SENT, answer, "accepted", vendor_id=str(found)))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    kind = str(answer.headers.get("x-amzn-errortype") or answer.fields.get("__type") or answer.fields.get("code") or "")
    kind = kind.partition(":")[0].rpartition("#")[2].strip()
    text = str(answer.fields.get("message") or answer.fields.get("Message") or answer.words)
    daily = re.search(r"daily (message )?quota|24[- ]hour", text, re.IGNORECASE)
    return judged(RULES, answer, kind, text, wait_s=_DAILY_WAIT_S if daily else None)


def probe(_options: Options) -> Call:
    """GetAccount (IAM `ses:GetAccount`)."""
    return Call(method="GET", path="/v2/email/account")


def parse_probe(answer: Answer) -> Outcome:
    """A key that may not read the account is a good key all the same."""
    if answer.status == 200 and "SendQuota" in answer.fields:
        if answer.fields.get("SendingEnabled") is False:
            status = answer.fields.get("EnforcementStatus", "")
            return outcome(Means.ACCOUNT, answer, f"sending is switched off for this account ({status})")
        sandbox = "" if answer.fields.get("ProductionAccessEnabled", True) else ", in the SES sandbox"
        return well(answer, f"account well{sandbox}")
    found = _trouble(answer)
    if found.text.startswith("AccessDenied") and "GetAccount" in found.text:
        return well(answer, "key is good; it may not read the account (ses:GetAccount)")
    return found


def parse_quota(answer: Answer) -> tuple[Cap, ...] | None:
    """Recipients in 24 hours and in a second. -1 is without limit."""
    quota = answer.fields.get("SendQuota")
    if answer.status != 200 or not isinstance(quota, dict):
        return None
    day, rate = quota.get("Max24HourSend"), quota.get("MaxSendRate")
    caps = []
    if isinstance(rate, (int, float)) and rate >= 1:
        caps.append(Cap(window_s=1.0, limit=int(rate), source=_SOURCE))
    if isinstance(day, (int, float)) and day >= 1:
        caps.append(Cap(window_s=86400.0, limit=int(day), source=_SOURCE))
    return tuple(caps)


API = Api[Options](
    build=build,
    parse=parse,
    probe=probe,
    parse_probe=parse_probe,
    auth="sigv4",
    quota=probe,
    parse_quota=parse_quota,
)
