"""Bodies made while they are sent: every form, every size, from memory and from files."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.envelope import CHUNK_BYTES, BodyFile, Content
from relay.upstreams.api import CannotCarry, Raw
from relay.upstreams.http_body import BLOCK_BYTES, length, on_disk, pieces

FORMS = {
    "octets": lambda whole: whole,
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, CHUNK_BYTES - 7, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5])
def test_the_blocks_joined_are_the_body(form: str, size: int, tmp_path: Path) -> None:
    octets = bytes(range(256)) * (size // 256 + 1)
    file = tmp_path / "body"
    file.write_bytes(octets[:size])
    head = b"A: b\r\n"
    whole = head + b"\r\n" + octets[:size]
    for body in (octets[:size], BodyFile(file, size)):
        given_body = (b'{"a":"', Raw(Content(head, body), form), b'"}')
        blocks = list(pieces(given_body))
        assert b"".join(blocks) == b'{"a":"' + FORMS[form](whole) + b'"}'
        assert length(given_body) == sum(map(len, blocks))
        assert all(0 < len(block) <= BLOCK_BYTES for block in blocks)
        assert on_disk(given_body) is isinstance(body, BodyFile)


@given(text=st.text(max_size=300), cut=st.integers(0, 300))
@settings(max_examples=200)
def test_text_inside_json_is_that_text_wherever_chunks_end(text: str, cut: int) -> None:
    from relay.upstreams.http_body import _json_text

    octets = text.encode("utf-8", "ignore")
    out = b"".join(_json_text([octets[:cut], octets[cut : cut + 1], octets[cut + 1 :]]))
    assert json.loads(b'"' + out + b'"') == octets.decode("utf-8")


@pytest.mark.parametrize("body", [b"Gr\xfc\xdfe\r\n", b"\xe2\x82", b"\xff" * 9])
def test_what_is_no_text_cannot_be_in_json(body: bytes) -> None:
    with pytest.raises(CannotCarry, match="UTF-8"):
        list(pieces((Raw(Content(b"A: b\r\n", body), "json"),)))
