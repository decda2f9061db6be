"""Where a shared store is: the URL forms of `store:`, as plain values. Pure.

::

    redis://[user:password@]host[:port][/db][?options]          one server
    rediss://…                                                  the same over TLS
    unix://[user:password@]/path/to/socket[?db=1&options]       one server on this machine
    redis+sentinel://[user:password@]host:port,…/service[/db]   the master that these sentinels name (rediss+sentinel)
    redis+cluster://[user:password@]host:port,…                 the cluster these nodes belong to (rediss+cluster)

Errors never repeat the URL: it may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from relay.units import parse_duration

SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")

PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
_HOST = re.compile(r"\[([0-9A-Fa-f:.%a-z]+)\]|([A-Za-z0-9_.-]{1,253})")
_URL = re.compile(r"([a-z+]+)://(.*)", re.DOTALL)


class Form(StrEnum):
    """What kind of place it is."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A shared store.

    Attributes:
        hosts: (host, port), several for sentinels and cluster nodes; empty with `socket`.
        service: name of the master that the sentinels watch.
        name: what all keys of this relay begin with; relays that share a server and a name are replicas of one.
        timeout_s: for connecting and for each answer.
        protocol: RESP version, 2 or 3.
        lease_s: how long a replica of a shared spool may be silent before others take its messages over.
        min_replicas: copies that must have a write before it counts (WAIT); 0 = the server alone.
    """

    form: Form = Form.SINGLE
    hosts: tuple[tuple[str, int], ...] = ()
    socket: str = ""
    username: str = ""
    password: str = ""
    db: int = 0
    service: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    sentinel_user: str = ""
    sentinel_password: str = ""
    name: str = "relay"
    timeout_s: float = 1.0
    protocol: int = 2
    lease_s: float = 30.0
    min_replicas: int = 0

    def __repr__(self) -> str:
        return f"Address({self})"

    def __str__(self) -> str:
        """For logs and errors: without passwords."""
        scheme = ("rediss" if self.tls else "redis") + ("" if self.form is Form.SINGLE else f"+{self.form}")
        if self.socket:
            return f"unix://{self.socket}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}://{hosts}" + (f"/{self.service}" if self.service else "")


def is_shared(url: str) -> bool:
    """Whether a store's URL is one of ours."""
    return url.partition(":")[0] in SCHEMES


def parse(url: str) -> Address:
    """The address a URL means.

    Raises:
        ValueError: with what is wrong, without the URL.
    """
    match = _URL.fullmatch(url.strip())
    if match is None or match[1] not in SCHEMES:
        raise ValueError(f"not the URL of a shared store; it begins with one of {', '.join(SCHEMES)}")
    scheme, rest = match[1], match[2]
    rest, _, query = rest.partition("?")
    options = _options(query)
    credentials, at, place = rest.rpartition("@")
    user, _, password = credentials.partition(":") if at else ("", "", "")
    fields: dict[str, Any] = {"username": unquote(user), "password": unquote(password)} | options
    if scheme == "unix":
        if not place.startswith("/") or place.endswith("/"):
            raise ValueError("a unix:// URL needs the absolute path of a socket, as in unix:///run/redis/redis.sock")
        return Address(socket=unquote(place), **fields)
    if "db" in options:
        raise ValueError("the option db is for unix:// URLs; elsewhere write the database behind a slash")
    base, _, form = scheme.partition("+")
    fields["tls"] = base == "rediss"
    fields["form"] = Form(form) if form else Form.SINGLE
    hosts, _, path = place.partition("/")
    parts = [unquote(part) for part in path.split("/") if part]
    fields["hosts"] = _hosts(hosts, SENTINEL_PORT if form == "sentinel" else PORT)
    if form == "sentinel":
        if not parts:
            raise ValueError("a sentinel URL needs the name of the master, as in redis+sentinel://host:26379/mymaster")
        fields["service"] = parts.pop(0)
    elif not form and len(fields["hosts"]) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    if parts:
        fields["db"] = _database(parts.pop(0))
    if parts:
        raise ValueError("too many parts behind the host")
    address = Address(**fields)
    _check(address)
    return address


def _check(address: Address) -> None:
    if address.form is Form.CLUSTER and address.db:
        raise ValueError("a cluster has no databases; leave the number out")
    if address.form is Form.CLUSTER and address.min_replicas:
        raise ValueError("min_replicas is for one server or sentinels: a cluster cannot be asked")
    if (address.cert_file or address.key_file or address.ca_file or not address.verify) and not address.tls:
        raise ValueError("certificate options need a rediss:// URL")
    if bool(address.cert_file) != bool(address.key_file):
        raise ValueError("cert_file and key_file go together")


def _hosts(text: str, port: int) -> tuple[tuple[str, int], ...]:
    found = []
    for part in text.split(","):
        match = _HOST.match(part)
        tail = part[match.end() :] if match else part
        if match is None or not re.fullmatch(r"(:[0-9]{1,5})?", tail) or int(tail[1:] or port) > 65535:
            raise ValueError("the host is not one; write host or host:port, an IPv6 address in brackets")
        found.append((match[1] or match[2], int(tail[1:] or port)))
    return tuple(found)


def _database(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise ValueError("the database behind the slash is a number, as in redis://host:6379/1")
    return int(text)


def _options(query: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("the options behind the question mark are not of the form name=value&name=value") from None
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key not in _OPTIONS:
            raise ValueError(f"there is no option {key[:40]!r}; there are: {', '.join(sorted(_OPTIONS))}")
        field, read = _OPTIONS[key]
        if field in found:
            raise ValueError(f"the option {key} is given twice")
        try:
            found[field] = read(value)
        except ValueError as error:
            raise ValueError(f"option {key}: {error}") from None
    return found


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = parse_duration(text)
        if not least <= value <= most:
            raise ValueError(f"must be between {least:g}s and {most:g}s")
        return value

    return read


def _one_of(**choices: object) -> Callable[[str], object]:
    def read(text: str) -> object:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return choices[text]

    return read


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("small letters, digits, `_`, `.` and `-`, at most 40")
    return text


def _replicas(text: str) -> int:
    if not re.fullmatch(r"[0-9]", text):
        raise ValueError("a number from 0 to 9")
    return int(text)


def _file(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a file")
    return text


_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str], object]]]] = {
    "name": ("name", _name),
    "timeout": ("timeout_s", _seconds(0.05, 60.0)),
    "protocol": ("protocol", _one_of(**{"2": 2, "3": 3})),
    "lease": ("lease_s", _seconds(1.0, 3600.0)),
    "min_replicas": ("min_replicas", _replicas),
    "db": ("db", _database),
    "ca_file": ("ca_file", _file),
    "cert_file": ("cert_file", _file),
    "key_file": ("key_file", _file),
    "verify": ("verify", _one_of(yes=True, no=False)),
    "sentinel_user": ("sentinel_user", str),
    "sentinel_password": ("sentinel_password", str),
}
