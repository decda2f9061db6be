"""Messages to send, and what must be left of them when they arrive."""

from __future__ import annotations

import re

STAMPED = {
    "X-Virtual-MTA": b"acme-42-mta4-pool-7",
    "X-Feedtype": b"transactional",
    "X-Zone": b"us-1",
    "X-ServerID": b"mta4",
}
"""What the relay of these tests writes; see `base_config`."""

FORGED = (
    b"x-virtual-mta: forged-1-mta9-pool-9\r\nX-FEEDTYPE: newsletter\r\nX-Zone:\r\n folded-1\r\nX-ServerID: mta9\r\n"
    b"X-ServerId: again\r\n"
)

BODY = (
    "Plain line\r\n"
    ".\r\n"
    "..two dots\r\n"
    ".leading dot\r\n"
    "From the start of a line\r\n"
    "trailing blanks \t \r\n"
    "Grüße, 注文, تأكيد\r\n"
    "\r\n"
    f"{'x' * 990}\r\n"
    "\tindented\r\n"
    "last line\r\n"
).encode()
"""Lines that clients and servers have damaged before: dots, `From `, blanks, 8 bit, almost 998 octets."""


def message(name: str, *, forged: bool = True, body: bytes = BODY, more: bytes = b"", to: str = "") -> bytes:
    """A message with CRLF line ends; `more`: further header lines."""
    return b"".join(
        (
            b"From: Acme Shop <shop@acme.example>\r\n",
            f"To: {to or 'jane@customer.example'}\r\n".encode(),
            b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= 1042\r\n",
            FORGED if forged else b"",
            b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n",
            f"Message-ID: <{name}@acme.example>\r\n".encode(),
            f"X-Test-Name: {name}\r\n".encode(),
            more,
            b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
            body,
        )
    )


def unix(content: bytes) -> bytes:
    """With the line ends of a file."""
    return content.replace(b"\r\n", b"\n")


def unforged(content: bytes) -> bytes:
    """Without the control headers: what the relay must pass on, octet for octet."""
    return content.replace(FORGED, b"")


def head_of(content: bytes) -> bytes:
    """The header section, of CRLF or LF lines, with the end of its last line."""
    found = re.search(rb"\r?\n\r?\n", content)
    return content if found is None else content[: found.start() + (found.end() - found.start()) // 2]


def fields(content: bytes, name: str) -> list[bytes]:
    """Values of all fields of this name in the header section, unfolded."""
    pattern = rb"(?mi)^" + re.escape(name.encode()) + rb"[ \t]*:((?:.*?)(?:\r?\n[ \t].*?)*)\r?$"
    return [re.sub(rb"\r?\n[ \t]+", b" ", value).strip() for value in re.findall(pattern, head_of(content))]


def assert_stamped(content: bytes, pool: int = 7) -> None:
    """Each header of the relay exactly once, with its value; `pool`: the number of the pool."""
    for name, value in {**STAMPED, "X-Virtual-MTA": b"acme-42-mta4-pool-%d" % pool}.items():
        assert fields(content, name) == [value], (name, head_of(content).decode("utf-8", "replace"))


def assert_passed_on(content: bytes, original: bytes, pool: int = 7) -> None:
    """Stamped, and below what relays add on top everything is as it was sent; LF files are compared as such."""
    assert_stamped(content, pool)
    on_top, _ = split_at(content, original)
    assert fields(on_top, "Received"), on_top


def split_at(content: bytes, original: bytes) -> tuple[bytes, bytes]:
    """What relays added on top of `original`, and its octets without the forged fields; fails unless all is there."""
    expected = unforged(original)
    if b"\r\n" not in content:
        expected = unix(expected)
    if not content.endswith(expected):
        raise AssertionError(_difference(content, expected))
    return content[: len(content) - len(expected)], expected


def _difference(content: bytes, expected: bytes) -> str:
    start = content.find(expected[:60])
    if start < 0:
        return f"nothing like it arrived: {content[:600]!r}"
    arrived = content[start:]
    at = next(
        (i for i, (a, b) in enumerate(zip(arrived, expected, strict=False)) if a != b), min(len(arrived), len(expected))
    )
    return (
        f"octet {at} of {len(expected)}: sent {expected[at - 20 : at + 80]!r}, arrived {arrived[at - 20 : at + 80]!r}"
    )
