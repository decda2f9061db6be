"""The configuration of design section 6 as the values the relay works with."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.bridges.bridge import BridgeLimits
from relay.config import values
from relay.envelope import Lane
from relay.pools.pool import Cap, Rotation
from relay.upstreams.sandbox_options import SandboxOptions
from relay.upstreams.smtp_options import SmtpOptions
from tests.unit.config.config_files import load_text, text_with

TEXT = """\
version: 1
hostname: relay.acme.example
store: {spool: sqlite:var/relay, state: 'redis://:s3cret@127.0.0.1:6379/0'}
account: {tag: acme, id: 42}
mtas: [{id: mta4, zone: us-1}, {id: mta5, zone: eu-1}]
limits: {size: 10MB}
bridges:
  - name: shop-web
    pool: acme-transactional
    credentials: [{username: shop-web, password: '${PW}'}]
    networks: [192.0.2.7]
    senders: ['@Acme.example']
    limits: {hour: 5000, second: {limit: 3, spread: true}, recipients: 100, connections: 50}
  - {name: default-pool, networks: [192.0.2.8/32], delivery: direct, share: 3, may_choose: true, limits: {size: 1MB}}
pools:
  - name: acme-transactional
    id: 7
    mta: mta4
    default: true
    rotation: weighted
    headers: {X-A: a}
    nodes:
      - name: primary
        type: smtp
        host: SMTP.acme.example
        tls: implicit
        weight: 2
        priority: 3
        caps: {day: 100000, second: 14, hour: {limit: 10000, spread: true}}
        connections: 7
        sender_domains: [Acme.example]
        max_size: 20MB
        headers: {X-B: b}
        return_path: bounces@Acme.example
        from: {name: Acme, email: news@acme.example, reply_to: help@acme.example}
  - {name: news, id: 8, mta: mta5, kind: dedicated, feedtype: newsletter, rotation: interval, interval: 10m}
nodes:
  - {name: spare, type: sandbox}
  - {name: news-1, type: sandbox, pool: news, directory: var/news}
"""


@pytest.fixture
def config(tmp_path: Path):
    return load_text(tmp_path, TEXT).config


def test_pools_have_their_internal_name_zone_and_nodes(config) -> None:
    transactional, news = values.pools(config)
    assert transactional.internal_name == "acme-42-mta4-pool-7"
    assert (transactional.mta, transactional.zone, transactional.feedtype) == ("mta4", "us-1", "transactional")
    assert (transactional.kind, transactional.default, transactional.headers) == ("shared", True, (("X-A", "a"),))
    assert [node.name for node in transactional.nodes] == ["primary", "spare"]
    assert news.internal_name == "acme-42-mta5-pool-8"
    assert (news.zone, news.kind, news.rotation, news.interval_s) == ("eu-1", "dedicated", Rotation.INTERVAL, 600.0)
    assert [(node.name, node.pool) for node in news.nodes] == [("news-1", "news")]


def test_a_node_has_what_was_written(config) -> None:
    node = values.pools(config)[0].nodes[0]
    assert (node.name, node.pool, node.type, node.weight, node.priority) == (
        "primary",
        "acme-transactional",
        "smtp",
        2,
        3,
    )
    assert node.caps == (
        Cap(window_s=1.0, limit=14),
        Cap(window_s=3600.0, limit=10000, spread=True),
        Cap(window_s=86400.0, limit=100000),
    )
    assert node.sender_domains == frozenset({"acme.example"})
    assert (node.max_size, node.connections, node.headers) == (20 * 2**20, 7, (("X-B", "b"),))
    assert (node.return_path, node.from_name) == ("bounces@acme.example", "Acme")
    assert (node.from_email, node.reply_to) == ("news@acme.example", "help@acme.example")


def test_each_driver_gets_its_own_options_and_no_others(config) -> None:
    options = values.options_of_nodes(config)
    assert sorted(options) == ["news-1", "primary", "spare"]
    primary = options["primary"]
    assert type(primary) is SmtpOptions
    assert (primary.host, primary.port, primary.tls, primary.connections) == ("smtp.acme.example", 465, "implicit", 7)
    assert primary.timeouts.dot == 600.0
    assert type(options["news-1"]) is SandboxOptions
    assert options["news-1"].directory == "var/news"
    assert not hasattr(primary, "weight")


def test_bridges_have_their_pool_limits_and_senders(config) -> None:
    shop, other = values.bridges(config)
    assert (shop.name, shop.pool, shop.feedtype, shop.lane) == (
        "shop-web",
        "acme-transactional",
        "transactional",
        Lane.TRANSACTIONAL,
    )
    assert shop.credentials[0].secret == "s3cret-of-shop"
    assert "s3cret" not in repr(shop)
    assert shop.networks == (ip_network("192.0.2.7/32"),)
    assert shop.senders == ("@acme.example",)
    assert shop.limits == BridgeLimits(
        caps=(Cap(window_s=1.0, limit=3, spread=True), Cap(window_s=3600.0, limit=5000)),
        recipients=100,
        size=10 * 2**20,
        connections=50,
    )
    assert (other.pool, other.direct, other.share, other.may_choose) == ("acme-transactional", True, 3, True)
    assert other.limits.size == 2**20


def test_a_bridge_takes_no_message_that_no_node_of_its_pool_takes(tmp_path: Path) -> None:
    """R33: the smallest of its own limit, the listener's, and the largest node in use; unknown is no limit."""

    def limit(*nodes: str) -> int:
        listed = ", ".join(f"{{name: n{number}, type: sandbox, {node}}}" for number, node in enumerate(nodes))
        (bridge,) = values.bridges(
            load_text(tmp_path, text_with(pools=f"pools: [{{name: main, id: 1, nodes: [{listed}]}}]\n")).config
        )
        return bridge.limits.size

    assert limit("max_size: 1MB", "max_size: 2MB") == 2 * 2**20
    assert limit("max_size: 1MB", "max_size: 2MB, weight: 0") == 2**20
    assert limit("max_size: 1MB", "weight: 1") == 25 * 2**20
    assert limit("max_size: 100MB") == 25 * 2**20


def test_stores_are_told_apart_and_hide_their_password(config) -> None:
    spool, state = values.spool_place(config), values.state_place(config)
    assert (spool.kind, spool.path) == ("sqlite", Path("var/relay"))
    assert (state.kind, state.url) == ("redis", "redis://:s3cret@127.0.0.1:6379/0")
    assert "s3cret" not in repr(state) + repr(config.store) + repr(config)


@pytest.mark.parametrize(
    ("pool", "bridge", "lane"),
    [
        ("", "", Lane.TRANSACTIONAL),
        ("feedtype: newsletter", "", Lane.BULK),
        ("feedtype: newsletter, lane: transactional", "", Lane.TRANSACTIONAL),
        ("lane: bulk", "", Lane.BULK),
        ("lane: bulk", "feedtype: transactional", Lane.TRANSACTIONAL),
        ("", "feedtype: newsletter", Lane.BULK),
        ("lane: transactional", "feedtype: newsletter", Lane.BULK),
        ("lane: transactional", "lane: bulk", Lane.BULK),
        ("feedtype: newsletter", "lane: transactional", Lane.TRANSACTIONAL),
    ],
)
def test_the_lane_is_what_the_nearest_word_says(tmp_path: Path, pool: str, bridge: str, lane: Lane) -> None:
    text = text_with(
        pools=f"pools: [{{name: main, id: 1, nodes: [{{name: a, type: sandbox}}], {pool}}}]\n",
        bridges=f"bridges: [{{name: b, pool: main, networks: [192.0.2.1/32], {bridge}}}]\n",
    )
    (value,) = values.bridges(load_text(tmp_path, text).config)
    assert value.lane is lane


@pytest.mark.parametrize(
    ("tls", "port"), [("none", 25), ("opportunistic", 25), ("starttls", 587), ("implicit", 465), ("", 587)]
)
def test_the_port_follows_tls_unless_it_is_given(tls: str, port: int) -> None:
    chosen = {"tls": tls} if tls else {}
    assert SmtpOptions.model_validate({"host": "h.example", **chosen}).port == port
    assert SmtpOptions.model_validate({"host": "h.example", "port": 2525, **chosen}).port == 2525
