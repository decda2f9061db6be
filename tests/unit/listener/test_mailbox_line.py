"""The `From ` line of a mailbox file before the header section is dropped; the same words elsewhere are text."""

from __future__ import annotations

import pytest

from relay.listener.body import BodyLimits, BodyScanner

FIELDS = b"From: a@acme.example\r\nSubject: x\r\n"


def parts(content: bytes) -> tuple[bytes, bytes]:
    """Header section and body of a message sent as `content`."""
    scanner = BodyScanner(BodyLimits())
    assert scanner.feed(content + b".\r\n") == b""
    assert scanner.done
    assert scanner.refusal is None
    return scanner.head, b"".join(scanner.take_body())


@pytest.mark.parametrize(
    "line",
    [
        b"From shop@acme.example Tue Nov 14 22:13:20 2023\r\n",
        b">From a Tue\r\n",
        b"From  \r\n",
        b"From MAILER-DAEMON\r\n",
    ],
)
def test_the_separator_of_a_mailbox_file_is_no_part_of_the_message(line: bytes) -> None:
    assert parts(line + FIELDS + b"\r\nbody\r\n") == (FIELDS, b"body\r\n")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"From here on it rains\r\nand rains\r\n", (b"", b"From here on it rains\r\nand rains\r\n")),
        (b"From x\r\n\r\nFrom: a\r\n", (b"", b"From x\r\n\r\nFrom: a\r\n")),
        (b"From x\r\n", (b"", b"From x\r\n")),
        (b"From x\r\nFrom y\r\nA: b\r\n", (b"", b"From x\r\nFrom y\r\nA: b\r\n")),
        (FIELDS + b"\r\nFrom x\r\nA: b\r\n", (FIELDS, b"From x\r\nA: b\r\n")),
        (b"From : a@acme.example\r\nB: c\r\n", (b"From : a@acme.example\r\nB: c\r\n", b"")),
    ],
    ids=["text", "no field behind", "only line", "two of them", "in the body", "a field with a blank"],
)
def test_the_same_words_elsewhere_stay(content: bytes, expected: tuple[bytes, bytes]) -> None:
    assert parts(content) == expected
