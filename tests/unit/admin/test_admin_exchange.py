"""Nodes in bulk: what goes out as CSV comes in as it was."""

from __future__ import annotations

from typing import Any

import pytest

from relay.admin.refusals import Refused
from relay.admin.services.exchange import from_csv, parse, to_csv

ROWS: list[dict[str, Any]] = [
    {"name": "a", "type": "smtp", "port": 25, "caps": {"hour": {"limit": 5, "spread": True}}, "password": "007"},
    {"name": "b", "type": "sandbox", "sender_domains": ["x.example", "y.example"], "headers": {"X-A": 'q"1", 2\nx'}},
    {"name": "true", "type": "sandbox", "weight": 0, "from": {"name": "Ä, B"}, "rate": 0.5},
]


def test_a_round_through_csv_changes_nothing() -> None:
    assert from_csv(to_csv(ROWS).decode()) == ROWS


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"\xff\xfe", "json"),
        (b"{", "json"),
        (b"a: [", "yaml"),
        (b"!!python/object/apply:os.system [ls]", "yaml"),
        (b"name,type\na\n", "csv"),
        (b"name,type\na,b,c\n", "csv"),
        (b"name,caps,caps.hour\na,5,6\n", "csv"),
        (b'"' * 3 + b"x" * 200_000, "csv"),
    ],
    ids=["utf-16", "open json", "open yaml", "object", "short line", "long line", "two meanings", "long cell"],
)
def test_what_is_not_readable(content: bytes, form: Any) -> None:
    with pytest.raises(Refused) as caught:
        parse(content, form)
    assert caught.value.status == 400


@pytest.mark.parametrize("content", [b"[]", b'{"nodes": []}'])
def test_nothing_is_nothing(content: bytes) -> None:
    assert parse(content, "json") == []


@pytest.mark.parametrize("content", [b"5", b'"x"', b'{"nodes": 5}', b"[5]", b"null"])
def test_what_is_no_list_of_nodes(content: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parse(content, "json")
    assert caught.value.status == 422
