"""`relay dkim` against a name server on the loopback."""

from __future__ import annotations

import os
import shlex
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from relay.config.load import load
from tests.unit.cli.conftest import CONFIG, Cli

NAME = "s1._domainkey.acme.example"


class NameServer(threading.Thread):
    """Answers TXT from `records`: name -> text; None is SERVFAIL, an absent name NXDOMAIN."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.records: dict[str, str | None] = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def run(self) -> None:
        while True:
            data, peer = self.socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            response = dns.message.make_response(query)
            response.flags |= dns.flags.AA
            name = query.question[0].name
            text = self.records.get(name.to_text().rstrip("."), "absent")
            if text is None:
                response.set_rcode(dns.rcode.SERVFAIL)
            elif text == "absent":
                response.set_rcode(dns.rcode.NXDOMAIN)
            else:
                parts = [text[n : n + 200].replace(";", "\\;") for n in range(0, len(text), 200)]
                line = " ".join(f'"{part}"' for part in parts)
                response.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", line))
            self.socket.sendto(response.to_wire(), peer)

    def close(self) -> None:
        self.socket.sendto(b"", self.socket.getsockname())
        self.join(5)
        self.socket.close()


@pytest.fixture
def dns_server() -> Iterator[NameServer]:
    server = NameServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def key(cli: Cli, config: Path) -> dict[str, Any]:
    """A key that was made and configured the way the command says."""
    made: dict[str, Any] = cli("dkim", "keygen", "acme.example", "--json").json
    config.write_text(f"{CONFIG}dkim:\n  - {{domain: acme.example, selector: s1, key_file: {made['file']}}}\n")
    return made


def test_a_key_is_private_and_its_lines_can_be_pasted(cli: Cli, config: Path) -> None:
    ended = cli("dkim", "keygen", "Acme.Example")
    assert ended.code == 0
    path = Path("conf/dkim/acme.example.s1.pem")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "PRIVATE" not in ended.out
    record = next(line for line in ended.out.splitlines() if " IN TXT " in line)
    assert record.startswith(f"{NAME}. IN TXT (")
    strings = shlex.split(record.partition("(")[2].removesuffix(")"))
    assert all(len(part) <= 255 for part in strings)
    assert "".join(strings).startswith("v=DKIM1")
    config.write_text(CONFIG + ended.out[ended.out.index("dkim:\n") :])
    assert load(config).config.dkim[0].domain == "acme.example"
    assert cli("check").code == 0


def test_a_key_is_never_overwritten(cli: Cli) -> None:
    assert cli("dkim", "keygen", "acme.example", "--kind", "ed25519").code == 0
    before = Path("conf/dkim/acme.example.s1.pem").read_bytes()
    ended = cli("dkim", "keygen", "acme.example")
    assert (ended.code, Path("conf/dkim/acme.example.s1.pem").read_bytes()) == (os.EX_CANTCREAT, before)
    assert cli("dkim", "keygen", "acme.example", "--selector", "s2").code == 0


@pytest.mark.parametrize(
    "args",
    [
        ["../../etc/passwd"],
        ["acme example"],
        [""],
        ["acme.example", "--selector", "a/b"],
        ["a.example", "--bits", "512"],
    ],
)
def test_what_is_no_domain_selector_or_size_makes_no_file(cli: Cli, tmp_path: Path, args: list[str]) -> None:
    ended = cli("dkim", "keygen", *args)
    assert ended.code == os.EX_USAGE
    assert ended.err
    assert not list(tmp_path.iterdir())


def test_a_published_key_is_in_order(cli: Cli, key: dict[str, Any], dns_server: NameServer) -> None:
    dns_server.records[NAME] = key["value"]
    ended = cli("dkim", "check", "--nameserver", dns_server.address)
    assert (ended.code, ended.out) == (0, f"ok   {NAME}: in order\n")


@pytest.mark.parametrize(
    ("record", "code", "standing"),
    [
        ("absent", os.EX_DATAERR, "missing"),
        ("v=DKIM1; p=", os.EX_DATAERR, "revoked"),
        ("v=spf1 -all", os.EX_DATAERR, "malformed"),
        (None, os.EX_TEMPFAIL, "unknown"),
    ],
)
def test_what_is_wrong_in_dns_is_told_with_the_record_to_publish(
    cli: Cli, key: dict[str, Any], dns_server: NameServer, record: str | None, code: int, standing: str
) -> None:
    dns_server.records[NAME] = record
    ended = cli("dkim", "check", "acme.example", "--nameserver", dns_server.address)
    assert ended.code == code
    assert ended.out.startswith(f"FAIL {NAME}: ")
    assert (key["value"] in ended.out.replace("\n", "")) == (standing != "unknown")
    (row,) = cli("dkim", "check", "--nameserver", dns_server.address, "--json").json
    assert (row["ok"], row["standing"]) == (False, standing)


def test_another_domain_is_not_configured(cli: Cli, key: dict[str, Any]) -> None:
    ended = cli("dkim", "check", "other.example")
    assert ended.code == os.EX_DATAERR
    assert "there are: acme.example" in ended.err


def test_without_any_key_the_next_step_is_told(cli: Cli, config: Path) -> None:
    ended = cli("dkim", "check")
    assert ended.code == os.EX_DATAERR
    assert "relay dkim keygen" in ended.err


@pytest.mark.parametrize("server", ["ns1.example", "127.0.0.1:port", "[::1"])
def test_a_name_server_is_an_address(cli: Cli, key: dict[str, Any], server: str) -> None:
    ended = cli("dkim", "check", "--nameserver", server)
    assert ended.code == os.EX_USAGE
    assert "address" in ended.err
