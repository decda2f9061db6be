"""The vendors' documented contracts as strict checkers of requests, written apart from the drivers.

A contract takes a request, checks method, path, authentication, headers and body field by field (unknown keys, wrong
types, forbidden headers and broken limits fail), and gives back what the vendor would have understood.
`Contract.handle` answers as documented; what it finds wrong is raised, so that the server keeps it in `faults`. The
vendors are in `contracts_raw`, `contracts_json` and `contracts_more`.
"""

# ruff: noqa: PT018 - a check reads better whole
from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.vendor_server import Reply, Request

Box = tuple[str, str]
"""Display name, address."""


@dataclass
class File:
    name: str
    kind: str
    content: bytes
    cid: str = ""  # shown inside the HTML by this name


@dataclass
class Understood:
    """What a vendor would send. `raw`: the message as it came, with `envelope`; else it is built from the rest."""

    envelope: list[str] = field(default_factory=list)
    raw: bytes | None = None
    sender: Box = ("", "")
    to: list[Box] = field(default_factory=list)
    cc: list[Box] = field(default_factory=list)
    bcc: list[Box] = field(default_factory=list)
    reply_to: list[Box] = field(default_factory=list)
    subject: str = ""
    text: str | None = None
    html: str | None = None
    calendar: str | None = None
    files: list[File] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    key: str = ""
    reverse_path: str | None = None

    @property
    def recipients(self) -> list[str]:
        return self.envelope or [address for _, address in (*self.to, *self.cc, *self.bcc)]


@dataclass
class Contract:
    """One vendor.

    Attributes:
        options: for the node, without `base_url`.
        read: checks a request to the send endpoint and says what it means.
        success: the documented answer.
        probe: checks a request of the credentials' test; None where it is not one.
    """

    kind: str
    options: dict[str, Any]
    read: Callable[[Request], Understood]
    success: Callable[[Understood], Reply]
    probe: Callable[[Request], Reply | None]
    raw: bool = False
    recipients: int = 10_000
    seen: list[Understood] = field(default_factory=list)

    def handle(self, request: Request) -> Reply:
        assert "transfer-encoding" not in request.headers, "bodies have a length"
        if (answer := self.probe(request)) is not None:
            return answer
        understood = self.read(request)
        lower = [address.lower() for address in understood.recipients]
        assert lower, "nobody to send to"
        assert len(lower) <= self.recipients
        self.seen.append(understood)
        return self.success(understood)


def only(value: Any, required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these keys and no others, each of its type or passing its check."""
    optional = optional or {}
    assert isinstance(value, dict), value
    assert required.keys() <= value.keys(), f"missing {required.keys() - value.keys()}"
    unknown = value.keys() - required.keys() - optional.keys()
    assert not unknown, f"unknown {unknown}"
    for key, item in value.items():
        check = required.get(key, optional.get(key))
        if isinstance(check, type):
            assert isinstance(item, check) and (check is bool or not isinstance(item, bool)), f"{key}: {item!r}"
        elif callable(check):
            check(item)
        else:
            assert item == check, f"{key}: {item!r}, not {check!r}"
    return value


def filled(value: Any) -> None:
    assert isinstance(value, str) and value, value


def address(value: Any) -> None:
    assert isinstance(value, str) and re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", value), value


def listed(check: Callable[[Any], Any], most: int = 10_000, least: int = 1) -> Callable[[Any], None]:
    def of_all(value: Any) -> None:
        assert isinstance(value, list) and least <= len(value) <= most, value
        for item in value:
            check(item)

    return of_all


def strings(value: Any, forbidden: Iterable[str] = ()) -> None:
    """An object of header fields."""
    assert isinstance(value, dict) and value
    bad = {name.lower() for name in forbidden}
    for name, item in value.items():
        assert re.fullmatch(r"[!-9;-~]+", name), name
        assert name.lower() not in bad, f"{name} is forbidden"
        assert isinstance(item, str) and item.isascii() and not re.search(r"[\r\n]", item), item


def octets(text: Any, *, url_safe: bool = False) -> bytes:
    """Strict base64."""
    raw = text.encode("ascii") if isinstance(text, str) else text
    return base64.b64decode(raw, altchars=b"-_" if url_safe else None, validate=True)


def split_box(value: str) -> Box:
    """`"Name" <address>` or an address alone."""
    found = re.fullmatch(r'(?:"((?:[^"\\]|\\.)*)" )?<?([^<>\s"]+@[^<>\s"]+)>?', value)
    assert found, value
    assert ("<" in value) == (found[1] is not None), value
    return re.sub(r"\\(.)", r"\1", found[1] or ""), found[2]


def split_boxes(value: str) -> list[Box]:
    """Comma separated."""
    return [split_box(item.strip()) for item in re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+', value)]


def is_json(request: Request) -> None:
    assert request.headers["content-type"] == "application/json", request.headers


def bearer(request: Request, token: str) -> None:
    assert request.headers["authorization"] == f"Bearer {token}"


def header_recipients(raw: bytes) -> Understood:
    """What a vendor that reads the recipients from the header section makes of a message; it removes Bcc."""
    head, _, body = raw.partition(b"\r\n\r\n") if raw[:2] != b"\r\n" else (b"", b"", raw[2:])
    lists: dict[str, list[str]] = {"to": [], "cc": [], "bcc": []}
    kept = []
    for line in re.split(rb"\r\n(?![ \t])", head) if head else []:
        name = line.partition(b":")[0].strip().lower().decode("latin-1")
        if name in lists:
            text = line.partition(b":")[2].replace(b"\r\n", b"").decode("utf-8", "replace")
            lists[name] += re.findall(r"[^\s<>,;:\"()]+@[^\s<>,;:\"()]+", text)
        if name != "bcc":
            kept.append(line)
    return Understood(
        envelope=[*lists["to"], *lists["cc"], *lists["bcc"]],
        raw=b"".join(line + b"\r\n" for line in kept) + b"\r\n" + body,
        to=[("", a) for a in lists["to"]],
        cc=[("", a) for a in lists["cc"]],
        bcc=[("", a) for a in lists["bcc"]],
    )
