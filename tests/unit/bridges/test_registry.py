"""Finding the bridge of a client."""

from __future__ import annotations

import dataclasses
import time
from ipaddress import ip_address, ip_network

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bridges.bridge import Bridge, Credential
from relay.bridges.credentials import PasswordChecker
from relay.bridges.registry import BridgeGate, Registry
from relay.bridges.throttle import AuthThrottle, ThrottleLimits
from relay.errors import AcceptanceError, ConfigError

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def bridge(name: str, *, login: str = "", secret: str = "", networks: tuple[str, ...] = (), **more) -> Bridge:
    credentials = (Credential(username=login, secret=secret),) if login else ()
    return Bridge(
        name=name, pool="p", credentials=credentials, networks=tuple(ip_network(text) for text in networks), **more
    )


@pytest.fixture
def checker():
    checker = PasswordChecker()
    yield checker
    checker.close()


# Logins


async def test_credentials_open_their_bridge_and_no_other(checker):
    shop, blog = bridge("shop", login="shop-web", secret="one"), bridge("blog", login="blog", secret=CHEAP.hash("two"))
    registry = Registry([shop, blog])
    assert await registry.authenticate("shop-web", "one", checker) is shop
    assert await registry.authenticate("blog", "two", checker) is blog
    for username, password in [("shop-web", "two"), ("blog", "one"), ("nobody", "one"), ("", ""), ("SHOP-WEB", "one")]:
        assert await registry.authenticate(username, password, checker) is None


async def test_names_match_in_nfc(checker):
    registry = Registry([bridge("shop", login="Ame\u0301lie", secret="one")])
    assert await registry.authenticate("Am\u00e9lie", "one", checker)
    assert await registry.authenticate("Amelie", "one", checker) is None
    assert await registry.authenticate("Am\u00e9lie ", "one", checker) is None


async def test_each_credential_of_a_bridge_opens_it(checker):
    both = Bridge(
        name="b", pool="p", credentials=(Credential(username="x", secret="1"), Credential(username="y", secret="2"))
    )
    registry = Registry([both])
    assert await registry.authenticate("x", "1", checker) is both
    assert await registry.authenticate("y", "2", checker) is both
    assert await registry.authenticate("x", "2", checker) is None


async def test_an_unknown_name_is_hashed_like_a_wrong_password():
    class Counting(PasswordChecker):
        checked = ()

        async def check(self, username, password, secret):
            self.checked += ((secret.scheme, secret.cost),)
            return await super().check(username, password, secret)

    checker = Counting()
    registry = Registry([bridge("shop", login="shop", secret=CHEAP.hash("right"))])
    await registry.authenticate("shop", "wrong", checker)
    await registry.authenticate("nobody", "wrong", checker)
    assert len(checker.checked) == 2
    assert checker.checked[0] == checker.checked[1]
    checker.close()


def test_all_faults_are_told_at_once_without_secrets():
    with pytest.raises(ConfigError) as caught:
        Registry(
            [
                bridge("shop", login="web", secret="hidden-one", networks=("192.0.2.0/24",)),
                bridge("blog", login="web", secret="hidden-two", networks=("192.0.2.0/24",)),
                bridge("shop"),
                bridge("news", login="news", secret="$6$hidden$hidden"),
            ]
        )
    text = str(caught.value)
    assert len(text.splitlines()) == 4
    for part in ("'web': is taken by bridge 'shop'", "192.0.2.0/24 is taken", "name is taken", "'news'"):
        assert part in text
    assert "hidden" not in text


# Addresses


NETWORKS = Registry(
    [
        bridge("wide", networks=("10.0.0.0/8",)),
        bridge("narrow", networks=("10.1.0.0/16", "2001:db8:1::/48")),
        bridge("host", networks=("10.1.2.3/32", "2001:db8:1::7/128")),
        bridge("six", networks=("2001:db8::/32",)),
    ]
)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.9.9.9", "wide"),
        ("10.1.9.9", "narrow"),
        ("10.1.2.3", "host"),
        ("11.0.0.1", None),
        ("2001:db8:9::1", "six"),
        ("2001:db8:1::1", "narrow"),
        ("2001:db8:1::7", "host"),
        ("2001:db9::1", None),
        ("::ffff:10.1.2.3", "host"),
        ("::ffff:11.0.0.1", None),
        ("2001:db8:1::7%eth0", "host"),
        ("", None),
        ("unix", None),
        ("10.1.2.3:25", None),
        ("10.1.2", None),
        ("10.1.2.3\0", None),
    ],
)
def test_the_most_specific_network_decides(address, name):
    found = NETWORKS.for_address(address)
    assert (found.name if found else None) == name


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=20),
    st.lists(st.integers(0, 2**32 - 1), max_size=20),
)
def test_look_up_agrees_with_trying_every_network(networks, addresses):
    unique = {ip_network((number >> (32 - length) << (32 - length), length)) for number, length in networks}
    registry = Registry([bridge(str(network), networks=(str(network),)) for network in unique])
    for number in [*addresses, *(int(network.network_address) for network in unique)]:
        address = ip_address(number)
        holders = sorted((n for n in unique if address in n), key=lambda n: n.prefixlen)
        found = registry.for_address(str(address))
        assert (found.name if found else None) == (str(holders[-1]) if holders else None)


def test_a_network_written_as_mapped_ipv6_is_the_ipv4_network():
    registry = Registry([bridge("mapped", networks=("::ffff:192.0.2.0/120",))])
    for address in ("192.0.2.9", "::ffff:192.0.2.9"):
        assert registry.for_address(address) is not None
    assert registry.for_address("192.0.3.9") is None


def test_nothing_of_a_registry_shows_a_secret():
    registry = Registry([bridge("shop", login="shop", secret="open-sesame")])
    assert "sesame" not in repr(list(registry)) + repr(vars(registry)) + repr(registry)


def test_look_ups_stay_fast_with_ten_thousand_bridges():
    registry = Registry(
        [bridge(f"b{n}", login=f"u{n}", secret="x", networks=(f"10.{n >> 8}.{n & 255}.0/24",)) for n in range(10_000)]
    )
    assert len(registry) == 10_000
    best = 1.0
    for _ in range(20):
        start = time.thread_time()
        for _ in range(100):
            assert registry.for_address("10.39.15.1")
        best = min(best, (time.thread_time() - start) / 100)
    assert best < 20e-6


# Reloads


def test_sessions_of_unchanged_bridges_stay_and_others_end():
    shop, blog, news = (bridge(n, login=n, secret="1") for n in ("shop", "blog", "news"))
    old = Registry([shop, blog, news])
    new = Registry([bridge("shop", login="shop", secret="1"), dataclasses.replace(blog, pool="q")], previous=old)
    assert new.admits(shop)
    assert new.named("shop") is shop
    assert not new.admits(blog)
    assert not new.admits(news)
    assert Registry([bridge("shop", login="shop", secret="1")]).admits(shop)  # equal without knowing the old one


def test_a_rotated_password_ends_the_sessions_it_opened():
    shop = bridge("shop", login="shop", secret="old")
    assert not Registry([bridge("shop", login="shop", secret="new")], previous=Registry([shop])).admits(shop)


def test_a_policy_is_compiled_once_and_belongs_to_exactly_its_bridge():
    shop = bridge("shop", senders=("@acme.example",))
    registry = Registry([shop])
    assert registry.policy(shop) is registry.policy(shop)
    replaced = dataclasses.replace(shop, senders=("@other.example",))
    assert registry.policy(replaced).check_sender("a@other.example") is None
    assert registry.policy(shop).check_sender("a@other.example") is not None


# The gate


class Sleeps:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


async def test_failures_are_answered_late_and_then_refused(checker):
    sleeps = Sleeps()
    throttle = AuthThrottle(ThrottleLimits(address_failures=3), slots=64)
    gate = BridgeGate(Registry([bridge("shop", login="shop", secret="one")]), checker, throttle, sleep=sleeps)
    for _ in range(3):
        assert await gate.authenticate("shop", "wrong", peer="192.0.2.1") is None
    assert sleeps.slept == pytest.approx([1, 2, 4], rel=0.01)
    with pytest.raises(AcceptanceError) as caught:
        await gate.authenticate("shop", "one", peer="192.0.2.1")
    assert (caught.value.reply.code, caught.value.reply.enhanced) == (454, "4.7.0")
    assert await gate.authenticate("shop", "one", peer="192.0.2.2")  # from elsewhere it still opens


async def test_an_owner_logs_in_from_a_known_address_during_an_attack(checker):
    sleeps = Sleeps()
    throttle = AuthThrottle(ThrottleLimits(name_failures=5), slots=1024)
    gate = BridgeGate(Registry([bridge("shop", login="shop", secret="one")]), checker, throttle, sleep=sleeps)
    assert await gate.authenticate("shop", "one", peer="192.0.2.1")
    refused = 0
    for n in range(20):
        try:
            await gate.authenticate("shop", "guess", peer=f"198.51.100.{n}")
        except AcceptanceError:
            refused += 1
    assert refused == 15
    assert await gate.authenticate("shop", "one", peer="192.0.2.1")


async def test_a_bridge_revoked_while_its_password_is_checked_does_not_open():
    shop = bridge("shop", login="shop", secret=CHEAP.hash("one"))

    class Reloading(PasswordChecker):
        async def check(self, username, password, secret):
            answer = await super().check(username, password, secret)
            gate.replace(Registry([]))
            return answer

    checker = Reloading()
    gate = BridgeGate(Registry([shop]), checker, AuthThrottle(slots=64), sleep=Sleeps())
    assert await gate.authenticate("shop", "one", peer="192.0.2.1") is None
    assert not gate.admits(shop)
    checker.close()


async def test_the_gate_uses_the_registry_it_was_last_given(checker):
    gate = BridgeGate(Registry([]), checker, AuthThrottle(slots=64), sleep=Sleeps())
    assert gate.bridge_for("192.0.2.1") is None
    gate.replace(Registry([bridge("lan", networks=("192.0.2.0/24",))]))
    found = gate.bridge_for("192.0.2.1")
    assert found is not None
    assert gate.admits(found)


RENEWED = {
    "unchanged": ({}, True),
    "other rules": ({"senders": ("@acme.example",)}, True),
    "another share": ({"share": 7}, True),
    "another secret": ({"secret": "two"}, False),
    "another name": ({"login": "else"}, False),
    "no login": ({"login": "", "secret": ""}, False),
}


@pytest.mark.parametrize(("changes", "goes_on"), RENEWED.values(), ids=RENEWED.keys())
def test_a_session_goes_on_while_its_own_login_is_the_same(changes, goes_on):
    before = bridge("shop", login="Shop-Web", secret="one")
    after = bridge("shop", **{"login": "Shop-Web", "secret": "one", **changes})
    registry = Registry([after])
    assert registry.renewed(before, "Shop-Web") == (after if goes_on else None)
    assert Registry([]).renewed(before, "Shop-Web") is None
    taken = Registry([bridge("shop"), bridge("blog", login="Shop-Web", secret="one")])
    assert taken.renewed(before, "Shop-Web") is None
