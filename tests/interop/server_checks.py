"""What every mail server must find right about what the relay sends it; one module for each server runs these.

A relay with one pool for each way to reach the server stands in front of it. The clear way passes a wiretap, so that
the tests see both what was said and what was stored.
"""

from __future__ import annotations

import email
import email.policy
import re
import smtplib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.interop.gateway import Certificates
from tests.interop.keys import Records, make_keys, verifies
from tests.interop.samples import BODY, assert_passed_on, assert_stamped, fields, message, unix
from tests.interop.servers.base import DOMAIN, PASSWORD, SMALL, USER, Server
from tests.interop.wiretap import Wiretap
from tests.scenario.harness import Relay, base_config, free_port, wait_for

LETTERS = b"The quick brown fox jumps over the lazy dog. \xc3\xa4\xc3\xb6\xc3\xbc .\r\n"


CONNECTIONS = 4


class Rig:
    """A server, and a relay in front of it with a login for each way."""

    def __init__(self, folder: Path, certificates: Certificates, server: Server) -> None:
        self.server = server
        self.taps = {door: Wiretap(server.ports[door]) for door in ("plain", "old") if door in server.ports}
        self.tap = self.taps["plain"]
        nodes = self._nodes(server, certificates)
        self.pools = {name: 100 + number for number, name in enumerate(nodes)}
        port = free_port()
        config = base_config(port, [])
        config["pools"] = [
            {"name": name, "id": number, "mta": "mta4", "feedtype": "transactional", "nodes": [nodes[name]]}
            for name, number in self.pools.items()
        ]
        config["bridges"] = [
            {"name": name, "pool": name, "credentials": [{"username": name, "password": "secret"}]} for name in nodes
        ]
        config["dkim"], self.records = make_keys(folder)
        self.relay = Relay(folder, config, port)

    def _nodes(self, server: Server, certificates: Certificates) -> dict[str, dict[str, Any]]:
        login = {"username": USER, "password": PASSWORD}
        verify = {"ca_file": str(certificates.ca), "hostname": "localhost"}
        nodes: dict[str, dict[str, Any]] = {
            "plain": {"port": self.tap.port, "tls": "none", "connections": CONNECTIONS},
            "small": {"port": server.ports["small"], "tls": "none"},
        }
        for mechanism in ("auto", *server.MECHANISMS):
            nodes[f"starttls-{mechanism}"] = {
                "port": server.ports["submission"], "tls": "starttls", "verify": verify, "auth": mechanism, **login
            }  # fmt: skip
            nodes[f"implicit-{mechanism}"] = {
                "port": server.ports["submissions"], "tls": "implicit", "verify": verify, "auth": mechanism, **login
            }  # fmt: skip
        if "login-only" in server.ports:
            nodes["login-only"] = {
                "port": server.ports["login-only"], "tls": "starttls", "verify": verify, "auth": "auto", **login
            }  # fmt: skip
        if "old" in server.ports:
            nodes["old"] = {"port": self.taps["old"].port, "tls": "none"}
        nodes["stranger"] = {**nodes["starttls-auto"], "verify": True}
        nodes["other-name"] = {**nodes["starttls-auto"], "verify": {**verify, "hostname": "other.example"}}
        nodes["wrong-password"] = {**nodes["starttls-auto"], "password": "wrong"}
        return {name: {"name": name, "type": "smtp", "host": "127.0.0.1", **node} for name, node in nodes.items()}

    def submit(
        self,
        way: str,
        sender: str,
        recipients: Sequence[str],
        content: bytes,
        mail: Sequence[str] = (),
        rcpt: Sequence[str] = (),
    ) -> None:
        """Hand a message to the relay; each `mail` and `rcpt` is a parameter of that command."""
        with smtplib.SMTP("127.0.0.1", self.relay.port, timeout=30) as client:
            client.login(way, "secret")
            if "SMTPUTF8" in mail:
                client.command_encoding = "utf-8"
            assert client.mail(sender, list(mail))[0] == 250
            for recipient in recipients:
                assert client.rcpt(recipient, list(rcpt))[0] == 250
            code, said = client.data(content)
            assert code == 250, said

    def close(self) -> None:
        self.relay.close()
        for tap in self.taps.values():
            tap.close()
        self.server.close()


def running(server: Server, folder: Path, certificates: Certificates) -> Iterator[Rig]:
    """Body of each module's fixture `rig`."""
    try:
        server.start()
        rig = Rig(folder, certificates, server)
    except BaseException:
        server.close()
        raise
    try:
        rig.relay.start()
        yield rig
    finally:
        rig.close()


def octets(size: int) -> bytes:
    """A body of 8-bit lines, every 100th one of them a lone dot."""
    line = LETTERS * 100 + b".\r\n"
    return (line * (size // len(line) + 1))[:size].rpartition(b"\r\n")[0] + b"\r\n"


def decoded(stored: bytes) -> str:
    """The text of a message with one part, whatever it was encoded with for the way; LF line ends."""
    return email.message_from_bytes(stored, policy=email.policy.default).get_content()


def at(name: str) -> str:
    return f"{name}@{DOMAIN}"


def assert_signatures_verify(stored: bytes, records: Records) -> None:
    """RSA and Ed25519, with the trace of the server on top and its line ends made those of the wire again."""
    content = stored.replace(b"\n", b"\r\n")
    assert [re.search(rb"s=([a-z]+)", value)[1] for value in fields(content, "DKIM-Signature")] == [b"rsa", b"ed"]
    assert verifies(content, 0, records)
    assert verifies(content, 1, records)


def report_of(rig: Rig, sender: str) -> bytes:
    """The report in the sender's mailbox."""
    return rig.server.wait_stored(sender)[0]


class ServerChecks:
    """Tests; subclasses are the modules `test_with_*.py`."""

    def test_envelope_and_content_arrive_as_they_were_sent(self, rig: Rig):
        original = message("as-sent")
        recipients = [at("first"), at("second+tag")]
        rig.submit("plain", "bounces+1=x@acme.example", recipients, original)
        for recipient in recipients:
            stored = rig.server.wait_stored(recipient)[0]
            assert_passed_on(stored, original, rig.pools["plain"])
            assert re.search(rb"(?i)^return-path: <bounces\+1=x@acme.example>\n", stored)
        said = rig.tap.transaction(recipients[0])
        assert said.rcpt == [f"RCPT TO:<{recipient}>" for recipient in recipients]
        assert_passed_on(said.content, original, rig.pools["plain"])
        assert stored.endswith(unix(said.content))

    def test_the_null_reverse_path_stays_null(self, rig: Rig):
        rig.submit("plain", "", [at("null")], message("null"))
        assert re.search(rb"(?i)^return-path: <>\n", rig.server.wait_stored(at("null"))[0])
        assert rig.tap.transaction(at("null")).mail.startswith("MAIL FROM:<>")

    def test_what_the_server_offers_is_used(self, rig: Rig):
        rig.submit("plain", "a@acme.example", [at("offers")], message("offers"))
        rig.server.wait_stored(at("offers"))
        session, said = rig.tap.session(at("offers")), rig.tap.transaction(at("offers"))
        offers = rig.server.OFFERS
        assert offers <= session.offers()
        assert ("8BITMIME" in offers) == (" BODY=8BITMIME" in said.mail)
        size = re.search(r" SIZE=([0-9]+)", said.mail)
        assert ("SIZE" in offers) == (size is not None)
        if size is not None:
            assert int(size[1]) == len(said.content)
        assert "SMTPUTF8" not in said.mail
        assert waits_between(session.said, at("offers")) == (0 if "PIPELINING" in offers else 2)

    def test_ascii_content_is_not_declared_8bit(self, rig: Rig):
        rig.submit("plain", "a@acme.example", [at("ascii")], message("ascii", body=b"plain\r\n"), ["BODY=8BITMIME"])
        rig.server.wait_stored(at("ascii"))
        assert "BODY=8BITMIME" not in rig.tap.transaction(at("ascii")).mail

    def test_an_international_mailbox_is_reached_with_smtputf8(self, rig: Rig):
        original = message("utf8", to=at("jürgen")).replace(b"jane", "jürgen".encode())
        rig.submit("plain", "zoë@acme.example", [at("jürgen")], original, ["SMTPUTF8", "BODY=8BITMIME"])
        stored = rig.server.wait_stored(at("jürgen"))[0]
        assert_passed_on(stored, original, rig.pools["plain"])
        said = rig.tap.transaction(at("jürgen"))
        assert said.mail.startswith("MAIL FROM:<zoë@acme.example>")
        assert "SMTPUTF8" in said.mail.split()
        assert b"with UTF8SMTPA" in fields(said.content, "Received")[0]

    def test_wishes_about_delivery_reports_reach_a_server_that_grants_them(self, rig: Rig):
        sender, recipient = "dsn@acme.example", at("dsn")
        rig.submit(
            "plain", sender, [recipient], message("dsn"),
            ["RET=HDRS", "ENVID=QQ+2B314159"], ["NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;was+2B1@{DOMAIN}"],
        )  # fmt: skip
        rig.server.wait_stored(recipient)
        said = rig.tap.transaction(recipient)
        if "DSN" not in rig.server.OFFERS:
            assert "RET=" not in said.mail
            assert "ENVID=" not in said.mail
            assert said.rcpt == [f"RCPT TO:<{recipient}>"]
            return
        assert " RET=HDRS ENVID=QQ+2B314159" in said.mail
        assert said.rcpt == [f"RCPT TO:<{recipient}> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;was+2B1@{DOMAIN}"]
        report = report_of(rig, sender)
        assert re.search(rb"(?i)Original-Envelope-Id: QQ\+(2B)?314159", report)
        assert re.search(rb"(?i)Original-Recipient: rfc822; ?was\+(2B)?1@" + DOMAIN.encode(), report)
        assert re.search(rb"(?i)Action: (delivered|relayed)", report)

    def test_signatures_verify_in_the_mailbox(self, rig: Rig):
        """Also of what was made to fit: the signature is over what left."""
        for name, body in {
            "signed-as-is": BODY,
            "signed-long": b"word " * 1000 + b"\r\n",
            "signed-dots": b".\r\n..\r\n",
            "signed-blank": b"x \r\n\r\n\r\n",
        }.items():
            rig.submit("plain", "a@acme.example", [at(name)], message(name, body=body))
            assert_signatures_verify(rig.server.wait_stored(at(name))[0], rig.records)

    def test_dots_and_odd_endings_survive(self, rig: Rig):
        for name, body in {
            "dots": b".\r\n..\r\n...\r\n.x\r\n\r\n.\r\n",
            "blank-end": b"x\r\n\r\n\r\n\r\n",
            "only-dot": b".\r\n",
            "no-body": b"",
        }.items():
            original = message(name, body=body)
            rig.submit("plain", "a@acme.example", [at(name)], original)
            assert_passed_on(rig.server.wait_stored(at(name))[0], original, rig.pools["plain"])

    def test_the_longest_legal_line_passes_untouched(self, rig: Rig):
        original = message("line998", body=b"y" * 998 + b"\r\n." + b"z" * 997 + b"\r\nend\r\n")
        rig.submit("plain", "a@acme.example", [at("line998")], original)
        assert_passed_on(rig.server.wait_stored(at("line998"))[0], original, rig.pools["plain"])

    def test_a_longer_line_is_encoded_and_reads_the_same(self, rig: Rig):
        body = b"word " * 4000 + b"\r\n." + b"x" * 5000 + b"\r\nend\r\n"
        rig.submit("plain", "a@acme.example", [at("long")], message("long", body=body))
        stored = rig.server.wait_stored(at("long"))[0]
        assert decoded(stored) == unix(body).decode()
        assert max(map(len, rig.tap.transaction(at("long")).content.split(b"\r\n"))) <= 998
        assert_stamped(stored, rig.pools["plain"])

    def test_five_megabytes_pass_untouched(self, rig: Rig):
        original = message("large", body=octets(5_000_000))
        rig.submit("plain", "a@acme.example", [at("large")], original)
        stored = rig.server.wait_stored(at("large"))[0]
        assert_passed_on(stored, original, rig.pools["plain"])

    def test_a_hundred_recipients_share_one_transaction(self, rig: Rig):
        recipients = [at(f"many{number:03}") for number in range(100)]
        original = message("many")
        rig.submit("plain", "a@acme.example", recipients, original)
        for recipient in recipients:
            assert_passed_on(rig.server.wait_stored(recipient)[0], original, rig.pools["plain"])
        assert rig.tap.transaction(recipients[0]).rcpt == [f"RCPT TO:<{recipient}>" for recipient in recipients]

    def test_a_refused_recipient_is_reported_and_the_others_get_the_message(self, rig: Rig):
        sender = "refused@acme.example"
        rig.submit("plain", sender, [at("known1"), at("unknown"), at("known2")], message("refused"))
        for name in ("known1", "known2"):
            rig.server.wait_stored(at(name))
        report = report_of(rig, sender)
        assert fields(report, "Return-Path") == [b"<>"]
        assert f"Final-Recipient: rfc822; {at('unknown')}".encode() in report
        assert b"Action: failed" in report
        assert b"Status: 5.1.1" in report
        assert at("known1").encode() not in report.partition(b"message/delivery-status")[2]
        assert not rig.server.stored(at("unknown"))

    def test_a_server_that_does_not_relay_is_not_asked_twice(self, rig: Rig):
        """One refusal is about the recipient when others were taken: the node stays in."""
        sender = "foreign@acme.example"
        rig.submit("plain", sender, [at("ours"), "someone@elsewhere.example"], message("foreign"))
        rig.server.wait_stored(at("ours"))
        assert b"Final-Recipient: rfc822; someone@elsewhere.example" in report_of(rig, sender)
        rig.submit("plain", sender, [at("still-in")], message("still-in"))
        rig.server.wait_stored(at("still-in"))

    def test_a_message_over_the_announced_size_is_returned(self, rig: Rig):
        sender = "toolarge@acme.example"
        rig.submit("small", sender, [at("toolarge")], message("toolarge", body=octets(2 * SMALL)))
        report = report_of(rig, sender)
        assert b"Action: failed" in report
        assert b"Status: 5.3.4" in report or b"Status: 5.2.3" in report
        rig.submit("small", "a@acme.example", [at("fits")], message("fits"))
        rig.server.wait_stored(at("fits"))
        assert not rig.server.stored(at("toolarge"))

    def test_connections_are_used_again(self, rig: Rig):
        before = len(rig.tap.sessions)
        for number in range(30):
            rig.submit("plain", "a@acme.example", [at(f"again{number}")], message(f"again{number}"))
        for number in range(30):
            rig.server.wait_stored(at(f"again{number}"))
        assert len(rig.tap.sessions) - before <= CONNECTIONS

    def test_a_login_over_tls(self, rig: Rig):
        """Every mechanism the server has, over STARTTLS and implicit TLS, with its certificate checked."""
        ways = [
            f"{tls}-{mechanism}" for tls in ("starttls", "implicit") for mechanism in ("auto", *rig.server.MECHANISMS)
        ]
        if "login-only" in rig.pools:
            ways.append("login-only")
        for way in ways:
            rig.submit(way, "a@acme.example", [at(way)], message(way))
        for way in ways:
            stored = rig.server.wait_stored(at(way))[0]
            assert_passed_on(stored, message(way), rig.pools[way])
            assert re.search(rb"(?i)with (utf8)?e?smtpsa", fields(stored, "Received")[0].replace(b"\n", b" ")), stored[
                :900
            ]

    def test_no_message_leaves_over_a_connection_that_is_not_right(self, rig: Rig):
        """Unknown authority, another name in the certificate, refused login: the node is out, the message stays."""
        ways = {"stranger", "other-name", "wrong-password"}
        for way in ways:
            rig.submit(way, "a@acme.example", [at(way)], message(way))
        wait_for(
            lambda: ways <= {event["node"] for event in rig.relay.events("node.deactivated")}, what="the nodes are out"
        )
        waiting = str(rig.relay.json("queue", "list"))
        for way in ways:
            assert at(way) in waiting
            assert not rig.server.stored(at(way))


def waits_between(said: list[tuple[str, bytes]], recipient: str) -> int:
    """How often the server spoke between MAIL and DATA of the transaction with this recipient."""
    whole = b"".join(b"\xff" if who == "S" else octets for who, octets in said)
    end = whole.index(b"DATA\r\n", whole.index(f"RCPT TO:<{recipient}>".encode()))
    return len(re.findall(rb"\xff+", whole[whole.rindex(b"MAIL FROM", 0, end) : end]))
