"""Is the public half of a key where verifiers look for it, and is it the right one (RFC 6376 §3.6.2)?"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import StrEnum

import dns.asyncresolver
import dns.exception
import dns.resolver

from relay.signing.keys import SigningKey, ascii_domain


class Standing(StrEnum):
    MATCH = "match"
    MISSING = "missing"  # no such name, or no TXT at it
    MISMATCH = "mismatch"  # another key
    REVOKED = "revoked"  # p= is empty
    MALFORMED = "malformed"  # not a key record a verifier reads
    SEVERAL = "several"  # more than one record: verifiers pick any
    UNKNOWN = "unknown"  # DNS did not answer; ask again later


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found. `detail`: one sentence an operator can act on; `found`: the record as DNS gave it."""

    standing: Standing
    name: str
    detail: str
    found: str = ""
    testing: bool = False

    @property
    def ok(self) -> bool:
        return self.standing is Standing.MATCH


async def check(
    domain: str, selector: str, key: SigningKey, resolver: dns.asyncresolver.Resolver, *, timeout_s: float = 10.0
) -> Verdict:
    """Look the record up and compare it with `key`. Never raises on what DNS says."""
    name = f"{selector}._domainkey.{ascii_domain(domain) or domain}"
    try:
        answer = await resolver.resolve(name, "TXT", lifetime=timeout_s)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return Verdict(standing=Standing.MISSING, name=name, detail="no TXT record; publish the one of this key")
    except dns.exception.DNSException as error:
        detail = f"DNS did not answer ({type(error).__name__}); nothing is known"
        return Verdict(standing=Standing.UNKNOWN, name=name, detail=detail)
    texts = [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
    if len(texts) > 1:
        detail = f"{len(texts)} TXT records; verifiers pick any of them, leave one"
        return Verdict(standing=Standing.SEVERAL, name=name, detail=detail, found=" | ".join(texts))
    return judge(name, texts[0], key)


def judge(name: str, record: str, key: SigningKey) -> Verdict:
    """Compare one key record with a key. Pure."""
    tags = parse_tags(record)

    def verdict(standing: Standing, detail: str) -> Verdict:
        testing = "y" in (tags or {}).get("t", "").split(":")
        return Verdict(standing=standing, name=name, detail=detail, found=record, testing=testing)

    if tags is None or "p" not in tags:
        return verdict(Standing.MALFORMED, "not a DKIM key record: tags such as k= and p= are expected")
    if tags.get("v", "DKIM1") != "DKIM1":
        return verdict(Standing.MALFORMED, f"v={tags['v']} is not DKIM1; verifiers ignore the record")
    if not tags["p"]:
        return verdict(Standing.REVOKED, "p= is empty: the key is revoked")
    kind = tags.get("k", "rsa")
    if kind != key.kind:
        return verdict(Standing.MISMATCH, f"the record holds a key of kind {kind}, ours is {key.kind}")
    hashes = tags.get("h")
    if hashes is not None and "sha256" not in hashes.split(":"):
        return verdict(Standing.MALFORMED, f"h={hashes} forbids sha256, which signatures here use")
    services = tags.get("s", "*").split(":")
    if "*" not in services and "email" not in services:
        return verdict(Standing.MALFORMED, f"s={tags['s']} does not allow email")
    try:
        public = base64.b64decode(tags["p"], validate=True)
    except (binascii.Error, ValueError):
        return verdict(Standing.MALFORMED, "p= is not base64; a long value may have been pasted with quotes or cut")
    if public != key.public:
        return verdict(Standing.MISMATCH, "the record holds another key than the file")
    testing = "y" in tags.get("t", "").split(":")
    return verdict(
        Standing.MATCH, "the record is testing (t=y): verifiers may ignore failures" if testing else "in order"
    )


def parse_tags(record: str) -> dict[str, str] | None:
    """Tag-list of RFC 6376 §3.2 with all blanks removed from values; None when it is not one or repeats a tag."""
    tags: dict[str, str] = {}
    for part in record.strip().removesuffix(";").split(";"):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not name or name in tags:
            return None
        tags[name] = "".join(value.split())
    return tags
