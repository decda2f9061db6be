"""SMTP answers and transport faults to outcomes: the rules; the table is in `reply_rules`.

Decides status and scope of every negative, odd or missing answer of an SMTP upstream; what follows from an outcome is
`router.disposition`'s decision. Pure: no I/O, no clock.

Rules
  1. The basic code decides. An enhanced code of another class (`250 5.1.1`, `550 4.2.1`) is ignored (RFC 2034 §4).
  2. Only 2yz at the final dot is DELIVERED. A 3yz there is UNCERTAIN; an answer of the wrong class anywhere before is
     a protocol fault of the node.
  3. What is lost before the final dot was written is DEFERRED/NODE; after it, UNCERTAIN (RFC 1047).
  4. Otherwise the first row of the table that fits decides. A row whose status is None takes it from the code: 4yz
     DEFERRED, 5yz REFUSED. The last two rows fit everything.
  5. An upstream that says "slower" is never broken and never refuses: QUOTA is DEFERRED even on a 5yz.
  6. Words about a mailbox are about the recipient (X.1.*, X.2.*), whatever else they resemble: `4.2.2 over quota` is
     not our quota and `5.2.1 account disabled` is not our account.

Source: RFC 5321 §4.2, RFC 3463, RFC 4954 §6, RFC 5248.
"""

from __future__ import annotations

import re

from relay.outcome import Outcome, Scope, Status
from relay.upstreams.reply_rules import TABLE

TEXT_LIMIT = 500
"""Characters of an upstream's words that are kept (`Outcome.text`)."""

_LONGEST_WAIT_S = 86400.0
"""A wait an upstream asks for in its text is believed up to a day; more is a mistake of our reading or of theirs."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:[ \t:-]+|$)")
_WAIT = re.compile(r"\b(?:in|after|for|wait) (\d{1,6}) ?(s|m|h)(?:ec\w*|in\w*|our\w*)?\b", re.IGNORECASE)
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_QUEUE_ID = re.compile(
    r"queued (?:mail |message )?(?:for delivery )?as:? <?([\w.@+-]{4,120})"
    r"|\bid=<?([\w.@+-]{4,120})"
    r"|^ok:?(?: queued)? <?([\w.@+-]*\d[\w.@+-]{7,120})>?$",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """`text` as one printable line of at most `TEXT_LIMIT` characters."""
    if not (text.isascii() and text.isprintable()):
        text = _UNPRINTABLE.sub(" ", text)
    return text.strip()[:TEXT_LIMIT]


def split_enhanced(code: int, text: str) -> tuple[str, str]:
    """Enhanced code and remaining text of a reply's lines (joined by LF).

    The enhanced code is empty when there is none or when its class contradicts `code`. The code is taken off every
    line that repeats it.
    """
    match = _ENHANCED.match(text)
    if match is None:
        return "", clean(text)
    enhanced = match[1]
    if "\n" in text:
        text = " ".join(line.removeprefix(enhanced).lstrip(" \t") for line in text.split("\n"))
    else:
        text = text[match.end() :]
    return (enhanced if enhanced[0] == str(code)[0] else ""), clean(text)


def delivered(code: int, text: str) -> Outcome:
    """The outcome of a 2yz at the final dot. `text`: the reply's lines, joined by LF."""
    enhanced, text = split_enhanced(code, text)
    found = _QUEUE_ID.search(text)
    vendor_id = next((group for group in found.groups() if group), "") if found else ""
    return Outcome(
        status=Status.DELIVERED,
        scope=Scope.RECIPIENT,
        code=code,
        enhanced=enhanced,
        text=text,
        phase="dot",
        vendor_id=vendor_id,
    )


def classify(phase: str, code: int, enhanced: str, text: str, *, attempted: bool = True) -> Outcome:
    """The outcome of an answer that is not the wished one of its phase.

    Args:
        phase: as in `Outcome.phase`.
        enhanced: as `split_enhanced` gives it; one that contradicts `code` is ignored.
        text: as `split_enhanced` gives it.
    """
    text = clean(text)
    if enhanced[:1] != str(code)[:1]:
        enhanced = ""
    if not 400 <= code <= 599:
        return _odd(phase, code, enhanced, text, attempted)
    digits = str(code)
    rule = next(row.rule for row in TABLE if row.fits(phase, digits, enhanced, text))
    status = rule.status or (Status.DEFERRED if code < 500 else Status.REFUSED)
    retry_after_s = asked_wait(text)
    if rule.scope is Scope.RECIPIENT and rule.status is not None:  # the rows on too many recipients
        enhanced, retry_after_s = "4.5.3", 0.0
    return Outcome(
        status=status,
        scope=rule.scope,
        code=code,
        enhanced=enhanced,
        text=text,
        phase=phase,
        retry_after_s=retry_after_s,
        attempted=attempted,
    )


def _odd(phase: str, code: int, enhanced: str, text: str, attempted: bool) -> Outcome:
    """An answer of class 1, 2 or 3 where another was due."""
    if phase == "dot":
        if 200 <= code <= 299:
            return delivered(code, f"{enhanced} {text}" if enhanced else text)
        return Outcome(
            status=Status.UNCERTAIN, scope=Scope.MESSAGE, code=code, enhanced=enhanced, text=text, phase=phase
        )
    return Outcome(
        status=Status.DEFERRED,
        scope=Scope.NODE,
        code=code,
        enhanced=enhanced,
        text=clean(f"unexpected reply: {text}"),
        phase=phase,
        attempted=attempted,
    )


def fault(phase: str, detail: str, *, attempted: bool = True) -> Outcome:
    """The outcome of a connection that failed without an answer.

    Args:
        phase: `dot` says that the final dot was written: the upstream may have taken the message.
        detail: our own words or the operating system's.
    """
    if phase == "dot":
        return Outcome(status=Status.UNCERTAIN, scope=Scope.MESSAGE, text=clean(detail), phase=phase)
    return Outcome(status=Status.DEFERRED, scope=Scope.NODE, text=clean(detail), phase=phase, attempted=attempted)


def asked_wait(text: str) -> float | None:
    """Seconds the text asks us to wait (`try again in 5 minutes`), at most a day; None when it does not say."""
    match = _WAIT.search(text)
    return None if match is None else min(int(match[1]) * _UNIT_S[match[2].lower()], _LONGEST_WAIT_S)
