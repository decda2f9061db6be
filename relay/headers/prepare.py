"""Header work done once, when a message is accepted, and kept with it.

In: the client's header section. Out: the section that is stored, and what it told. Added: one Received field, Date and
Message-ID where missing. Removed: fields that speak for this relay or must not leave it. All other octets stay.

A client's DKIM signature outlives this, with one exception that is reported: a removed field that the signature
lists. A Date or Message-ID that the signature guards against being added is not added.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from relay.envelope import Facts, Lane
from relay.headers.addresses import domain_of, parse_mailboxes
from relay.headers.fields import Field, walk
from relay.headers.signatures import covered_names
from relay.headers.trace import Trace, received
from relay.headers.words import mail_date, readable
from relay.pools.pool import Rotation
from relay.values import thawed

STAMPED = (b"x-virtual-mta", b"x-feedtype", b"x-zone", b"x-serverid")
"""Fields only this relay may set: what a client sends under these names is removed."""

CONTROLS = (b"x-relay-campaign", b"x-relay-rotation", b"x-relay-lane", b"x-relay-idempotency-key")
"""Fields a client steers us with: read, then removed."""

_REMOVED = frozenset({*STAMPED, *CONTROLS, b"bcc", b"resent-bcc", b"return-path"})
_SINGLE = (b"from", b"sender", b"reply-to", b"to", b"cc", b"date", b"subject", b"message-id", b"content-type",
           b"content-transfer-encoding", b"mime-version")  # fmt: skip
"""RFC 5322 §3.6 and RFC 2045 allow each at most once; two readers pick different ones when there are more."""
_NOTED = _REMOVED | frozenset({*_SINGLE, b"received", b"dkim-signature", b"authentication-results"})

_Choice = TypeVar("_Choice", Rotation, Lane)

_GUARD = b"X-Relay-Malformed:\r\n"
"""Goes before a section whose first line begins with a blank: that line would else continue a field of ours."""

_CAMPAIGN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(rb"[!-~]{1,128}")
_MESSAGE_ID = re.compile(rb"<[^<>\x00-\x20\x7f]{1,980}>")


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The stored header section and what was learnt on the way.

    Attributes:
        head: header fields, each ended by CRLF.
        from_addresses: every mailbox of every From field; empty when one could not be read without doubt.
        from_address: the only mailbox of the only From field (not from a group), else empty: ambiguous or absent.
        from_domain: its domain, lower case.
        has_from: a From field exists.
        message_id: present or added, with brackets; empty when the field is there but holds none, or when the
            client's signature forbids adding one.
        subject: for display, at most 200 characters.
        signed: the client's own DKIM-Signature is there.
        campaign, rotation, lane, idempotency_key: what the client's control fields ask for, validated; empty or None
            otherwise. Whether the bridge may choose is the caller's decision.
        removed: lower-case names of removed fields, one entry for each field.
        unsigned_by_removal: those of `removed` that the client's signature lists: it will not verify any more.
        repeated: lower-case names that may occur once and occur more often.
        hops: Received fields the client's message had; own_hops: those of them written by this hostname.
        fields: number of fields, malformed lines included; malformed: how many of them are such lines.
        eight_bit: the stored head has octets above 0x7f.
    """

    head: bytes
    from_addresses: tuple[str, ...]
    from_address: str
    from_domain: str
    has_from: bool
    message_id: str
    subject: str
    signed: bool
    campaign: str
    rotation: Rotation | None
    lane: Lane | None
    idempotency_key: str
    removed: tuple[str, ...]
    unsigned_by_removal: tuple[str, ...]
    repeated: tuple[str, ...]
    hops: int
    own_hops: int
    fields: int
    malformed: int
    eight_bit: bool

    def facts(self, *, eight_bit: bool = False, long_lines: bool = False, smtputf8: bool = False) -> Facts:
        """The facts to keep with the message; the arguments are what the listener saw."""
        return Facts(
            eight_bit=eight_bit or self.eight_bit,
            long_lines=long_lines,
            signed=self.signed,
            smtputf8=smtputf8,
            from_domain=self.from_domain,
            message_id=self.message_id,
            subject=self.subject,
        )


def prepare(head: bytes, *, trace: Trace, now: float, new_message_id: Callable[[], str]) -> Prepared:
    """Edit the header section of a new message and read what the relay needs of it. Never fails on any octets.

    Args:
        head: the client's header section; CRLF lines, without the blank line.
        now: epoch seconds of acceptance.
        new_message_id: gives `<unique@hostname>`, with brackets; called only when one is missing.
    """
    if head and not head.endswith(b"\r\n"):
        head += b"\r\n"
    fields = walk(head)
    noted: dict[bytes, list[Field]] = {}
    removing = False
    for field in fields:
        name = field.name
        if name in _NOTED:
            noted.setdefault(name, []).append(field)
            removing = removing or name in _REMOVED
    hostname = trace.hostname.lower().encode("ascii", "replace")
    foreign = [f for f in noted.get(b"authentication-results", ()) if not _is_verdict_of(f, hostname)]
    own_verdicts = len(noted.get(b"authentication-results", ())) - len(foreign)
    removed: list[bytes] = []
    if removing or own_verdicts:
        kept = []
        for field in fields:
            if field.name in _REMOVED or (own_verdicts and _is_verdict_of(field, hostname)):
                removed.append(field.name)
            else:
                kept.append(field.raw)
        head = b"".join(kept)

    signatures = noted.get(b"dkim-signature", [])
    covered = covered_names(signatures) if signatures else frozenset()
    added = [received(trace, now)]
    if b"date" not in noted and b"date" not in covered:
        added.append(b"Date: " + mail_date(now) + b"\r\n")
    message_id = ""
    if ids := noted.get(b"message-id"):
        found = _MESSAGE_ID.search(ids[0].text)
        message_id = found[0].decode("utf-8", "replace") if found else ""
    elif b"message-id" not in covered:
        message_id = new_message_id()
        added.append(b"Message-ID: " + message_id.encode("ascii") + b"\r\n")
    if head[:1] in (b" ", b"\t"):
        added.append(_GUARD)
    added.append(head)
    head = b"".join(added)

    addresses, single = from_mailboxes(noted.get(b"from", []))
    subject = noted.get(b"subject")
    hops = noted.get(b"received", [])
    own_hop = _own_hop(hostname)
    return Prepared(
        head=head,
        from_addresses=addresses,
        from_address=single,
        from_domain=domain_of(single),
        has_from=b"from" in noted,
        message_id=message_id,
        subject=readable(subject[0].text) if subject else "",
        signed=bool(signatures),
        campaign=_control(noted, b"x-relay-campaign", _CAMPAIGN),
        rotation=_choice(Rotation, noted, b"x-relay-rotation"),
        lane=_choice(Lane, noted, b"x-relay-lane"),
        idempotency_key=_control(noted, b"x-relay-idempotency-key", _KEY),
        removed=tuple(name.decode("ascii") for name in removed),
        unsigned_by_removal=tuple(name.decode("ascii") for name in removed if name in covered),
        repeated=tuple(name.decode("ascii") for name in _SINGLE if len(noted.get(name, ())) > 1),
        hops=len(hops),
        own_hops=sum(own_hop.search(field.raw) is not None for field in hops),
        fields=len(fields),
        malformed=sum(not field.name for field in fields),
        eight_bit=not head.isascii(),
    )


def from_mailboxes(fields: list[Field]) -> tuple[tuple[str, ...], str]:
    """All mailboxes of the From fields, and the only one when there is exactly one beyond doubt (else empty)."""
    addresses: list[str] = []
    grouped = False
    for field in fields:
        mailboxes = parse_mailboxes(field.value)
        if mailboxes is None:
            return (), ""
        addresses += mailboxes.addresses
        grouped = grouped or mailboxes.grouped
    single = addresses[0] if len(fields) == 1 and len(addresses) == 1 and not grouped else ""
    return tuple(addresses), single


def from_domain(head: bytes) -> str:
    """Domain of the single From mailbox of a header section, lower case; empty when absent or ambiguous."""
    return domain_of(from_mailboxes([field for field in walk(head) if field.name == b"from"])[1])


def _control(noted: dict[bytes, list[Field]], name: bytes, pattern: re.Pattern[bytes]) -> str:
    """The value of the first field of this name that is valid; empty when none is."""
    for field in noted.get(name, ()):
        if pattern.fullmatch(field.text):
            return field.text.decode("ascii")
    return ""


def _choice(kind: type[_Choice], noted: dict[bytes, list[Field]], name: bytes) -> _Choice | None:
    for field in noted.get(name, ()):
        try:
            return kind(field.text.decode("ascii", "replace").lower())
        except ValueError:
            continue
    return None


def _is_verdict_of(field: Field, hostname: bytes) -> bool:
    """An Authentication-Results field that claims to be ours (RFC 8601 §5)."""
    if field.name != b"authentication-results":
        return False
    return field.text.partition(b";")[0].strip(b" \t").partition(b" ")[0].lower() == hostname


@lru_cache(maxsize=16)
def _own_hop(hostname: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"[ \t]by\s+" + re.escape(hostname) + rb"(?![A-Za-z0-9.-])", re.IGNORECASE)
