"""Who could reach what: open relays, logins in clear, two listeners on one port, mail in a circle, plain passwords."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network, IPv6Network, ip_address

from relay.config.checks.references import nodes_of
from relay.config.models import Config
from relay.config.models.server import ListenerModel
from relay.config.models.traffic import is_hash, node_options
from relay.config.places import Path, Report, find
from relay.config.secret_fields import secret_paths
from relay.config.yaml12 import Scalar, Sequence
from relay.upstreams.smtp_options import SmtpOptions

_WIDEST = {4: 8, 6: 16}
"""Shortest prefix of public addresses a bridge may let in: nobody owns more than a /8 (IPv4) or a /16 (IPv6)."""


def check_exposure(config: Config, report: Report) -> None:
    """Listeners, networks and secrets."""
    listed = find(report.root, ("listeners",))
    if listed.path and isinstance(listed.node, Sequence) and not listed.node.items:
        report.fault(("listeners",), "no listeners", "add one, or remove the key to listen on 127.0.0.1:2525")
    for index, listener in enumerate(config.listeners):
        _check_listener(listener, ("listeners", index), report)
    _check_ports(config, report)
    for index, bridge in enumerate(config.bridges):
        for number, network in enumerate(bridge.networks):
            _check_network(network, ("bridges", index, "networks", number), report)
    _check_loops(config, report)
    _check_plain_passwords(config, report)


def is_loopback(host: str) -> bool:
    """The address is reachable from this machine alone."""
    return ip_address(host).is_loopback


def _check_listener(listener: ListenerModel, path: Path, report: Report) -> None:
    has_tls = listener.tls != "none"
    if has_tls and (listener.cert is None or listener.key is None):
        lacking = " and ".join(name for name in ("cert", "key") if getattr(listener, name) is None)
        report.fault(path, f"tls: {listener.tls} needs {lacking}", "name the PEM files of certificate and key")
    if not has_tls and (listener.cert or listener.key):
        report.warn(path, "cert and key are not used with tls: none", "set tls: starttls or tls: implicit")
    if listener.bind.port == 0:
        report.warn((*path, "bind"), "port 0: the kernel chooses another port at each start", "for trying out only")
    if is_loopback(listener.bind.host):
        return
    if listener.auth_without_tls and listener.tls != "implicit":
        what = "logins are taken in clear text on an address that others can reach"
        report.warn((*path, "auth_without_tls"), what, "prefer tls: starttls without this key")
    elif not has_tls and listener.auth_without_tls is None:
        report.fault(
            path,
            "logins would pass in clear text on an address that others can reach",
            "set tls: starttls, or say auth_without_tls: true, or false for clients known by network only",
        )


def _check_ports(config: Config, report: Report) -> None:
    taken: list[tuple[ListenerModel, Path]] = []
    for index, listener in enumerate(config.listeners):
        path: Path = ("listeners", index, "bind")
        for other, other_path in taken:
            if _same_port(listener, other):
                where = report.place(other_path)
                report.fault(path, f"the port is taken by the listener at {where}", "choose another port or address")
                break
        taken.append((listener, path))


def _same_port(one: ListenerModel, other: ListenerModel) -> bool:
    if one.bind.port != other.bind.port or one.bind.port == 0:
        return False
    first, second = ip_address(one.bind.host), ip_address(other.bind.host)
    return first.version == second.version and (first == second or first.is_unspecified or second.is_unspecified)


def _check_network(network: IPv4Network | IPv6Network, path: Path, report: Report) -> None:
    if network.prefixlen == 0:
        report.fault(
            path, "lets the whole Internet in without a login: an open relay", "name the clients' own networks"
        )
    elif network.prefixlen < _WIDEST[network.version] and not network.is_private:
        what = f"lets {network.num_addresses:,} addresses in without a login: close to an open relay"
        report.fault(path, what, "name the clients' own networks")


def _check_loops(config: Config, report: Report) -> None:
    """A node that is one of our own listeners hands mail back to us until the Received count ends it."""
    for path, node in nodes_of(config):
        options = node_options(node)
        if not isinstance(options, SmtpOptions) or not options.host:  # a bridge of another relay may have a URL instead
            continue
        for listener in config.listeners:
            if options.port == listener.bind.port and _is_own(options.host, listener, config.hostname):
                what = f"this is the relay's own listener at {listener.bind}: mail would go round in a circle"
                report.warn((*path, "host"), what, "name the next server")
                break
        if options.password is not None and options.tls in ("none", "opportunistic") and not _is_local(options.host):
            what = f"with tls: {options.tls} the password may pass in clear text"
            report.warn((*path, "password"), what, "set tls: starttls or tls: implicit")


def _is_own(host: str, listener: ListenerModel, hostname: str | None) -> bool:
    bound = ip_address(listener.bind.host)
    if hostname is not None and host == hostname:
        return not bound.is_loopback
    if host == "localhost":
        return bound.is_loopback or bound.is_unspecified
    try:
        target = ip_address(host)
    except ValueError:
        return False
    return target == bound or (bound.is_unspecified and (target.is_loopback or target.is_unspecified))


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_plain_passwords(config: Config, report: Report) -> None:
    """One warning for each file: a list of two thousand would hide every other."""
    paths = [path for path, secret in secret_paths(config) if not is_hash(secret.get_secret_value())]
    counts: Counter[str] = Counter()
    first: dict[str, Path] = {}
    for path in paths:
        node = find(report.root, report.written(path)).node
        if isinstance(node, Scalar) and not node.origin:
            counts[node.place.file] += 1
            first.setdefault(node.place.file, path)
    for file, path in first.items():
        number = counts[file]
        what = f"the {_kind_of(path)} itself stands in the file"
        more = f" (and {number - 1} more in this file)" if number > 1 else ""
        report.warn(path, what + more, "`relay secret seal`, ${NAME}, ${file:/path} or, for bridges, a hash")


def _kind_of(path: Path) -> str:
    name = str(path[-1])
    return "password" if "password" in name else name.replace("_", " ")
