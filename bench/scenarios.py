"""What is measured: loads, and the systems that each is put to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.load import Load
from bench.peers import LOGIN, POSTFIX, POSTFIX_RSA, RELAY, RELAY_ED25519, RELAY_RSA, Door, Kind, Relay
from bench.shared import RELAY_SHARED, RELAY_STATE
from bench.targets import Target

MOST_LOGINS = 1_000
"""So many bridges send at most: with more, nearly every message of a run would be the first of its bridge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One table.

    Attributes:
        messages: in one run, for about six seconds of work.
        probe_every_s: pause between the probe's messages, which count like the others.
        base: the relay that the other relays are compared with, where there is no peer.
        targets: by names of `kinds` and columns of `report.COLUMNS`.
        note: what a reader must know.
    """

    name: str
    title: str
    load: Load
    messages: int
    kinds: tuple[Kind, ...] = (RELAY, POSTFIX)
    probe_every_s: float = 0.02
    note: str = ""
    base: str = ""
    targets: tuple[Target, ...] = ()

    def load_for(self, kind: Kind) -> Load:
        """The same mail for all; where clients log in, by all the bridges that this one has."""
        return replace(self.load, logins=min(kind.shape.bridges, MOST_LOGINS)) if self.load.login else self.load

    @property
    def relays(self) -> set[str]:
        """Names of what is compared with the others."""
        return {kind.name for kind in self.kinds if kind.make is Relay and kind.name != self.base}

    @property
    def door(self) -> Door:
        return Door(login=bool(self.load.login), tls=self.load.tls)


_BY_NETWORK = "clients are admitted by network, without AUTH; smtp-source sends"
_OWN_SOURCE = "this project's own source sends to both sides"

SCENARIOS = (
    Scenario(
        name="sessions-20",
        title="20 sessions, 4 kB, connections kept",
        load=Load(sessions=20),
        messages=6000,
        kinds=(RELAY, POSTFIX, POSTFIX_RSA),
        note=_BY_NETWORK,
        targets=(
            Target(of=RELAY.name, column="delivered", over=POSTFIX.name, least=3.5),
            Target(of=RELAY.name, column="cpu_us", over=POSTFIX.name, most=0.4),
            Target(of=RELAY.name, column="p99_ms_at_80", over=POSTFIX.name, most=1.0),
        ),
    ),
    Scenario(
        name="dkim",
        title="20 sessions, 4 kB, signed",
        load=Load(sessions=20),
        messages=5000,
        kinds=(RELAY_RSA, POSTFIX_RSA, RELAY_ED25519),
        note=f"RSA-2048 or Ed25519; {_BY_NETWORK}",
        targets=(Target(of=RELAY_RSA.name, column="delivered", over=POSTFIX_RSA.name, least=5.0),),
    ),
    Scenario(
        name="stores",
        title="20 sessions, 4 kB, stores local and shared",
        load=Load(sessions=20),
        messages=5000,
        kinds=(RELAY, RELAY_STATE, RELAY_SHARED),
        note=f"the server (appendfsync always) is on the same disk and counts as part of the system; {_BY_NETWORK}",
    ),
    Scenario(
        name="sessions-1",
        title="1 session, 4 kB, connection kept",
        load=Load(sessions=1),
        messages=1500,
        note=_BY_NETWORK,
    ),
    Scenario(
        name="sessions-200",
        title="200 sessions, 4 kB, connections kept",
        load=Load(sessions=200),
        messages=6000,
        note=_BY_NETWORK,
    ),
    Scenario(
        name="fresh-auth",
        title="20 sessions, 4 kB, a new connection and AUTH PLAIN for each message",
        load=Load(sessions=20, fresh=True, login=LOGIN),
        messages=4000,
        note=f"{_OWN_SOURCE}; Postfix checks the login in Cyrus SASL's sasldb",
        targets=(Target(of=RELAY.name, column="delivered", over=POSTFIX.name, least=2.0),),
    ),
    Scenario(
        name="starttls",
        title="20 sessions, 4 kB, STARTTLS, connections kept",
        load=Load(sessions=20, tls=True),
        messages=5000,
        note=f"{_OWN_SOURCE}; admitted by network, without AUTH",
    ),
    Scenario(
        name="size-50k",
        title="20 sessions, 50 kB, connections kept",
        load=Load(sessions=20, size=50_000),
        messages=4000,
        note=_BY_NETWORK,
    ),
    Scenario(
        name="size-5m",
        title="20 sessions, 5 MB, connections kept",
        load=Load(sessions=20, size=5_000_000),
        messages=200,
        probe_every_s=0.5,
        note=f"the probe sends two messages of 4 kB a second, few to take percentiles of; {_BY_NETWORK}",
    ),
    Scenario(
        name="rcpt-10",
        title="20 sessions, 4 kB to 10 recipients, connections kept",
        load=Load(sessions=20, recipients=10),
        messages=3000,
        note=_BY_NETWORK,
    ),
)
