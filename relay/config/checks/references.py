"""Names: each is unique, and each that is referred to exists.

Works on the tree rather than on models, so that a bridge with a fault elsewhere still has its pool looked up. What is
not even text or a number is passed over; the shape was judged before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from relay.config.faults import Place, did_you_mean, key_path
from relay.config.models import Config
from relay.config.models.shapes import NAME_PATTERN
from relay.config.models.traffic import NodeModel
from relay.config.places import Path, Report
from relay.config.yaml12 import Mapping, Node, Scalar, Sequence
from relay.fields import Interpolated


def nodes_of(config: Config) -> Iterator[tuple[Path, NodeModel]]:
    """Every node with its path, those of pools first."""
    for index, pool in enumerate(config.pools):
        for number, node in enumerate(pool.nodes):
            yield ("pools", index, "nodes", number), node
    for index, node in enumerate(config.nodes):
        yield ("nodes", index), node


@dataclass(frozen=True, slots=True)
class _Word:
    """A name or number as written. `path`: where, in the files' own indexes."""

    path: Path
    value: str | int
    place: Place
    origin: str

    def quoted(self) -> str:
        return f"the value of {self.origin}" if self.origin else f'"{self.value}"'


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of a list."""

    path: Path
    node: Mapping

    def word(self, key: str) -> _Word | None:
        """The name or number at a key; None when absent or of another type."""
        return _word((*self.path, key), self.node.entries.get(key))

    def has(self, key: str) -> bool:
        """The key is there with a value; whether it is a sound one was judged before."""
        node = self.node.entries.get(key)
        return node is not None and not (isinstance(node, Scalar) and node.value is None)

    def items(self, key: str) -> list[_Item]:
        """The items of a list below."""
        return _items((*self.path, key), self.node.entries.get(key))


def _is_name(word: _Word) -> bool:
    return isinstance(word.value, str) and re.fullmatch(NAME_PATTERN, word.value) is not None


def _word(path: Path, node: Node | None) -> _Word | None:
    if not isinstance(node, Scalar) or node.failed or isinstance(node.value, (bool, float)) or node.value is None:
        return None
    value: str | int = node.value
    if isinstance(value, Interpolated):
        # A number behind ${…} is a number where one is wanted; as text it only ever meets other text.
        value = int(value) if path[-1] == "id" and value.isdecimal() and len(value) < 19 else str(value)
    return _Word(path, value, node.place, node.origin)


def _items(path: Path, node: Node | None) -> list[_Item]:
    listed = node.items if isinstance(node, Sequence) else []
    return [_Item((*path, index), item) for index, item in enumerate(listed) if isinstance(item, Mapping)]


class _Names:
    """The top-level lists of the tree."""

    def __init__(self, root: Node, report: Report, *, complete: bool) -> None:
        entries = root.entries if isinstance(root, Mapping) else {}
        self.report = report
        self.complete = complete
        self.root = entries
        self.pools = _items(("pools",), entries.get("pools"))
        self.mtas = _items(("mtas",), entries.get("mtas"))
        self.bridges = _items(("bridges",), entries.get("bridges"))
        self.nodes = _items(("nodes",), entries.get("nodes"))
        self.dkim = _items(("dkim",), entries.get("dkim"))

    def unique(self, what: str, words: Iterable[_Word | None]) -> None:
        first: dict[str | int, _Word] = {}
        for word in words:
            if word is None:
                continue
            if word.value in first:
                self.fault(
                    word.path, word.place, f"{what} is used twice, first at {first[word.value].place}", "choose another"
                )
            else:
                first[word.value] = word

    def known(self, word: _Word | None, what: str, among: Iterable[_Word | None]) -> None:
        """A fault when `word` is none of the names; nothing is said while files are missing."""
        others = list(among)
        if word is None or not self.complete or not _is_name(word):
            return
        if any(other is None or not _is_name(other) for other in others):
            return  # one of the names is at fault itself; it may be the one that is meant
        if word.value in {other.value for other in others if other is not None}:
            return
        names = sorted({str(other.value) for other in others if other is not None and not other.origin})
        listed = f"known: {', '.join(names[:10])}" if names else ""
        hint = did_you_mean(str(word.value), names) or listed
        self.fault(word.path, word.place, f"there is no {what} {word.quoted()}", hint)

    def fault(self, path: Path, place: Place, what: str, hint: str = "") -> None:
        self.report.fault_at(place, key_path(path), what, hint)

    @property
    def has_default(self) -> bool:
        """Some pool says `default`, soundly or not."""
        return any(
            isinstance(node := pool.node.entries.get("default"), Scalar) and node.value not in (False, None, "false")
            for pool in self.pools
        )


def check_references(config: Config, report: Report, *, complete: bool) -> None:
    """References and uniqueness."""
    names = _Names(report.root, report, complete=complete)
    pool_names = [pool.word("name") for pool in names.pools]
    all_nodes = [node for pool in names.pools for node in pool.items("nodes")] + names.nodes
    names.unique("pool name", pool_names)
    names.unique("pool id", (pool.word("id") for pool in names.pools))
    names.unique("mta id", (mta.word("id") for mta in names.mtas))
    names.unique("bridge name", (bridge.word("name") for bridge in names.bridges))
    names.unique("node name", (node.word("name") for node in all_nodes))
    logins = (login.word("username") for bridge in names.bridges for login in bridge.items("credentials"))
    names.unique("username", logins)
    _check_dkim_pairs(names)
    _check_networks(config, report)
    _check_default(names)
    _check_pools(names, pool_names)
    _check_nodes(names, pool_names)
    _check_bridges(names, pool_names)
    section = names.root.get("dsn")
    if isinstance(section, Mapping):
        names.known(_Item(("dsn",), section).word("pool"), "pool", pool_names)


def _check_dkim_pairs(names: _Names) -> None:
    """Two keys under one selector: the DNS can publish one of them."""
    first: dict[tuple[str, str], _Word] = {}
    for key in names.dkim:
        domain, selector = key.word("domain"), key.word("selector")
        if domain is None or selector is None:
            continue
        pair = (str(domain.value).lower(), str(selector.value).lower())
        if pair in first:
            what = f"domain and selector are used twice, first at {first[pair].place}"
            names.fault(selector.path, selector.place, what, "choose another selector")
        else:
            first[pair] = selector


def _check_networks(config: Config, report: Report) -> None:
    """One network in two bridges: the client's bridge would be a matter of luck."""
    first: dict[object, Path] = {}
    for index, bridge in enumerate(config.bridges):
        for number, network in enumerate(bridge.networks):
            path: Path = ("bridges", index, "networks", number)
            if network in first:
                what = f"network is used twice, first at {report.place(first[network])}"
                report.fault(path, what, "a client address belongs to one bridge")
            else:
                first[network] = path


def _check_default(names: _Names) -> None:
    said = [
        (pool, node)
        for pool in names.pools
        if isinstance(node := pool.node.entries.get("default"), Scalar) and node.value in (True, "true")
    ]
    for pool, node in said[1:]:
        what = f"a second default pool, the first is at {said[0][1].place}"
        names.fault((*pool.path, "default"), node.place, what, "keep one")


def _check_pools(names: _Names, pool_names: list[_Word | None]) -> None:
    mtas = [mta.word("id") for mta in names.mtas]
    guests = {word.value for node in names.nodes if (word := node.word("pool")) is not None}
    guest_of_default = any(not node.has("pool") for node in names.nodes)
    for pool, name in zip(names.pools, pool_names, strict=True):
        if names.mtas:
            names.known(pool.word("mta"), "mta", mtas)
        elif "mtas" not in names.root and (mta := pool.word("mta")) is not None and mta.value != "mta1":
            hint = "add it under `mtas`; without that key there is mta1 alone"
            names.fault(mta.path, mta.place, f"there is no mta {mta.quoted()}", hint)
        if len(names.mtas) > 1 and not pool.has("mta"):
            known = ", ".join(str(mta.value) for mta in mtas if mta is not None)
            names.fault(pool.path, pool.node.place, '"mta" is missing and there are several', f"one of {known}")
        empty = "nodes" not in pool.node.entries or (
            isinstance(nodes := pool.node.entries["nodes"], Sequence) and not nodes.items
        )
        visited = (name is not None and name.value in guests) or (guest_of_default and pool.has("default"))
        if empty and not visited and names.complete:
            hint = "add one under `nodes`, or remove the pool"
            if _is_used(names, pool, name):
                names.fault(pool.path, pool.node.place, "the pool has no node, and bridges lead to it", hint)
            else:  # on its way in or out: nodes and bridges are moved one by one
                names.report.warn_at(pool.node.place, key_path(pool.path), f"the pool has no node; {hint}")


def _is_used(names: _Names, pool: _Item, name: _Word | None) -> bool:
    """Whether a bridge leads to the pool."""
    for bridge in names.bridges:
        word = bridge.word("pool")
        if word is None:
            if not bridge.has("pool") and pool.has("default"):
                return True
        elif name is not None and word.value == name.value:
            return True
    return False


def _check_nodes(names: _Names, pool_names: list[_Word | None]) -> None:
    for pool, name in zip(names.pools, pool_names, strict=True):
        for node in pool.items("nodes"):
            own = node.word("pool")
            if own is not None and name is not None and own.value != name.value:
                what = f"the node stands in pool {name.quoted()} and names another"
                names.fault(own.path, own.place, what, "a node is in exactly one pool; remove this key")
    for node in names.nodes:
        names.known(node.word("pool"), "pool", pool_names)
        _needs_default(names, node)


def _check_bridges(names: _Names, pool_names: list[_Word | None]) -> None:
    if names.complete and "bridges" not in names.root:
        names.report.warn((), "no bridges: nobody can hand mail in", "add one under `bridges`")
    for bridge in names.bridges:
        names.known(bridge.word("pool"), "pool", pool_names)
        _needs_default(names, bridge)
        if not any(bridge.has(key) and _filled(bridge.node.entries[key]) for key in ("credentials", "networks")):
            what = "no credentials and no networks: nobody can use this bridge"
            names.report.warn_at(bridge.node.place, key_path(bridge.path), what)


def _filled(node: Node) -> bool:
    return not isinstance(node, Sequence) or bool(node.items)


def _needs_default(names: _Names, item: _Item) -> None:
    if names.complete and not item.has("pool") and not names.has_default:
        what = '"pool" is missing and no pool is the default'
        names.fault(item.path, item.node.place, what, "name one, or set `default: true` on a pool")
