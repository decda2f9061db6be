"""Which bridge a client gets: by login, by address, by name.

`Registry` is one immutable look-up over all bridges; a reload makes a new one and swaps it in `BridgeGate`, which
joins the current registry with password checking and failure throttling and has the shape of the entry half of
`listener.submission.Acceptor`.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from relay.bridges.bridge import Bridge
from relay.bridges.credentials import PasswordChecker, Secret, normalise_name, parse_secret, stand_in
from relay.bridges.policy import BridgePolicy
from relay.bridges.throttle import AuthThrottle
from relay.envelope import Reply
from relay.errors import AcceptanceError, ConfigError

THROTTLED = Reply(454, "4.7.0", "Too many failed logins; try again later")

_MAPPED = 0xFFFF  # upper 96 bits of ::ffff:a.b.c.d


class _Login(NamedTuple):
    bridge: Bridge
    secret: Secret


class Registry:
    """All bridges of one configuration. Never changes.

    Args:
        bridges: in any order.
        previous: the registry this one replaces; bridges that did not change keep their identity, so that `admits`
            stays one comparison for the sessions that hold them.

    Raises:
        ConfigError: all faults, one a line: a bridge, username or network given twice, an unusable secret.
    """

    def __init__(self, bridges: Sequence[Bridge], *, previous: Registry | None = None) -> None:
        self._by_name: dict[str, Bridge] = {}
        self._logins: dict[str, _Login] = {}
        self._tokens: dict[bytes, _Login] = {}
        self._policies: dict[str, BridgePolicy] = {}
        faults: list[str] = []
        networks: dict[tuple[int, int], dict[int, Bridge]] = {}
        for given in bridges:
            bridge = given
            if previous is not None and (before := previous.named(given.name)) == given and before is not None:
                bridge = before
            if bridge.name in self._by_name:
                faults.append(f"bridge {bridge.name!r}: the name is taken")
                continue
            self._by_name[bridge.name] = bridge
            self._add_logins(bridge, faults)
            self._add_networks(bridge, networks, faults)
        if faults:
            raise ConfigError("\n".join(faults))
        self._stand_in = stand_in(login.secret for login in self._logins.values())
        # For each IP version the tables by prefix length, longest first: a look-up is one dict probe for each length
        # in use, whatever the number of networks.
        self._networks: dict[int, list[tuple[int, dict[int, Bridge]]]] = {4: [], 6: []}
        for (version, shift), table in sorted(networks.items()):
            self._networks[version].append((shift, table))

    def _add_logins(self, bridge: Bridge, faults: list[str]) -> None:
        for credential in bridge.credentials:
            name = normalise_name(credential.username)
            where = f"bridge {bridge.name!r}: username {credential.username!r}"
            try:
                secret = parse_secret(credential.secret)
            except ConfigError as error:
                faults.append(f"{where}: {error}")
                continue
            if not name:
                faults.append(f"{where}: must not be empty")
            elif name in self._logins:
                faults.append(f"{where}: is taken by bridge {self._logins[name].bridge.name!r}")
            else:
                login = self._logins[name] = _Login(bridge, secret)
                if credential.secret.startswith("sha256:"):
                    self._tokens[secret.stored] = login

    def _add_networks(
        self, bridge: Bridge, networks: dict[tuple[int, int], dict[int, Bridge]], faults: list[str]
    ) -> None:
        for network in bridge.networks:
            shift, number = network.max_prefixlen - network.prefixlen, int(network.network_address)
            version = network.version
            if version == 6 and shift <= 32 and number >> 32 == _MAPPED:  # what `for_address` takes for IPv4
                version, number = 4, number & 0xFFFFFFFF
            table = networks.setdefault((version, shift), {})
            prefix = number >> shift
            holder = table.setdefault(prefix, bridge)
            if holder is not bridge:
                faults.append(f"bridge {bridge.name!r}: network {network} is taken by bridge {holder.name!r}")

    def named(self, name: str) -> Bridge | None:
        return self._by_name.get(name)

    def of_username(self, username: str) -> Bridge | None:
        login = self._logins.get(normalise_name(username))
        return login.bridge if login else None

    def for_address(self, address: str) -> Bridge | None:
        """The bridge whose networks hold this client, most specific first. IPv4-mapped IPv6 counts as IPv4."""
        try:
            if ":" not in address:
                version, number = 4, int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")
            else:
                packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
                version, number = 6, int.from_bytes(packed, "big")
        except (OSError, ValueError):
            return None
        if version == 6 and number >> 32 == _MAPPED:
            version, number = 4, number & 0xFFFFFFFF
        for shift, table in self._networks[version]:
            bridge = table.get(number >> shift)
            if bridge is not None:
                return bridge
        return None

    def admits(self, bridge: Bridge) -> bool:
        """False when `bridge` is gone or differs from what a session holds; see `renewed`."""
        current = self._by_name.get(bridge.name)
        return current is bridge or current == bridge

    def renewed(self, bridge: Bridge, username: str) -> Bridge | None:
        """What the bridge that a session logged in with as `username` has become; None when that login would not open
        it any more: the name is gone, belongs to another bridge or has another secret."""
        current = self._by_name.get(bridge.name)
        if current is None:
            return None
        name = normalise_name(username)

        def secrets_of(one: Bridge) -> list[str]:
            return [c.secret for c in one.credentials if normalise_name(c.username) == name]

        return current if secrets_of(bridge) and secrets_of(bridge) == secrets_of(current) else None

    def policy(self, bridge: Bridge) -> BridgePolicy:
        """What `bridge` may send; compiled at its first use."""
        policy = self._policies.get(bridge.name)
        if policy is None or policy.bridge is not bridge:
            policy = BridgePolicy(bridge)
            if self._by_name.get(bridge.name) is bridge:
                self._policies[bridge.name] = policy
        return policy

    async def authenticate(self, username: str, password: str, passwords: PasswordChecker) -> Bridge | None:
        """The bridge these credentials open, or None. An unknown name costs what a wrong password costs.

        Raises:
            AcceptanceError: 454 when too many checks are waiting.
        """
        name = normalise_name(username)
        login = self._logins.get(name)
        opened = await passwords.check(name, password, login.secret if login else self._stand_in)
        return login.bridge if login and opened else None

    def of_token(self, token: str) -> Bridge | None:
        """The bridge of a generated token (a `sha256:` credential) presented without its username.

        The look-up is by digest: what its time could tell is a prefix of a hash, and nothing about the token.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        login = self._tokens.get(digest)
        return login.bridge if login else None

    def __iter__(self) -> Iterator[Bridge]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


class BridgeGate:
    """The way in: the registry of the running configuration with the checks around it.

    Args:
        sleep: called with the seconds a failed login waits for its answer.
    """

    def __init__(
        self,
        registry: Registry,
        passwords: PasswordChecker,
        throttle: AuthThrottle,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._registry = registry
        self._passwords = passwords
        self._throttle = throttle
        self._clock = clock
        self._sleep = sleep

    @property
    def registry(self) -> Registry:
        return self._registry

    def replace(self, registry: Registry) -> None:
        """Use `registry` from now on. Sessions go on with what it has for their login, if it has it."""
        self._registry = registry

    async def authenticate(self, username: str, password: str, *, peer: str) -> Bridge | None:
        """See `Acceptor.authenticate`. A failure is answered late, by 1 s and more the more there were."""
        name = normalise_name(username)
        if not self._throttle.admits(peer, name, self._clock()):
            raise AcceptanceError(THROTTLED)
        bridge = await self._registry.authenticate(name, password, self._passwords)
        if bridge is not None and self._registry.admits(bridge):  # not revoked while the hash was computed
            self._throttle.succeeded(peer, name, self._clock())
            return bridge
        await self._sleep(self._throttle.failed(peer, name, self._clock()))
        return None

    async def authenticate_token(self, token: str, *, peer: str) -> Bridge | None:
        """As `authenticate`, for a generated token alone. Raises AcceptanceError when throttled."""
        name = "(token)"
        if not self._throttle.admits(peer, name, self._clock()):
            raise AcceptanceError(THROTTLED)
        bridge = self._registry.of_token(token)
        if bridge is not None:
            return bridge
        await self._sleep(self._throttle.failed(peer, name, self._clock()))
        return None

    def bridge_for(self, address: str) -> Bridge | None:
        return self._registry.for_address(address)

    def admits(self, bridge: Bridge) -> bool:
        return self._registry.admits(bridge)

    def renewed(self, bridge: Bridge, username: str) -> Bridge | None:
        return self._registry.renewed(bridge, username)
