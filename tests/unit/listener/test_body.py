"""The end of DATA and nothing but the end; canonical content or a refusal; the same in one packet or in many."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.listener.body import BodyLimits, BodyScanner

LIMITS = BodyLimits()
SMALL = BodyLimits(memory_limit=16)
END = b"\r\n.\r\n"


@dataclass(frozen=True)
class Result:
    """One scanned message. `content`: None when refused."""

    content: bytes | None
    refusal: str
    facts: tuple[bool, bool]
    rest: bytes


def scan(chunks: list[bytes], limits: BodyLimits = LIMITS) -> Result | None:
    """The first message of a stream; None when it does not end."""
    scanner = BodyScanner(limits)
    body = b""
    for number, chunk in enumerate(chunks):
        rest = scanner.feed(chunk)
        body += b"".join(scanner.take_body())
        if scanner.done:
            rest += b"".join(chunks[number + 1 :])
            if scanner.refusal is not None:
                return Result(None, str(scanner.refusal), (False, False), rest)
            whole = scanner.head + b"\r\n" + body
            return Result(whole, "", (scanner.eight_bit, scanner.long_lines), rest)
        assert rest == b""
    return None


def octets(stream: bytes) -> list[bytes]:
    return [bytes((octet,)) for octet in stream]


def content_of(text: bytes, limits: BodyLimits = LIMITS) -> bytes:
    result = scan([text], limits)
    assert result is not None
    assert result.content is not None, result.refusal
    return result.content


# The reference: a state machine over single octets, written from RFC 5321 §4.5.2 without looking at the scanner.


def reference_messages(stream: bytes) -> list[bytes | None]:
    """Every message in a stream of DATA contents that follow each other; None for one with NUL or bare CR or LF."""
    messages: list[bytes | None] = []
    line: list[int] = []
    lines: list[bytes] = []
    clean = True
    previous = -1
    for octet in stream:
        line.append(octet)
        if octet == 0 or (previous == 13 and octet != 10) or (octet == 10 and previous != 13):
            clean = False
        if octet == 10 and previous == 13:
            text = bytes(line)
            line.clear()
            if text == b".\r\n":
                messages.append(b"".join(lines) if clean else None)
                lines.clear()
                clean = True
                previous = -1
                continue
            lines.append(text[1:] if text.startswith(b".") else text)
        previous = octet
    return messages


def reference_normalised(stream: bytes) -> list[bytes | None]:
    """As `reference_messages`, with every CR, LF and CRLF a line end inside a message, yet only CRLF around its end."""
    messages: list[bytes | None] = []
    rest = b"\r\n" + stream
    while (end := rest.find(END)) >= 0:
        raw, rest = rest[2 : end + 2], b"\r\n" + rest[end + 5 :]
        lines = re.split(rb"\r\n|\r|\n", raw)
        text = b"\r\n".join(line.removeprefix(b".") for line in lines)
        messages.append(None if b"\0" in raw else text)
    return messages


def scanned_messages(chunks: list[bytes], limits: BodyLimits = LIMITS) -> list[bytes | None]:
    messages: list[bytes | None] = []
    while chunks:
        result = scan(chunks, limits)
        if result is None:
            break
        messages.append(result.content)
        chunks = [result.rest] if result.rest else []
    return messages


def as_scanned(message: bytes | None) -> bytes | None:
    """`message` with a blank line in front if it begins with what is no header field, one behind if all is header."""
    if message is None or message.startswith(b"\r\n"):
        return message
    if message == b"" or not re.match(rb"[!-9;-~]+[ \t]*:", message):
        return b"\r\n" + message
    return message if b"\r\n\r\n" in message else message + b"\r\n"


ALPHABET = st.sampled_from([b"\r", b"\n", b".", b"\0", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"a", b"A: b", b"\r\n\r\n"])
STREAMS = st.lists(ALPHABET, max_size=40).map(b"".join)


@settings(max_examples=400)
@given(STREAMS, st.data())
def test_any_stream_in_any_cut_gives_the_messages_of_the_reference(stream: bytes, data: st.DataObject) -> None:
    expected = [as_scanned(message) for message in reference_messages(stream)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert scanned_messages([stream]) == expected
    assert scanned_messages(pieces) == expected
    assert scanned_messages(octets(stream)) == expected
    assert scanned_messages(pieces, SMALL) == expected


@settings(max_examples=300)
@given(STREAMS)
def test_normalising_ends_messages_at_the_same_places_and_leaves_only_crlf(stream: bytes) -> None:
    limits = BodyLimits(normalize=True, memory_limit=16)
    expected = [as_scanned(message) for message in reference_normalised(stream)]
    assert len(expected) == len(reference_messages(stream))
    for chunks in ([stream], octets(stream)):
        messages = scanned_messages(chunks, limits)
        assert messages == expected
        assert not any(re.search(rb"\r(?!\n)|(?<!\r)\n|\0", message) for message in messages if message)


SMUGGLING = {
    "LF dot LF": b"\n.\n",
    "LF dot CRLF": b"\n.\r\n",
    "CRLF dot LF": b"\r\n.\n",
    "CR dot CR": b"\r.\r",
    "CR dot CRLF": b"\r.\r\n",
    "CRLF dot CR": b"\r\n.\rx",
    "LF dot CR": b"\n.\r",
    "CR dot LF": b"\r.\n",
    "CRLF NUL dot": b"\r\n\0.\r\n",
    "CRLF dot NUL": b"\r\n.\0\r\n",
    "CRLF dot CR CRLF": b"\r\n.\r\r\n",
    "CR CRLF dot CR CRLF": b"\r\r\n.\r\r\n",
}
HARMLESS = {
    "dot blank": b"\r\n. \r\n",
    "dot tab": b"\r\n.\t\r\n",
    "dot VT": b"\r\n.\v\r\n",
    "NEL dot NEL": b"\x85.\x85",
    "LS dot LS": "\u2028.\u2028".encode(),
    "control Z": b"\r\n\x1a\r\n",
}
HIDDEN = b"RCPT TO:<evil@x.example>\r\nDATA\r\n"


@pytest.mark.parametrize("sequence", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_a_smuggling_sequence_neither_ends_a_message_nor_passes(sequence: bytes) -> None:
    stream = b"A: b\r\n\r\nx" + sequence + HIDDEN + b"end" + END + b"QUIT\r\n"
    expected = scan([stream])
    assert expected is not None
    assert expected.content is None
    assert expected.refusal.startswith("554 5.6.0")
    assert expected.rest == b"QUIT\r\n"
    assert scan(octets(stream)) == expected
    for cut in range(len(stream)):
        assert scan([stream[:cut], stream[cut:]]) == expected


@pytest.mark.parametrize("sequence", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_only_other_programs_take_for_a_line_end_is_text(sequence: bytes) -> None:
    stream = b"A: b\r\n\r\nx" + sequence + HIDDEN + b"end" + END + b"QUIT\r\n"
    expected = scan([stream])
    assert expected is not None
    assert expected.content is not None
    assert HIDDEN in expected.content
    assert expected.rest == b"QUIT\r\n"
    for cut in range(len(stream)):
        assert scan([stream[:cut], stream[cut:]]) == expected


@pytest.mark.parametrize("sequence", [s for name, s in SMUGGLING.items() if "NUL" not in name])
def test_a_normalised_smuggling_sequence_stays_inside_its_message(sequence: bytes) -> None:
    stream = b"A: b\r\n\r\nx" + sequence + HIDDEN + b"end" + END
    content = content_of(stream, BodyLimits(normalize=True))
    assert HIDDEN in content
    assert content.endswith(b"end\r\n")


@pytest.mark.parametrize("ending", [b"\n", b"\r"])
def test_a_message_that_ends_in_a_bare_line_end_waits_for_the_real_end(ending: bytes) -> None:
    assert scan([b"A: b\r\n\r\nx" + ending + b".\r\n"]) is None
    assert scan(octets(b"A: b\r\n\r\nx" + ending + b".\r\n")) is None


DOTS = {
    "lone dot stuffed": (b"A: b\r\n\r\n..\r\n.\r\n", b"A: b\r\n\r\n.\r\n"),
    "two dots stuffed": (b"A: b\r\n\r\n...\r\n.\r\n", b"A: b\r\n\r\n..\r\n"),
    "dot at begin of message": (b"..A: b\r\n\r\nx\r\n.\r\n", b".A: b\r\n\r\nx\r\n"),
    "dots in every line": (b"A: b\r\n\r\n..x\r\n..y\r\n.\r\n", b"A: b\r\n\r\n.x\r\n.y\r\n"),
    "dot not stuffed": (b"A: b\r\n\r\n.x\r\n.\r\n", b"A: b\r\n\r\nx\r\n"),
    "dot inside a line": (b"A: b\r\n\r\nx.y.\r\n.\r\n", b"A: b\r\n\r\nx.y.\r\n"),
    "commands are text": (
        b"A: b\r\n\r\nRSET\r\nQUIT\r\nMAIL FROM:<>\r\n.\r\n",
        b"A: b\r\n\r\nRSET\r\nQUIT\r\nMAIL FROM:<>\r\n",
    ),
    "empty message": (b".\r\n", b"\r\n"),
    "blank line only": (b"\r\n.\r\n", b"\r\n"),
    "header only": (b"A: b\r\n.\r\n", b"A: b\r\n\r\n"),
    "header and blank line": (b"A: b\r\n\r\n.\r\n", b"A: b\r\n\r\n"),
    "body only": (b"hello there\r\n.\r\n", b"\r\nhello there\r\n"),
    "body only, colon later": (b"hello there: x\r\nA: b\r\n.\r\n", b"\r\nhello there: x\r\nA: b\r\n"),
    "body begins with blank": (b" x\r\n.\r\n", b"\r\n x\r\n"),
    "line without colon in the header": (b"A: b\r\nfoo\r\n\r\nx\r\n.\r\n", b"A: b\r\nfoo\r\n\r\nx\r\n"),
}


@pytest.mark.parametrize(("stream", "content"), DOTS.values(), ids=DOTS.keys())
def test_dots_and_shapes(stream: bytes, content: bytes) -> None:
    for chunks in ([stream], octets(stream)):
        for limits in (LIMITS, BodyLimits(memory_limit=3)):
            result = scan(chunks, limits)
            assert result is not None
            assert result.content == content


def test_the_next_transaction_in_the_same_packet_is_left_alone() -> None:
    result = scan([b"A: b\r\n\r\nx\r\n.\r\nMAIL FROM:<a@b>\r\n.\r\n"])
    assert result is not None
    assert result.rest == b"MAIL FROM:<a@b>\r\n.\r\n"


# Line length and 8-bit


@pytest.mark.parametrize(("length", "long"), [(998, False), (999, True), (1000, True), (5000, True), (1_000_000, True)])
@pytest.mark.parametrize("before", [0, 1, 70, 997])
def test_only_lines_over_998_octets_are_long(length: int, long: bool, before: int) -> None:
    stream = b"A: b\r\n\r\n" + b"y" * before + b"\r\n" + b"x" * length + b"\r\nz" + END
    for chunks in ([stream], [stream[i : i + 700] for i in range(0, len(stream), 700)]):
        for limits in (LIMITS, SMALL):
            result = scan(chunks, limits)
            assert result is not None
            assert result.facts == (False, long)
            assert result.content == stream[:-3]


def test_a_dot_that_is_stuffed_does_not_count_for_the_length_of_its_line() -> None:
    result = scan([b"A: b\r\n\r\n.." + b"x" * 997 + END])
    assert result is not None
    assert result.facts == (False, False)


@given(st.lists(st.integers(0, 2100), min_size=1, max_size=8), st.integers(1, 3000))
def test_long_lines_are_found_however_the_stream_is_cut(lengths: list[int], step: int) -> None:
    stream = b"A: b\r\n\r\n" + b"".join(b"x" * length + b"\r\n" for length in lengths) + b".\r\n"
    result = scan([stream[i : i + step] for i in range(0, len(stream), step)])
    assert result is not None
    assert result.facts == (False, max(lengths) > 998)


@pytest.mark.parametrize("text", [b"A: \xc3\xbc\r\n\r\nx", b"A: b\r\n\r\n\xff"])
def test_octets_above_127_are_noted_in_header_and_body(text: bytes) -> None:
    result = scan([text + END])
    assert result is not None
    assert result.facts == (True, False)


# Limits


def test_a_message_over_the_limit_is_refused_at_its_end_and_not_kept() -> None:
    scanner = BodyScanner(BodyLimits(max_size=1000, memory_limit=100))
    assert scanner.feed(b"A: b\r\n\r\n") == b""
    for _ in range(1000):
        scanner.feed(b"x" * 70 + b"\r\n..\r\n")
        assert sum(map(len, scanner.take_body())) <= 1000
    assert not scanner.done
    assert scanner.feed(b"\r\n.\r\nNOOP\r\n") == b"NOOP\r\n"
    assert str(scanner.refusal).startswith("552 5.3.4")


def test_size_is_counted_without_stuffing_and_end_mark() -> None:
    text = b"A: b\r\n\r\n" + b"..\r\n" * 100
    assert content_of(text + b".\r\n", BodyLimits(max_size=8 + 300)) == b"A: b\r\n\r\n" + b".\r\n" * 100
    result = scan([text + b".\r\n"], BodyLimits(max_size=8 + 299))
    assert result is not None
    assert result.refusal.startswith("552 5.3.4")


@pytest.mark.parametrize("memory_limit", [100, 10**9])
@pytest.mark.parametrize("ended", [True, False])
def test_a_header_section_over_its_cap_is_refused(memory_limit: int, ended: bool) -> None:
    limits = BodyLimits(max_header=10_000, memory_limit=memory_limit)
    stream = b"A: b\r\n" + b"B: " + b"x" * 10_000 + b"\r\n" + (b"\r\nx" if ended else b"") + END
    for chunks in ([stream], [stream[i : i + 900] for i in range(0, len(stream), 900)]):
        result = scan(chunks, limits)
        assert result is not None
        assert result.refusal.startswith("552 5.3.4")


def test_a_large_message_that_is_all_body_is_no_large_header() -> None:
    limits = BodyLimits(max_header=1000, memory_limit=100)
    stream = b"no header here\r\n" * 1000 + b".\r\n"
    result = scan([stream[i : i + 900] for i in range(0, len(stream), 900)], limits)
    assert result is not None
    assert result.content == b"\r\n" + stream[:-3]


def test_fields_are_counted_without_their_folds() -> None:
    limits = BodyLimits(max_fields=10)
    folded = b"A: b\r\n" + b"B: c\r\n d\r\n\te\r\n" * 9
    assert content_of(folded + b"\r\nx" + END, limits).startswith(folded)
    result = scan([folded + b"C: d\r\n\r\nx" + END], limits)
    assert result is not None
    assert result.refusal.startswith("552 5.3.4")


def test_a_mail_loop_is_refused_by_its_received_fields() -> None:
    hop = b"Received: from a by b;\r\n\tSun, 22 Nov 2026 10:00:00 +0000\r\n"
    at_limit = scan([hop * 50 + b"A: b\r\n\r\nx" + END])
    over = scan([hop.replace(b"Rec", b"rEC") * 51 + b"A: b\r\n\r\nx" + END])
    elsewhere = scan([hop * 50 + b"A: Received: x\r\n\r\n" + hop * 60 + END])
    assert at_limit is not None
    assert over is not None
    assert elsewhere is not None
    assert at_limit.content is not None
    assert over.refusal.startswith("554 5.4.6")
    assert elsewhere.content is not None


def test_normalising_never_repairs_a_message_the_client_signed() -> None:
    limits = BodyLimits(normalize=True)
    signed = b"A: b\r\nDKIM-Signature: v=1\r\n\r\nx\ny" + END
    result = scan([signed], limits)
    assert result is not None
    assert result.refusal.startswith("554 5.6.0")
    assert content_of(signed.replace(b"x\ny", b"x"), limits)
    unsigned = signed.replace(b"DKIM-Signature", b"X-DKIM-Signature")
    assert content_of(unsigned, limits).endswith(b"x\r\ny\r\n")


def test_small_content_waits_in_memory_and_large_content_is_handed_out_in_pieces() -> None:
    scanner = BodyScanner(BodyLimits(memory_limit=1000))
    scanner.feed(b"A: b\r\n\r\n" + b"x" * 900)
    assert scanner.waiting == 0
    assert scanner.take_body() == []
    scanner.feed(b"y" * 900)
    assert scanner.head == b"A: b\r\n"
    assert scanner.waiting == 1800
    assert b"".join(scanner.take_body()) == b"x" * 900 + b"y" * 900
    assert scanner.waiting == 0
    scanner.feed(b"\r\n.\r\n")
    assert scanner.done
    assert b"".join(scanner.take_body()) == b"\r\n"
