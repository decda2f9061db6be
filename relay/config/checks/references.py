"""Names: each is unique, and each that is referred to exists."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from relay.config.faults import did_you_mean
from relay.config.models import Config
from relay.config.models.traffic import NodeModel
from relay.config.places import Path, Report, find
from relay.config.yaml12 import Mapping, Scalar, Sequence


def nodes_of(config: Config) -> Iterator[tuple[Path, NodeModel]]:
    """Every node with its path, those of pools first."""
    for index, pool in enumerate(config.pools):
        for number, node in enumerate(pool.nodes):
            yield ("pools", index, "nodes", number), node
    for index, node in enumerate(config.nodes):
        yield ("nodes", index), node


def check_references(config: Config, report: Report, *, complete: bool) -> None:
    """References and uniqueness."""
    _unique(report, "pool name", ((("pools", i, "name"), p.name) for i, p in enumerate(config.pools)))
    _unique(report, "pool id", ((("pools", i, "id"), p.id) for i, p in enumerate(config.pools)))
    _unique(report, "mta id", ((("mtas", i, "id"), m.id) for i, m in enumerate(config.mtas)))
    _unique(report, "bridge name", ((("bridges", i, "name"), b.name) for i, b in enumerate(config.bridges)))
    _unique(report, "node name", (((*path, "name"), node.name) for path, node in nodes_of(config)))
    _unique(
        report,
        "username",
        (
            (("bridges", i, "credentials", j, "username"), credential.username)
            for i, bridge in enumerate(config.bridges)
            for j, credential in enumerate(bridge.credentials)
        ),
    )
    _unique(
        report,
        "network",
        (
            (("bridges", i, "networks", j), network)
            for i, bridge in enumerate(config.bridges)
            for j, network in enumerate(bridge.networks)
        ),
        "one client address can belong to one bridge only",
    )
    _unique(
        report,
        "pair of domain and selector",
        ((("dkim", i, "selector"), (key.domain, key.selector)) for i, key in enumerate(config.dkim)),
    )
    pools = set(_written(report, "pools", "name"))
    _check_default(config, report)
    _check_pools_of_bridges(config, report, pools, complete=complete)
    _check_pools_of_nodes(config, report, pools, complete=complete)
    _check_mtas(config, report, complete=complete)
    if config.dsn.pool is not None and complete and config.dsn.pool not in pools:
        _missing(report, ("dsn", "pool"), "pool", config.dsn.pool, pools)
    if complete and not _items(report, "bridges"):
        report.warn((), "no bridges: nobody can hand mail in", "add one under `bridges`")


def _unique(report: Report, what: str, values: Iterable[tuple[Path, Hashable]], hint: str = "") -> None:
    first: dict[Hashable, Path] = {}
    for path, value in values:
        if value in first:
            place = report.place(first[value])
            report.fault(path, f"{what} is used twice, first at {place}", hint or "choose another")
        else:
            first[value] = path


def _items(report: Report, key: str) -> list[Mapping]:
    """The items of a top-level list as they stand in the files, faulty ones too."""
    listed = report.root.entries.get(key) if isinstance(report.root, Mapping) else None
    return [item for item in listed.items if isinstance(item, Mapping)] if isinstance(listed, Sequence) else []


def _written(report: Report, key: str, name: str) -> Iterator[str]:
    for item in _items(report, key):
        node = item.entries.get(name)
        if isinstance(node, Scalar) and isinstance(node.value, str):
            yield str(node.value)


def _missing(report: Report, path: Path, what: str, name: str, known: Iterable[str]) -> None:
    names = sorted(known)
    hint = did_you_mean(name, names) or (f"known: {', '.join(names[:10])}" if names else f"there is no {what} at all")
    report.fault(path, f"there is no {what} {report.quoted(path, name)}", hint)


def _has_default(report: Report) -> bool:
    return any(
        isinstance(node := item.entries.get("default"), Scalar) and node.value not in (False, None)
        for item in _items(report, "pools")
    )


def _check_default(config: Config, report: Report) -> None:
    defaults = [index for index, pool in enumerate(config.pools) if pool.default]
    for index in defaults[1:]:
        first = report.place(("pools", defaults[0], "default"))
        report.fault(("pools", index, "default"), f"a second default pool, the first is at {first}", "keep one")


def _check_pools_of_bridges(config: Config, report: Report, pools: set[str], *, complete: bool) -> None:
    for index, bridge in enumerate(config.bridges):
        path: Path = ("bridges", index)
        if bridge.pool is None:
            if complete and not _has_default(report):
                report.fault(path, '"pool" is missing and no pool is the default', "name one, or set `default: true`")
        elif complete and bridge.pool not in pools:
            _missing(report, (*path, "pool"), "pool", bridge.pool, pools)
        if not bridge.credentials and not bridge.networks:
            report.warn(path, "no credentials and no networks: nobody can use this bridge")


def _check_pools_of_nodes(config: Config, report: Report, pools: set[str], *, complete: bool) -> None:
    filled = {pool.name for pool in config.pools if pool.nodes}
    for index, pool in enumerate(config.pools):
        for number, node in enumerate(pool.nodes):
            if node.pool is not None and node.pool != pool.name:
                report.fault(
                    ("pools", index, "nodes", number, "pool"),
                    f'the node stands in pool "{pool.name}" and names another',
                    "a node is in exactly one pool; remove this key",
                )
    for index, node in enumerate(config.nodes):
        if node.pool is None:
            if complete and not _has_default(report):
                what = '"pool" is missing and no pool is the default'
                report.fault(("nodes", index), what, "name one, or set `default: true` on a pool")
        elif complete and node.pool not in pools:
            _missing(report, ("nodes", index, "pool"), "pool", node.pool, pools)
        filled.add(node.pool or next((pool.name for pool in config.pools if pool.default), ""))
    for index, pool in enumerate(config.pools):
        dropped = ("pools", report.written(("pools", index))[1], "nodes") in report.kept or ("nodes",) in report.kept
        if complete and pool.name not in filled and not dropped and not _dropped_whole(report, "nodes"):
            report.fault(
                ("pools", index), f'pool "{pool.name}" has no node', "add one under `nodes`, or remove the pool"
            )


def _dropped_whole(report: Report, key: str) -> bool:
    """The top-level key is in the files but was left out for a fault of its own."""
    return bool(find(report.root, (key,)).path) and (key,) in report.dropped


def _check_mtas(config: Config, report: Report, *, complete: bool) -> None:
    known = set(_written(report, "mtas", "id")) or {mta.id for mta in config.mtas}
    for index, pool in enumerate(config.pools):
        if pool.mta is None:
            if len(known) > 1:
                report.fault(
                    ("pools", index), '"mta" is missing and there are several', f"one of {', '.join(sorted(known))}"
                )
        elif complete and pool.mta not in known:
            _missing(report, ("pools", index, "mta"), "mta", pool.mta, known)
