"""Domains of one owner compare equal however they are written, wherever the relay compares domains."""

from __future__ import annotations

import pytest

from relay.bridges.bridge import Bridge
from relay.bridges.policy import BridgePolicy
from relay.config.models.traffic import NODE_CLASSES, BridgeModel
from relay.domains import a_labels, domain_key
from relay.envelope import Facts
from relay.router.selection import unfit
from relay.signing.keys import ascii_domain
from tests.unit.router.values import message, node


@pytest.mark.parametrize(
    ("written", "key"),
    [
        pytest.param("Acme.Example", "acme.example", id="ascii"),
        pytest.param("xn--BCHER-kva.example", "xn--bcher-kva.example", id="A-label"),
        pytest.param("Bücher.example", "xn--bcher-kva.example", id="U-label"),
        pytest.param("Bu\u0308cher.example", "xn--bcher-kva.example", id="decomposed"),
        pytest.param("straße.example", "xn--strae-oqa.example", id="2008 and not 2003"),
        pytest.param("例。example", "xn--fsq.example", id="ideographic full stop"),
    ],
)
def test_one_form_everywhere(written: str, key: str) -> None:
    assert a_labels(written) == domain_key(written) == ascii_domain(written) == key
    model = NODE_CLASSES["sandbox"](name="n", type="sandbox", sender_domains=(written,))  # type: ignore[call-arg]
    assert model.sender_domains == (key,)
    pattern = BridgeModel(name="b", senders=(f"@{written}",)).senders[0]
    assert BridgePolicy(Bridge(name="b", pool="p", senders=(pattern,))).check_sender(f"a@{written}") is None


def test_what_is_no_domain_stays_apart() -> None:
    assert domain_key("A\u200d.example") == "a\u200d.example"
    with pytest.raises(UnicodeError):
        a_labels("a\u200d.example")


@pytest.mark.parametrize("domain", ["bücher.example", "xn--bcher-kva.example"])
def test_a_node_takes_the_international_senders_it_is_for(domain: str) -> None:
    able = node("n", sender_domains=frozenset({"xn--bcher-kva.example"}))
    assert unfit(able, message(facts=Facts(from_domain=domain))) is None
    assert unfit(able, message(facts=Facts(from_domain="bücher2.example"))) is not None
