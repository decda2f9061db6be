"""What pool and node add to each attempt."""

from __future__ import annotations

import pytest

from relay.envelope import Content
from relay.errors import ConfigError
from relay.headers import check_custom, merge, stamp, walk
from relay.pools.pool import Node, Pool, Rotation


def pool(**changes) -> Pool:
    values = {
        "name": "p", "id": 7, "internal_name": "acme-42-mta4-pool-7", "mta": "mta4", "zone": "us-1",
        "feedtype": "transactional", "rotation": Rotation.RANDOM, "nodes": (),
    }  # fmt: skip
    return Pool(**(values | changes))


def node(**changes) -> Node:
    return Node(**({"name": "n", "pool": "p", "type": "smtp"} | changes))


HEAD = b"From: a@acme.example\r\nSubject: x\r\n"


def stamped(head: bytes = HEAD, p: Pool | None = None, n: Node | None = None, **options) -> bytes:
    return stamp(Content(head, b"body"), pool=p or pool(), node=n or node(), **options).head


def test_the_four_fields_come_first_once_and_the_rest_is_untouched():
    assert stamped() == (
        b"X-Virtual-MTA: acme-42-mta4-pool-7\r\nX-Feedtype: transactional\r\nX-Zone: us-1\r\nX-ServerID: mta4\r\n"
        + HEAD
    )


def test_the_body_is_the_same_object():
    body = b"octets"
    assert stamp(Content(HEAD, body), pool=pool(), node=node()).body is body


def test_the_message_may_name_its_feed_type():
    assert b"X-Feedtype: newsletter\r\n" in stamped(feedtype="newsletter")


def test_node_wins_over_pool_over_global_in_any_case():
    head = stamped(
        p=pool(headers=(("X-B", "pool"), ("X-A", "pool"))),
        n=node(headers=(("x-b", "node"),)),
        global_headers=(("X-A", "global"), ("X-C", "global")),
    )
    assert b"X-A: pool\r\nX-C: global\r\nx-b: node\r\n" in head
    assert head.lower().count(b"x-b:") == 1


def test_a_custom_field_is_not_added_to_a_message_that_has_it():
    head = stamped(HEAD + b"x-a : client\r\n", p=pool(headers=(("X-A", "pool"), ("X-B", "pool"))))
    assert b"X-B: pool" in head
    assert b"X-A: pool" not in head
    assert head.endswith(HEAD + b"x-a : client\r\n")


def test_a_name_inside_a_folded_value_is_not_a_field():
    assert b"X-A: pool" in stamped(HEAD + b"Y: z\r\n X-A: no\r\n", p=pool(headers=(("X-A", "pool"),)))


def test_defaults_fill_only_what_is_missing():
    n = node(from_name="Acmé", from_email="news@acme.example", reply_to="help@acme.example")
    assert b"From: =?" not in stamped(n=n)
    assert b"Reply-To: help@acme.example\r\n" in stamped(n=n)
    without = stamped(b"Reply-To: me@acme.example\r\n", n=n)
    assert b"From: =?utf-8?b?QWNtw6k=?= <news@acme.example>\r\n" in without
    assert without.count(b"Reply-To:") == 1


def test_nothing_is_added_that_a_client_signature_lists():
    head = b"DKIM-Signature: v=1; h=From:Reply-To:\r\n X-A; b=x\r\n" + HEAD
    out = stamped(head, p=pool(headers=(("X-A", "a"), ("X-B", "b"))), n=node(reply_to="r@acme.example"))
    names = [field.name for field in walk(out)]
    assert b"x-b" in names
    assert b"x-a" not in names
    assert b"reply-to" not in names


@pytest.mark.parametrize("value", ["a\rb", "a\nBcc: x@y.example", "a\x00"])
def test_values_that_could_end_their_line_are_refused(value):
    with pytest.raises(ConfigError, match="CR, LF or NUL"):
        check_custom([("X-A", value)])
    with pytest.raises(ConfigError, match="CR, LF or NUL"):
        stamped(n=node(headers=(("X-A", value),)))
    with pytest.raises(ConfigError, match="CR, LF or NUL"):
        stamped(n=node(from_email="a@b.example", from_name=value))
    with pytest.raises(ConfigError, match="CR, LF or NUL"):
        stamped(feedtype=value)


@pytest.mark.parametrize(
    "name", ["", "X A", "X:A", "Ä", "x" * 77, "X-Zone", "received", "DKIM-Signature", "Content-Type"]
)
def test_names_that_are_none_or_not_theirs_are_refused(name):
    with pytest.raises(ConfigError, match="header"):
        check_custom([(name, "x")])


def test_non_ascii_values_become_encoded_words():
    assert b"X-A: =?utf-8?b?R3LDvMOfZQ==?=\r\n" in stamped(p=pool(headers=(("X-A", "Grüße"),)))


def test_long_values_are_folded_and_endless_ones_refused():
    head = stamped(p=pool(headers=(("X-A", "word  " * 60),)))
    assert max(map(len, head.split(b"\r\n"))) <= 80
    (field,) = [field for field in walk(head) if field.name == b"x-a"]
    assert field.text.split() == [b"word"] * 60
    with pytest.raises(ConfigError, match="998"):
        check_custom([("X-A", "x" * 1000)])


def test_merge_keeps_order_of_first_appearance():
    assert merge([("A", "1"), ("B", "2")], [("a", "3")]) == (("a", "3"), ("B", "2"))
