"""The table behind `replies`: which words and codes of an SMTP upstream mean what.

Order matters: the first row that fits decides, special ones stand before general ones, and the last two fit everything.
Texts in the tests are ones that servers are known to send; a row without one of them has no business here. Pure.

Source: RFC 5321 §4.2, RFC 3463, RFC 4954 §6, RFC 5248.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from relay.outcome import Scope, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row: it fits when every condition it states fits. A condition left out fits everything.

    Attributes:
        why: what the row is about, for readers and for test ids.
        status: None takes it from the class of the code.
        phases: names of phases, blank separated.
        codes: pattern of the basic code, whole.
        enhanced: pattern of the enhanced code, whole; such a row needs one.
        words, unless: searched in the text, case ignored.
        not_enhanced: pattern of enhanced codes that the row leaves to others.
    """

    why: str
    status: Status | None
    scope: Scope
    phases: str = ""
    codes: str = ""
    enhanced: str = ""
    words: str = ""
    unless: str = ""
    not_enhanced: str = ""


_RELAY_DENIED = (
    r"relay(ing)? (access )?(is )?(denied|prohibited|disallowed|not (permitted|allowed))|unable to relay"
    r"|not (permitted|allowed|authori[sz]ed) to relay|(do(es)? not|cannot|can't|won't) relay|relay not permitted"
)
_NOT_LOGGED_IN = r"authentication (is )?required|requires? authentication|(must|please) authenticate|auth\w* first"
_HOST_LISTED = (
    r"(client host|client|your (ip|host|server|address)|(this|sending) ip|ip address)\b.{0,80}"
    r"\b(block(ed|list\w*)?|black ?list\w*|listed|banned|rejected|denied)"
)
_SHUT = (
    r"(suspended|disabled|deactivated|blocked|locked|terminated|restricted|frozen|closed|inactive|not active|expired"
    r"|on hold|paused|revoked)"
)
_OUR_ACCOUNT_SHUT = (
    r"\b(your|sending|sender'?s?) (email |smtp |mail )?(account|access|user|domain|subscription|service)\b"
    rf".{{0,60}}\b{_SHUT}|\bsending\b.{{0,40}}\b(suspended|disabled|paused|blocked)\b"
    r"|bad outbound sender|outbound (spam|sender) (block|limit)"
)
_ACCOUNT_SHUT = rf"{_OUR_ACCOUNT_SHUT}|\b(account|credentials?|api key|subscription|tenant|login)\b.{{0,60}}\b{_SHUT}\b"
_SLOWER = (
    r"throttl|rate[ -]?limit|\brate\b.{0,40}\b(exceed|limit|too high)|(unusual|exceed\w*|sending|connection) rate\b"
    r"|\btoo (many|much|fast|quickly)\b|slow down"
    r"|\b(limit|quota)s?\b.{0,20}\b(exceeded|reached|hit)\b|\b(exceed\w*|reached|over)\b.{0,40}\b(limit|quota)\b"
    r"|\b(daily|hourly|monthly|per[ -](second|minute|hour|day))\b.{0,40}\b(limit|quota|cap)\b"
)
_OTHER_LIMITS = (
    r"too many (hops|recipients? (for|in|per)|errors|bad|invalid|received|unrecogni|syntax|junk)|loop|grey"
    r"|(message|mail|header|line|file|size|length|attachment)( size| length)? (limit|exceed|too (big|large))"
    r"|\bsize\b|mailbox|mail box|inbox|receiving mail|recipient'?s? (is )?over|too (much|many) (spam|score)"
)
_MAILBOX = r"[45]\.[12]\.\d+|[45]\.3\.4|[45]\.6\.\d+"

_OPENING = "connect tls greeting ehlo"

RULES: tuple[Rule, ...] = (
    Rule(
        why="no more recipients in this transaction (RFC 5321 4.5.3.1.10; 552 is its older form)",
        status=Status.DEFERRED,
        scope=Scope.RECIPIENT,
        phases="rcpt",
        codes="45[0-2]|55[02]",
        enhanced=r"[45]\.5\.3",
        unless=r"hour|day|minute|rate",
    ),
    Rule(
        why="no more recipients in this transaction, said in words",
        status=Status.DEFERRED,
        scope=Scope.RECIPIENT,
        phases="rcpt",
        codes="45[0-2]|55[02]",
        words=r"too many recipients",
        unless=r"hour|day|minute|rate",
    ),
    Rule(
        why="not logged in, or the login is refused (RFC 4954 6)",
        status=Status.REFUSED,
        scope=Scope.ACCOUNT,
        phases="greeting ehlo auth mail rcpt data dot",
        codes="432|53[0458]",
    ),
    Rule(
        why="login needed, under another code",
        status=Status.REFUSED,
        scope=Scope.ACCOUNT,
        phases="mail rcpt data",
        codes="503|55[0-9]",
        words=_NOT_LOGGED_IN,
        not_enhanced=r"5\.7\.2\d",
    ),
    Rule(
        why="the node may not relay here: no fault of the recipient",
        status=Status.REFUSED,
        scope=Scope.ACCOUNT,
        phases="mail rcpt",
        codes="5..",
        words=_RELAY_DENIED,
    ),
    Rule(
        why="the node may not relay here, for now",
        status=Status.DEFERRED,
        scope=Scope.NODE,
        phases="mail rcpt",
        codes="4..",
        words=_RELAY_DENIED,
    ),
    Rule(
        why="the address of the node is listed or banned",
        status=Status.REFUSED,
        scope=Scope.ACCOUNT,
        phases="greeting ehlo mail rcpt",
        codes="5..",
        words=_HOST_LISTED,
    ),
    Rule(
        why="the node's own account is shut",
        status=Status.REFUSED,
        scope=Scope.ACCOUNT,
        phases="rcpt",
        codes="5..",
        words=_OUR_ACCOUNT_SHUT,
        not_enhanced=r"5\.1\.[1-7]|5\.2\.\d+",
    ),
    Rule(
        why="the account is shut; before RCPT and at the dot only the node's own can be meant",
        status=Status.REFUSED,
        scope=Scope.ACCOUNT,
        phases="greeting ehlo auth mail data dot",
        codes="5..",
        words=_ACCOUNT_SHUT,
        not_enhanced=r"5\.1\.[1-7]|5\.2\.\d+",
    ),
    Rule(
        why="the account is shut for a while",
        status=Status.DEFERRED,
        scope=Scope.QUOTA,
        phases="greeting ehlo auth mail data dot",
        codes="4..",
        words=_ACCOUNT_SHUT,
        not_enhanced=r"4\.[12]\.\d+",
    ),
    Rule(
        why="login attempts throttled",
        status=Status.DEFERRED,
        scope=Scope.QUOTA,
        phases="auth",
        codes="4..",
        words=_SLOWER,
    ),
    Rule(
        why="rate limited, by enhanced code (Gmail 7.28, Microsoft 7.650 to 7.659)",
        status=Status.DEFERRED,
        scope=Scope.QUOTA,
        codes="4..|55[0-4]",
        enhanced=r"[45]\.7\.(28|65\d)",
    ),
    Rule(
        why="held off without a reason (Gmail, Yahoo)",
        status=Status.DEFERRED,
        scope=Scope.QUOTA,
        phases="greeting ehlo mail rcpt data dot",
        codes="421|45[0-2]",
        enhanced=r"4\.7\.0",
        words=r"try again|try later|temporarily deferred|unusual|volume|\brate\b|complaints",
        unless=r"grey|\btls\b|auth|\bspf\b|\bdkim\b|\bdns\b",
    ),
    Rule(
        why="too much mail from the node",
        status=Status.DEFERRED,
        scope=Scope.QUOTA,
        phases="connect greeting ehlo mail rcpt data body dot",
        codes="421|45[0-4]|55[0-4]",
        words=_SLOWER,
        unless=rf"{_OTHER_LIMITS}|over ?quota",
        not_enhanced=_MAILBOX,
    ),
    Rule(
        why="over quota before any recipient was named: our own quota",
        status=Status.DEFERRED,
        scope=Scope.QUOTA,
        phases="greeting ehlo mail",
        codes="4..|55[0-4]",
        words=r"over ?quota",
        unless=_OTHER_LIMITS,
        not_enhanced=_MAILBOX,
    ),
    Rule(
        why="the upstream's system is full or busy: it asks for patience and is otherwise well",
        status=Status.DEFERRED,
        scope=Scope.QUOTA,
        phases="mail rcpt data body dot",
        codes="45.",
        enhanced=r"4\.3\.[12]",
    ),
    Rule(
        why="service not available, closing (RFC 5321 3.8)",
        status=Status.DEFERRED,
        scope=Scope.NODE,
        codes="421",
    ),
    Rule(
        why="command unknown or out of order: the dialogue is broken, not the message",
        status=Status.DEFERRED,
        scope=Scope.NODE,
        phases="mail rcpt data",
        codes="50[023]",
    ),
    Rule(
        why="no dialogue yet: whatever is said, the node cannot be used now",
        status=Status.DEFERRED,
        scope=Scope.NODE,
        phases=_OPENING,
    ),
    Rule(
        why="login not possible for now",
        status=Status.DEFERRED,
        scope=Scope.NODE,
        phases="auth",
        codes="4..",
    ),
    Rule(
        why="login refused in any other way",
        status=Status.REFUSED,
        scope=Scope.ACCOUNT,
        phases="auth",
    ),
    Rule(why="this recipient", status=None, scope=Scope.RECIPIENT, phases="rcpt"),
    Rule(why="this message", status=None, scope=Scope.MESSAGE),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A rule with its patterns compiled."""

    rule: Rule
    phases: frozenset[str]
    codes: re.Pattern[str]
    enhanced: re.Pattern[str] | None
    not_enhanced: re.Pattern[str] | None
    words: re.Pattern[str] | None
    unless: re.Pattern[str] | None

    def fits(self, phase: str, code: str, enhanced: str, text: str) -> bool:
        """True when every condition of the rule fits. `code`: its three digits."""
        if self.phases and phase not in self.phases:
            return False
        if not self.codes.fullmatch(code):
            return False
        if self.enhanced is not None and not self.enhanced.fullmatch(enhanced):
            return False
        if self.not_enhanced is not None and self.not_enhanced.fullmatch(enhanced):
            return False
        if self.words is not None and not self.words.search(text):
            return False
        return self.unless is None or not self.unless.search(text)


def _compile(rule: Rule) -> Row:
    def pattern(source: str) -> re.Pattern[str] | None:
        return re.compile(source, re.IGNORECASE) if source else None

    return Row(
        rule,
        frozenset(rule.phases.split()),
        re.compile(rule.codes or "..."),
        pattern(rule.enhanced),
        pattern(rule.not_enhanced),
        pattern(rule.words),
        pattern(rule.unless),
    )


TABLE = tuple(_compile(rule) for rule in RULES)
