"""A validated `Config` → the plain values that the rest of the relay works with.

Everything is resolved here once: internal pool names, zones, the pool of a bridge or node that names none, lanes.
Expects a configuration that passed `load`; others may raise KeyError.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relay.bridges.bridge import Bridge, BridgeLimits, Credential
from relay.config.models import Config
from relay.config.models.shapes import CapRule, Caps
from relay.config.models.traffic import BridgeLimitsModel, BridgeModel, NodeModel, PoolModel, node_options, node_type
from relay.envelope import Lane
from relay.fields import Options
from relay.pools.pool import Cap, Node, Pool

WINDOWS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_TRANSACTIONAL = "transactional"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlace:
    """Where a store is. `kind`: `sqlite` (with `path`), `redis` (with `url`, which may hold a password) or `memory`."""

    kind: str
    path: Path = Path()
    url: str = ""

    def __repr__(self) -> str:
        return f"StorePlace(kind={self.kind!r}, path={str(self.path)!r}, url=***)"


def pools(config: Config) -> tuple[Pool, ...]:
    """All pools with their nodes, in the order of the files."""
    return tuple(_pool(config, pool) for pool in config.pools)


def bridges(config: Config) -> tuple[Bridge, ...]:
    """All bridges, in the order of the files."""
    by_name = {pool.name: pool for pool in config.pools}
    default = default_pool(config)
    largest = {pool.name: pool.max_size for pool in pools(config)}
    return tuple(
        _bridge(config, bridge, by_name[bridge.pool or default], largest[bridge.pool or default])
        for bridge in config.bridges
    )


def options_of_nodes(config: Config) -> dict[str, Options]:
    """Node name → the options of its driver."""
    nodes = [node for pool in config.pools for node in pool.nodes] + list(config.nodes)
    return {node.name: node_options(node) for node in nodes}


def default_pool(config: Config) -> str:
    """Name of the default pool, or empty."""
    return next((pool.name for pool in config.pools if pool.default), "")


def spool_place(config: Config) -> StorePlace:
    """Where messages live."""
    return _place(config.store.spool)


def state_place(config: Config) -> StorePlace:
    """Where caps, health and rotation live."""
    return _place(config.store.state)


def caps_of(windows: Caps | BridgeLimitsModel) -> tuple[Cap, ...]:
    """Configured windows, shortest first."""
    rules: list[tuple[float, CapRule | None]] = [(width, getattr(windows, name)) for name, width in WINDOWS_S.items()]
    return tuple(Cap(window_s=width, limit=rule.limit, spread=rule.spread) for width, rule in rules if rule is not None)


def _pool(config: Config, pool: PoolModel) -> Pool:
    zones = {mta.id: mta.zone for mta in config.mtas}
    mta = pool.mta or config.mtas[0].id
    guests = [node for node in config.nodes if (node.pool or default_pool(config)) == pool.name]
    return Pool(
        name=pool.name,
        id=pool.id,
        internal_name=f"{config.account.tag}-{config.account.id}-{mta}-pool-{pool.id}",
        mta=mta,
        zone=zones[mta],
        feedtype=pool.feedtype,
        rotation=pool.rotation,
        nodes=tuple(_node(node, pool.name) for node in [*pool.nodes, *guests]),
        kind=pool.kind,
        default=pool.default,
        interval_s=pool.interval,
        headers=tuple(pool.headers.items()),
    )


def _node(node: NodeModel, pool: str) -> Node:
    carries = node.carries
    return Node(
        name=node.name,
        pool=pool,
        type=node_type(node),
        weight=node.weight,
        priority=node.priority,
        caps=caps_of(node.caps),
        connections=node.connections,
        sender_domains=frozenset(node.sender_domains),
        max_size=_least(node.max_size or 0, carries.max_size),
        max_recipients=_least(node.max_recipients, carries.max_recipients),
        smtputf8=node.smtputf8 and carries.smtputf8,
        null_sender=carries.null_sender,
        headers=tuple(node.headers.items()),
        return_path=node.return_path or "",
        from_name=node.from_.name,
        from_email=node.from_.email or "",
        reply_to=node.from_.reply_to or "",
        eight_bit=node.eight_bit,
    )


def _least(*limits: int) -> int:
    """The smallest limit; 0 is none."""
    return min((limit for limit in limits if limit), default=0)


def _bridge(config: Config, bridge: BridgeModel, pool: PoolModel, largest: int) -> Bridge:
    """`largest`: octets of a message that the pool's nodes take, 0 = unknown. What none takes is refused at MAIL."""
    limits = bridge.limits
    size = limits.size or config.limits.size
    return Bridge(
        name=bridge.name,
        pool=pool.name,
        credentials=tuple(
            Credential(username=c.username, secret=c.password.get_secret_value()) for c in bridge.credentials
        ),
        networks=bridge.networks,
        senders=bridge.senders,
        feedtype=bridge.feedtype or pool.feedtype,
        lane=_lane(bridge, pool),
        share=bridge.share,
        direct=bridge.delivery == "direct",
        may_choose=bridge.may_choose,
        limits=BridgeLimits(
            caps=caps_of(limits),
            recipients=limits.recipients,
            size=min(size, largest) if largest else size,
            connections=limits.connections,
        ),
    )


def _lane(bridge: BridgeModel, pool: PoolModel) -> Lane:
    """The nearest word counts: the bridge's lane, its feed type, the pool's lane, the pool's feed type."""
    if bridge.lane is not None:
        return bridge.lane
    if bridge.feedtype is None and pool.lane is not None:
        return pool.lane
    return Lane.TRANSACTIONAL if (bridge.feedtype or pool.feedtype) == _TRANSACTIONAL else Lane.BULK


def _place(text: str) -> StorePlace:
    kind, _, rest = text.partition(":")
    if kind == "sqlite":
        return StorePlace(kind="sqlite", path=Path(rest))
    return StorePlace(kind="memory") if kind == "memory" else StorePlace(kind="redis", url=text)
