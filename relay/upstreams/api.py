"""The contract between the HTTP driver (`http_api`) and a vendor's file: values and pure functions, no I/O.

A vendor is an `Api`: how a letter becomes one `Call`, and what an `Answer` means for its recipients. One hand-over is
one call, always: what does not fit into it is left for the next batch (`Letter.left`), so that a lost answer is never
about mail that was not in it.

What an answer means is one word (`Means`), and `outcome` alone turns the word into status and scope. Where a vendor
does not say otherwise, the HTTP status decides (`COMMON`); an answer of 500, 502 or 504 after the call has left proves
nothing, so it is UNCERTAIN.
"""

from __future__ import annotations

import hashlib
import math
import re
from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson

from relay.envelope import Content
from relay.errors import RelayError
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.upstreams.replies import asked_wait, clean

if TYPE_CHECKING:
    from relay.pools.pool import Cap
    from relay.upstreams.parts import Parts

Of = TypeVar("Of")  # the vendor's options

LONGEST_WAIT_S = 86400.0
"""A wait that is asked for is believed up to a day; more is a mistake of theirs or of our reading."""


class CannotCarry(RelayError):
    """This vendor cannot be given this message unchanged in meaning; another node may. Nothing was sent.

    Attributes:
        enhanced: RFC 3463 code; 5.6.3 where the content cannot be converted, 5.3.4 where it is too large.
    """

    def __init__(self, text: str, *, enhanced: str = "5.6.3") -> None:
        super().__init__(text)
        self.enhanced = enhanced


@dataclass(frozen=True, slots=True)
class Raw:
    """The content as one piece of a body, produced while it is sent. `form`: octets as they are, standard or URL-safe
    base64 in one line, or the inside of a JSON string (the content is ASCII or UTF-8 then)."""

    content: Content
    form: str = "octets"


Piece = bytes | Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `path`: below the node's base URL, or a whole URL. `body`: pieces that joined are the body."""

    path: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    body: tuple[Piece, ...] = ()

    def with_headers(self, *more: tuple[str, str]) -> Call:
        return replace(self, headers=(*self.headers, *more))


@dataclass(frozen=True)
class Answer:
    """One response. `headers`: names in lower case. `at`: epoch seconds when it came."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    at: float = 0.0

    @cached_property
    def json(self) -> Any:
        """The body as JSON; None when it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty when it is none."""
        return self.json if isinstance(self.json, dict) else {}

    @property
    def words(self) -> str:
        """The body as one line, for answers that are no JSON."""
        return clean(re.sub(r"<[^<>]{0,500}>", " ", self.body[:4000].decode("utf-8", "replace")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One message for one call.

    Attributes:
        id: the spool id.
        sender: reverse-path.
        recipients: of the envelope, as far as this call is for them; `left` wait for the next batch.
        parts: the message taken apart, where the vendor builds it anew; `to`, `cc`, `bcc` in it are `recipients`.
        notes: what is shown otherwise than the message says, in words.
    """

    id: str
    sender: str
    recipients: tuple[str, ...]
    content: Content
    parts: Parts | None = None
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Idempotency key: the same for the same message to the same recipients. Printable ASCII, 59 characters."""
        folded = "\n".join(sorted(self.recipients)).encode("utf-8", "surrogateescape")
        return f"{self.id}-{hashlib.sha256(folded).hexdigest()[:32]}"

    @property
    def rebuilt(self) -> Parts:
        """The parts, for vendors that need them."""
        assert self.parts is not None
        return self.parts


class Means(StrEnum):
    """What an answer says."""

    SENT = "sent"
    RECIPIENT = "recipient"  # refused for this recipient
    MESSAGE = "message"  # refused for what it is
    SIZE = "size"  # refused for its size, or a number of recipients: another node may take it
    SENDER = "sender"  # this account may not send for its sender; another may
    ACCOUNT = "account"  # key revoked, account suspended, node misconfigured: an operator must act
    QUOTA = "quota"  # slower
    NODE = "node"  # out of order now; nothing was taken
    LATER = "later"  # this message, later
    UNCERTAIN = "uncertain"


_OUTCOMES: Mapping[Means, tuple[Status, Scope, str]] = {
    Means.SENT: (Status.DELIVERED, Scope.RECIPIENT, ""),
    Means.RECIPIENT: (Status.REFUSED, Scope.RECIPIENT, ""),
    Means.MESSAGE: (Status.REFUSED, Scope.MESSAGE, ""),
    Means.SIZE: (Status.REFUSED, Scope.MESSAGE, "5.3.4"),
    Means.SENDER: (Status.REFUSED, Scope.MESSAGE, "5.7.1"),
    Means.ACCOUNT: (Status.REFUSED, Scope.ACCOUNT, ""),
    Means.QUOTA: (Status.DEFERRED, Scope.QUOTA, ""),
    Means.NODE: (Status.DEFERRED, Scope.NODE, ""),
    Means.LATER: (Status.DEFERRED, Scope.MESSAGE, ""),
    Means.UNCERTAIN: (Status.UNCERTAIN, Scope.MESSAGE, ""),
}


def outcome(
    means: Means, answer: Answer, text: str = "", *, vendor_id: str = "", wait_s: float | None = None
) -> Outcome:
    """The outcome of an answer. `text`: the vendor's exact words. `wait_s`: where the vendor says it in its own way."""
    status, scope, enhanced = _OUTCOMES[means]
    text = clean(text or ("accepted" if means is Means.SENT else answer.words))
    if wait_s is None and means in (Means.QUOTA, Means.NODE, Means.LATER):
        wait_s = asked_s(answer)
        if wait_s is None:
            wait_s = asked_wait(text)
    return Outcome(
        status=status,
        scope=scope,
        code=answer.status,
        enhanced=enhanced,
        text=text,
        phase="http",
        vendor_id=clean(vendor_id)[:200],
        retry_after_s=None if wait_s is None else max(0.0, min(wait_s, LONGEST_WAIT_S)),
    )


def asked_s(answer: Answer) -> float | None:
    """Seconds of Retry-After (RFC 9110 §10.2.3: seconds or a date); None without one that can be read."""
    value = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value):
        return float(value)
    return None if not value else seconds_until(value, answer)


def seconds_until(date: str, answer: Answer) -> float | None:
    """Seconds from the answer to an HTTP date, by the vendor's own clock where it tells it."""
    try:
        then = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        now = answer.at
    return max(0.0, then - now)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: it fits when every condition it states fits. The first row that fits decides.

    Attributes:
        why: for readers and test ids.
        status: pattern of the HTTP status, whole.
        code: pattern of the vendor's error code or name, whole, case ignored; such a row needs one.
        words: searched in the vendor's text, case ignored.
    """

    why: str
    means: Means
    status: str = ""
    code: str = ""
    words: str = ""

    def fits(self, status: int, code: str, text: str) -> bool:
        if self.status and not re.fullmatch(self.status, str(status)):
            return False
        if self.code and not (code and re.fullmatch(self.code, code, re.IGNORECASE)):
            return False
        return not self.words or re.search(self.words, text, re.IGNORECASE) is not None


COMMON: tuple[Rule, ...] = (
    Rule("a redirect: the base URL is not the vendor's", Means.ACCOUNT, status="3.."),
    Rule("key refused", Means.ACCOUNT, status="401|403|407"),
    Rule("out of credit", Means.QUOTA, status="402"),
    Rule("no such place: base URL, region or path is wrong", Means.ACCOUNT, status="404|405|410"),
    Rule("not taken, by definition of the status", Means.NODE, status="408|421|425"),
    Rule("too large", Means.SIZE, status="413"),
    Rule("too fast", Means.QUOTA, status="429"),
    Rule("refused for what it is", Means.MESSAGE, status="4.."),
    Rule("no service now, by definition of the status nothing was taken", Means.NODE, status="501|503|505"),
    Rule("no proof of anything", Means.UNCERTAIN),
)
"""What a status means where the vendor does not say otherwise (RFC 9110 §15)."""


def judge(rules: Sequence[Rule], answer: Answer, code: str, text: str) -> Means:
    """What the answer means, by the vendor's rows and then the common ones."""
    for rule in (*rules, *COMMON):
        if rule.fits(answer.status, code, text):
            if rule.means is Means.NODE and answer.status == 503 and asked_s(answer) is not None:
                return Means.QUOTA  # it knows when it will be well: patience, not a broken node
            return rule.means
    raise AssertionError("the last common row fits everything")


def judged(rules: Sequence[Rule], answer: Answer, code: str, text: str, *, wait_s: float | None = None) -> Outcome:
    """The outcome of an answer that is not the wished one."""
    return outcome(judge(rules, answer, code, text), answer, _labelled(code, text), wait_s=wait_s)


def _labelled(code: str, text: str) -> str:
    return f"{code}: {text}" if code and text and code not in text else text or code


def for_all(letter: Letter, verdict: Outcome) -> list[RecipientOutcome]:
    """The same outcome for every recipient of the call."""
    return [RecipientOutcome(address, verdict) for address in letter.recipients]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """Headers in which a vendor tells how much may still be sent. `reset`: seconds from now, or epoch seconds; which
    of them is told by the size of the number."""

    remaining: str
    reset: str

    def pause_s(self, answer: Answer) -> float:
        """How long nothing may be sent; 0 when something may, or when the headers are not there."""
        if not re.fullmatch(r"\s*0+\s*", answer.headers.get(self.remaining, "")):
            return 0.0
        value = answer.headers.get(self.reset, "").strip()
        if not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", value):
            return 0.0
        seconds = float(value)
        if seconds > 1_000_000_000:
            seconds -= answer.at
        return max(0.0, min(seconds, LONGEST_WAIT_S)) if math.isfinite(seconds) else 0.0


@dataclass(frozen=True, kw_only=True)  # no slots: with them `Api[Options](…)` cannot note its type argument
class Api(Generic[Of]):
    """A vendor: pure functions over its options.

    Attributes:
        build: raises CannotCarry.
        parse: one outcome for each recipient of the letter; never raises, whatever came back.
        probe, parse_probe: the harmless check of the credentials. DELIVERED means that the node is well.
        takes_apart: the message is built anew from its parts.
        seven_bit: content must be ASCII on this way (a JSON string).
        headers_decide: the vendor takes the recipients from the header section of the raw message.
        raw_as_shown: with `takes_apart`: a message whose header says what the envelope says is passed raw instead.
        gauges: rate headers.
        auth: `none` (the call has all it needs), `token` (OAuth2 access token as bearer) or `sigv4`.
        quota, parse_quota: how to ask for the account's limits, where the vendor tells them.
    """

    build: Callable[[Of, Letter], Call]
    parse: Callable[[Answer, Letter], list[RecipientOutcome]]
    probe: Callable[[Of], Call]
    parse_probe: Callable[[Answer], Outcome]
    takes_apart: bool = False
    calendar: bool = False
    seven_bit: bool = False
    headers_decide: bool = False
    raw_as_shown: bool = False
    gauges: tuple[Gauge, ...] = ()
    auth: str = "none"
    quota: Callable[[Of], Call] | None = None
    parse_quota: Callable[[Answer], tuple[Cap, ...] | None] | None = None


def well(answer: Answer, text: str) -> Outcome:
    """The outcome of a probe that went well."""
    return outcome(Means.SENT, answer, text)


def items(value: Any) -> list[Any]:
    """A list of an answer; empty when it is none."""
    return value if isinstance(value, list) else []


def encoded(octets: bytes) -> str:
    """Standard base64 in one line."""
    return b2a_base64(octets, newline=False).decode("ascii")


def as_json(value: Any, *headers: tuple[str, str], path: str, method: str = "POST") -> Call:
    """A call with a JSON body."""
    kind = (("Content-Type", "application/json"), ("Accept", "application/json"))
    return Call(path=path, method=method, headers=(*kind, *headers), body=(orjson.dumps(value),))
