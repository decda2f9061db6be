"""Field types of the configuration beyond `relay.fields`: names, networks, sender patterns, headers, caps."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from relay.domains import a_labels
from relay.fields import Count, Flag, HeaderName, HeaderValue, Interpolated, Options
from relay.redisdb.address import is_shared
from relay.redisdb.address import parse as parse_shared
from relay.units import Size

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_LOCAL_PART = re.compile(r"[^\s@\x00-\x20\x7f\"(),:;<>\[\\\]]{1,64}")
_DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LOCAL_STORE = re.compile(r"sqlite:[^\0?#]+|memory:")

RESERVED_HEADERS = frozenset(
    {"from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "in-reply-to", "references"}
    | {"received", "return-path", "resent-from", "resent-sender", "resent-to", "resent-date", "mime-version"}
    | {"dkim-signature", "arc-seal", "arc-message-signature", "arc-authentication-results", "authentication-results"}
    | {"x-virtual-mta", "x-feedtype", "x-zone", "x-serverid"}
)
"""Headers that are the message's own, or that the relay itself stamps; configuring one would double or break it."""


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("not a name: small letters, digits, `_`, `.` and `-`, at most 63, first a letter or digit")
    return text


def _network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    if not isinstance(value, str):
        raise ValueError("not a network; write for example 192.0.2.0/24 or 2001:db8::/32")  # noqa: TRY004
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        near = ip_network(value, strict=False)
    except ValueError:
        raise ValueError("not a network; write for example 192.0.2.0/24 or 2001:db8::/32") from None
    raise ValueError(f"the address has bits beyond the prefix; write {near}, or the address with /{near.max_prefixlen}")


def _sender(text: str) -> str:
    local, at, domain = text.rpartition("@")
    domain = domain.lower()
    bare = domain.removeprefix(".") if not local else domain
    if not domain.isascii():
        try:
            bare = a_labels(bare)
            domain = ("." if domain.startswith(".") else "") + bare
        except UnicodeError:
            bare = ""
    if not at or not _DOMAIN.fullmatch(bare) or (local and not _LOCAL_PART.fullmatch(local)):
        raise ValueError("not a sender pattern; write user@acme.example, @acme.example, or @.acme.example (subdomains)")
    return f"{local.lower()}@{domain}"


def _custom_header(name: str) -> str:
    if name.lower() in RESERVED_HEADERS or name.lower().startswith("content-"):
        raise ValueError(f"header {name} belongs to the message or to the relay and cannot be configured")
    return name


def _ascii(value: str) -> str:
    if not value.isascii():
        raise ValueError("a header value must be ASCII; write other text as an RFC 2047 encoded word")
    return value


def _headers(headers: dict[str, str]) -> dict[str, str]:
    seen: set[str] = set()
    for name in headers:
        if name.lower() in seen:
            raise ValueError(f"header {name} is given twice (header names ignore case)")
        seen.add(name.lower())
    return headers


class Address(NamedTuple):
    """Where a listener waits. `host` is an IP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _bind(value: object) -> Address:
    if isinstance(value, Address):
        return value
    hint = "write address and port, for example 127.0.0.1:2525 or [::1]:2525"
    if not isinstance(value, str):
        raise ValueError(f"not a place to listen at; {hint}")  # noqa: TRY004 - pydantic reports ValueError
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch(r"[0-9]{1,9}", port) or (":" in host and not bracketed):
        raise ValueError(f"not a place to listen at; {hint}")
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"not an IP address; {hint}, 0.0.0.0 or [::] for every interface") from None
    if int(port) > 65535:
        raise ValueError("a port is at most 65535")
    if port.strip("0") == "" and not address.is_loopback:
        raise ValueError("port 0 (the kernel chooses) is for trying out on a loopback address only")
    return Address(str(address), int(port))


def _store_url(text: str) -> str:
    if is_shared(text):
        parse_shared(text)
    elif not _LOCAL_STORE.fullmatch(text):
        raise ValueError("not a store; write sqlite:FOLDER, redis://HOST:PORT/N, rediss://… or memory: (loses mail)")
    return text


def _cap(value: object) -> object:
    return {"limit": value} if isinstance(value, (int, Interpolated)) else value


class CapRule(Options):
    """Recipients in one window."""

    limit: Count
    """Most recipients in the window."""
    spread: Flag = False
    """Hand them out evenly over the window instead of letting them go in its first moment."""


Cap = Annotated[CapRule, BeforeValidator(_cap, json_schema_input_type=CapRule | Count)]


class Caps(Options):
    """Recipients in rolling windows; all that are given hold at once."""

    second: Cap | None = None
    """In any second."""
    minute: Cap | None = None
    """In any minute."""
    hour: Cap | None = None
    """In any hour."""
    day: Cap | None = None
    """In any 24 hours."""


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["192.0.2.0/24", "2001:db8::/32"]}),
]
Sender = Annotated[str, StringConstraints(max_length=254), AfterValidator(_sender)]
Headers = Annotated[
    dict[Annotated[HeaderName, AfterValidator(_custom_header)], Annotated[HeaderValue, AfterValidator(_ascii)]],
    AfterValidator(_headers),
]
Bind = Annotated[
    Address, BeforeValidator(_bind), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:2525", "[::1]:2525"]})
]
StoreUrl = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_store_url)]
MessageSize = Annotated[Size, Field(ge=1024, le=1024**3)]
"""From 1 kB (no real message fits in less) to 1 GB (no server takes more)."""
ByteCount = Annotated[Size, Field(ge=0, le=2**50)]
"""0 says: without bound."""
