"""The relay delivers to Postfix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.gateway import Certificates
from tests.interop.programs import ROOT, needs
from tests.interop.samples import BODY, assert_stamped, message, unix
from tests.interop.server_checks import (
    Rig,
    ServerChecks,
    assert_signatures_verify,
    at,
    decoded,
    report_of,
    running,
    waits_between,
)
from tests.interop.servers.postfix import Postfix

pytestmark = [pytest.mark.interop, pytest.mark.scenario, needs("postfix"), needs("saslpasswd2"), needs("root")]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Rig]:
    yield from running(Postfix(certificates), tmp_path_factory.mktemp("postfix"), certificates)


class TestPostfix(ServerChecks):
    def test_a_server_without_extensions_gets_what_it_can_take(self, rig: Rig):
        """The same Postfix with all its keywords hidden: 7 bits, no parameters, one command at a time."""
        rig.submit("old", "a@acme.example", [at("old"), at("old2")], message("old"), ["BODY=8BITMIME", "RET=FULL"])
        stored = rig.server.wait_stored(at("old"))[0]
        assert_stamped(stored, rig.pools["old"])
        assert decoded(stored) == unix(BODY).decode()
        assert_signatures_verify(stored, rig.records)
        said = rig.taps["old"].transaction(at("old"))
        assert said.mail == "MAIL FROM:<a@acme.example>"
        assert said.content.isascii()
        assert waits_between(rig.taps["old"].session(at("old")).said, at("old")) == 3

    def test_an_international_mailbox_behind_a_server_without_smtputf8_is_reported(self, rig: Rig):
        sender = "old-utf8@acme.example"
        rig.submit("old", sender, [at("jürgen.old")], message("old-utf8"), ["SMTPUTF8"])
        report = report_of(rig, sender)
        assert b"Status: 5.6.7" in report
        assert not rig.server.stored(at("jürgen.old"))

    def test_a_signed_8_bit_message_is_returned_by_a_server_that_takes_7_bits(self, rig: Rig):
        """It may not be converted, so it cannot go; its sender must hear of it over the same server."""
        sender = "old-signed@acme.example"
        original = (ROOT / "tests/data/mail/pgp-signed.eml").read_bytes()
        rig.submit("old", sender, [at("old-signed")], original, ["BODY=8BITMIME"])
        report = report_of(rig, sender)
        assert b"Action: failed" in report
        assert b"Status: 5.6." in report
        assert not rig.server.stored(at("old-signed"))
