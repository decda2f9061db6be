"""The systems under test, each started the way its operator would: the relay, and Postfix alone or with OpenDKIM.

All take mail on a loopback port and hand everything to one smarthost, the sink. All keep their default durability and
write their logs to files. Nothing of the machine's own mail set-up is read or changed: Postfix runs from a private
configuration and ends with its whole process group.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trustme

from bench.client import HOST, numbered
from bench.load import UNPACKED, UNPRIVILEGED, end, listens, programs
from relay.signing.keys import keygen
from tests.scenario.harness import Relay as RelayProcess
from tests.scenario.harness import base_config, free_port, wait_for

USER, PASSWORD = "app", "app-password"
LOGIN = f"{USER}:{PASSWORD}"
DOMAIN, SELECTOR = "acme.example", "bench"
WAITING = "127.0.0.2"
"""Clients of this address send to the pool that waits."""

BRIDGES_A_FILE = 2_000
"""A file of the configuration holds a megabyte."""

SESSIONS = 1000
"""Room for every client here; all of them come from one address."""

DELIVERS = "mail"
"""Group of Debian that Postfix takes for its queue; it must not be that of the mail owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """How clients come in: with a login, else admitted by network; with STARTTLS or in the clear."""

    login: bool = False
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Keys:
    """Files every system shares: a certificate, and a DKIM key of each kind."""

    chain: Path
    key: Path
    dkim: dict[str, Path]

    @classmethod
    def make(cls, folder: Path) -> Keys:
        server = trustme.CA().issue_cert("localhost", HOST)
        made = cls(folder / "chain.pem", folder / "key.pem", {})
        server.cert_chain_pems[0].write_to_path(made.chain)
        server.private_key_pem.write_to_path(made.key)
        for kind in ("rsa", "ed25519"):
            made.dkim[kind] = folder / f"{kind}.pem"
            made.dkim[kind].write_bytes(keygen(kind, 2048)[0])
        for path in (made.key, *made.dkim.values()):
            path.chmod(0o600)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a relay has beside the mail that is measured.

    Attributes:
        queued: messages that wait in a pool of their own, whose node is paused.
        pools: with a node each; the measured mail is that of the bridges used.
        bridges: with a login each; they take turns with the pools.
        connections: clients at once.
    """

    queued: int = 0
    pools: int = 1
    bridges: int = 1
    connections: int = SESSIONS


class System(Protocol):
    """One system under test, running since it was made.

    Attributes:
        port: where it takes mail.
        roots: processes whose families are the system.
        folder: everything it wrote.
    """

    port: int
    roots: list[int]
    folder: Path

    def close(self) -> None: ...


class Relay:
    """This project, everything on: stamping, caps, health, events, history, one worker for each core.

    Args:
        shape: the default is what an empty relay of one bridge has.
        module: what is run instead of `relay`.
        wait: until it greets.
    """

    def __init__(
        self,
        folder: Path,
        keys: Keys,
        sink_port: int,
        door: Door,
        sign: str = "",
        *,
        shape: Shape | None = None,
        module: str = "relay",
        wait: bool = True,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        config = self._config(keys, sink_port, door, sign, shape or Shape())
        self._process = RelayProcess(folder, config, self.port, module=module)
        try:
            if wait:
                self._process.start()
            else:
                self._process.launch()
        except BaseException:
            self._process.close()
            raise
        assert self._process.process is not None
        self.roots = [self._process.process.pid]

    def _config(self, keys: Keys, sink_port: int, door: Door, sign: str, shape: Shape) -> dict[str, Any]:
        caps = {"second": 100_000, "hour": 50_000_000, "day": 500_000_000}
        node = {"name": "smarthost", "type": "smtp", "host": HOST, "port": sink_port, "tls": "none", "caps": caps}
        listener: dict[str, Any] = {"bind": f"{HOST}:{self.port}", "tls": "none", "auth_without_tls": True}
        if door.tls:
            listener |= {"tls": "starttls", "cert": str(keys.chain), "key": str(keys.key)}
        config = base_config(self.port, [node], workers="auto", listeners=[listener])
        for key in ("retry", "health", "uncertain", "drain"):
            del config[key]  # the defaults of the relay, not those of the tests
        config["store"] = self._store(config["store"])
        main = config["pools"][0]
        config["pools"] = [
            main | {"name": f"main{n or ''}", "id": 7 + n, "nodes": [node | {"name": f"smarthost{n or ''}"}]}
            for n in range(shape.pools)
        ]
        bridges = [_bridge(n, f"main{n % shape.pools or ''}") for n in range(shape.bridges)]
        if not door.login:
            bridges[0]["networks"] = [f"{HOST}/32"]
        config["bridges"] = bridges[:BRIDGES_A_FILE]
        config["include"] = []
        for start in range(BRIDGES_A_FILE, len(bridges), BRIDGES_A_FILE):
            config["include"].append(f"bridges-{start}.yaml")
            (self.folder / config["include"][-1]).write_text(json.dumps({"bridges": bridges[start:][:BRIDGES_A_FILE]}))
        if shape.queued:
            config["pools"].append(main | {"name": "waiting", "id": 5, "nodes": [node | {"name": "paused"}]})
            config["bridges"].append({"name": "waiting", "pool": "waiting", "networks": [f"{WAITING}/32"]})
        config["limits"] = {"connections": shape.connections, "per_address": shape.connections, "idle": "10m"}
        config["headers"] = {"X-Relayed-By": "acme"}
        config["admin"] = {"bind": f"{HOST}:{free_port()}"}  # the control process is part of what is measured
        if sign:
            config["dkim"] = [{"domain": DOMAIN, "selector": SELECTOR, "key_file": str(keys.dkim[sign])}]
        return config

    @staticmethod
    def lacks() -> str:
        """What must be installed before it can run; empty when all is there."""
        return ""

    def _store(self, local: Any) -> Any:
        return local

    def pause(self, node: str) -> None:
        """On return no worker starts another attempt with it."""
        self._process.ask("node_pause", name=node, reason="bench", by="bench")

    def resume(self, node: str) -> None:
        self._process.ask("node_resume", name=node, by="bench")

    def queued(self) -> int:
        return self._process.queued()

    def close(self) -> None:
        try:
            self._process.stop(seconds=40)
        finally:
            self._process.close()


def _bridge(number: int, pool: str) -> dict[str, Any]:
    user, _, password = numbered(LOGIN, number).partition(":")
    credentials = [{"username": user, "password": password}]
    return {"name": user, "pool": pool, "senders": [f"@{DOMAIN}"], "credentials": credentials}


_QUEUE_FOLDERS = "active bounce corrupt defer deferred flush hold incoming maildrop pid private public saved trace"
_SERVICES = """\
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
retry     unix  - - n - - error
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """Postfix as a smarthost relay; with `sign` OpenDKIM signs as its milter."""

    def __init__(self, folder: Path, keys: Keys, sink_port: int, door: Door, sign: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self._started: list[subprocess.Popen[bytes]] = []
        try:
            milter = self._start_opendkim(keys.dkim[sign]) if sign else ""
            self._configure(keys, sink_port, door, milter)
            self._start([programs().master, "-c", self.folder / "config"])
            wait_for(self._greets, what="Postfix's greeting")
        except BaseException:
            self.close()
            raise
        self.roots = [process.pid for process in self._started]

    def _start_opendkim(self, key: Path) -> str:
        """Its address for Postfix: a local socket as Debian has it, since TCP adds 40 ms of waiting to each message."""
        address = self.folder / "opendkim.sock"
        path = self.folder / "opendkim.conf"
        path.write_text(
            f"Mode s\nDomain {DOMAIN}\nSelector {SELECTOR}\nKeyFile {key}\nCanonicalization relaxed/relaxed\n"
            f"Socket local:{address}\nUMask 000\nSyslog no\nRequireSafeKeys no\n"
        )
        self._start(["/usr/sbin/opendkim", "-f", "-x", path])
        wait_for(address.exists, what="OpenDKIM")
        return f"unix:{address}"

    def _configure(self, keys: Keys, sink_port: int, door: Door, milter: str) -> None:
        config, queue, data = (self.folder / name for name in ("config", "queue", "data"))
        owner = pwd.getpwnam(UNPRIVILEGED).pw_uid
        for path in (config, queue, data, *(queue / name for name in _QUEUE_FOLDERS.split())):
            path.mkdir()
            if path not in (config, queue, queue / "pid"):
                os.chown(path, owner, -1)
        settings: dict[str, Any] = {
            "compatibility_level": "3.6",
            "queue_directory": queue,
            "data_directory": data,
            "mail_owner": UNPRIVILEGED,
            "setgid_group": DELIVERS,
            "default_privs": "nobody",
            "maillog_file": self.folder / "postfix.log",
            "maillog_file_prefixes": self.folder,
            "myhostname": "postfix.example.com",
            "inet_interfaces": HOST,
            "inet_protocols": "ipv4",
            "mynetworks": "192.0.2.1/32" if door.login else f"{HOST}/32",
            "mydestination": "",
            "alias_maps": "",
            "relayhost": f"[{HOST}]:{sink_port}",
            "smtpd_peername_lookup": "no",
            "smtpd_client_connection_count_limit": SESSIONS,
            "message_size_limit": 30_000_000,
        }
        if programs().environment:
            settings |= {
                "import_environment": "MAIL_CONFIG TZ LANG LD_LIBRARY_PATH",
                "meta_directory": config,
                "daemon_directory": UNPACKED / "usr/lib/postfix/sbin",
                "command_directory": UNPACKED / "usr/sbin",
                "shlib_directory": UNPACKED / "usr/lib/postfix",
            }
        if door.tls:
            settings |= {"smtpd_tls_security_level": "may", "smtpd_tls_chain_files": f"{keys.key}, {keys.chain}"}
        if door.login:
            settings |= {
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
                "smtpd_sasl_local_domain": "postfix.example.com",
                "cyrus_sasl_config_path": config / "sasl",
            }
            self._write_logins(config)
        if milter:
            settings["smtpd_milters"] = milter
        (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        # One process for each session, as many as the clients open: the default bound of 100 is for the open Internet.
        door_line = f"{HOST}:{self.port} inet n - n - {SESSIONS} smtpd\n"
        (config / "master.cf").write_text(_SERVICES + door_line)

    def _write_logins(self, config: Path) -> None:
        """The login in Cyrus SASL's own database, without dovecot or saslauthd."""
        database = self.folder / "sasldb"
        command = [str(programs().saslpasswd), "-c", "-p", "-f", str(database), "-u", "postfix.example.com", USER]
        subprocess.run(command, input=PASSWORD.encode(), check=True, capture_output=True)
        os.chown(database, pwd.getpwnam(UNPRIVILEGED).pw_uid, -1)
        (config / "sasl").mkdir()  # of this name, because Debian's build looks there whatever it is told
        (config / "sasl" / "smtpd.conf").write_text(
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {database}\n"
        )

    def _start(self, command: list[Any]) -> None:
        environment = {**os.environ, **programs().environment, "MAIL_CONFIG": str(self.folder / "config")}
        with (self.folder / "output.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)

    def _greets(self) -> bool:
        if (code := self._started[-1].poll()) is not None:
            said = [path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log")]
            raise RuntimeError(f"Postfix ended with {code}:\n" + "\n".join(said))
        return listens(self.port)

    def close(self) -> None:
        for process in reversed(self._started):
            end(process)


@dataclass(frozen=True, slots=True)
class Kind:
    """A system that can be started.

    Attributes:
        name: in tables.
        adds: beginnings of header lines that what it passes on must have.
        sign: kind of DKIM key it signs with; empty = it does not sign.
        shape: of a relay.
        module: what a relay is run by.
    """

    name: str
    make: type[Relay | Postfix]
    adds: tuple[str, ...]
    sign: str = ""
    shape: Shape = Shape()
    module: str = "relay"

    def start(self, folder: Path, keys: Keys, sink_port: int, door: Door) -> Relay | Postfix:
        """The system, running and empty."""
        if issubclass(self.make, Postfix):
            return self.make(folder, keys, sink_port, door, self.sign)
        return self.make(folder, keys, sink_port, door, self.sign, shape=self.shape, module=self.module)

    def missing(self, door: Door) -> str:
        """What must be installed before it can run through this door; empty when all is there."""
        if issubclass(self.make, Relay):
            return self.make.lacks()
        if programs().master is None:
            return "Postfix (root on Debian: make interop)"
        if self.sign and not shutil.which("opendkim", path="/usr/sbin:/usr/bin"):
            return "OpenDKIM (root on Debian: make interop)"
        if door.login and programs().saslpasswd is None:
            return "saslpasswd2 (root on Debian: make interop)"
        return ""


STAMPS = ("X-Virtual-MTA: acme-42-mta4-pool-7", "X-Feedtype:", "X-Zone:", "X-ServerID:", "X-Relayed-By:", "Received:")
SIGNATURE = "DKIM-Signature:"

RELAY = Kind("relay", Relay, STAMPS)
RELAY_RSA = Kind("relay, DKIM RSA", Relay, (*STAMPS, SIGNATURE), "rsa")
RELAY_ED25519 = Kind("relay, DKIM Ed25519", Relay, (*STAMPS, SIGNATURE), "ed25519")
POSTFIX = Kind("Postfix", Postfix, ("Received:",))
POSTFIX_RSA = Kind("Postfix + OpenDKIM", Postfix, ("Received:", SIGNATURE), "rsa")
