"""The DNS check against a real name server on the loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest

from relay.signing import dns_record, keygen, parse_key
from relay.signing.published import Standing, check

KEY = parse_key(keygen("rsa", 2048)[0], domain="acme.example", selector="s1")
OTHER = parse_key(keygen("rsa", 1024)[0], domain="acme.example", selector="s1")
ED = parse_key(keygen("ed25519")[0], domain="acme.example", selector="s1")
RIGHT = dns_record(KEY)[1]


class NameServer(asyncio.DatagramProtocol):
    """Answers TXT from a table; an absent name is NXDOMAIN; a None entry is SERVFAIL."""

    def __init__(self, table):
        self.table = table

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        name = query.question[0].name
        records = self.table.get(name.to_text().rstrip("."), "absent")
        if records == "absent":
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif records is None:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif records:
            texts = [" ".join(f'"{part}"'.replace(";", "\\;") for part in strings) for strings in records]
            response.answer.append(dns.rrset.from_text_list(name, 60, dns.rdataclass.IN, dns.rdatatype.TXT, texts))
        self.transport.sendto(response.to_wire(), address)


@asynccontextmanager
async def resolver_over(table):
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(table), local_addr=("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    try:
        yield resolver
    finally:
        transport.close()


CASES = {
    "right": ([RIGHT], Standing.MATCH),
    "right-no-version": (
        [("k=rsa; ", "".join(RIGHT)[len("v=DKIM1; k=rsa; ") :][:200], "".join(RIGHT)[216:])],
        Standing.MATCH,
    ),
    "absent": ("absent", Standing.MISSING),
    "no-txt": ([], Standing.MISSING),
    "other-key": ([dns_record(OTHER)[1]], Standing.MISMATCH),
    "other-kind": ([dns_record(ED)[1]], Standing.MISMATCH),
    "revoked": ([("v=DKIM1; k=rsa; p=",)], Standing.REVOKED),
    "cut": ([("".join(RIGHT)[:100] + "!",)], Standing.MALFORMED),
    "no-record": ([("v=spf1 -all",)], Standing.MALFORMED),
    "twice": ([RIGHT, dns_record(OTHER)[1]], Standing.SEVERAL),
    "version": ([("v=DKIM2; k=rsa; p=QUJD",)], Standing.MALFORMED),
    "not-for-mail": ([("v=DKIM1; k=rsa; s=tlsrpt; p=QUJD",)], Standing.MALFORMED),
    "hash": ([("v=DKIM1; k=rsa; h=sha1; p=QUJD",)], Standing.MALFORMED),
    "servfail": (None, Standing.UNKNOWN),
}


@pytest.mark.parametrize("name", CASES)
async def test_verdicts(name):
    records, standing = CASES[name]
    table = {} if records == "absent" else {"s1._domainkey.acme.example": records}
    async with resolver_over(table) as resolver:
        verdict = await check("acme.example", "s1", KEY, resolver, timeout_s=2)
    assert verdict.standing is standing
    assert verdict.ok is (standing is Standing.MATCH)
    assert verdict.name == "s1._domainkey.acme.example"
    assert verdict.detail


async def test_a_testing_record_matches_and_says_so():
    strings = (
        "v=DKIM1; t=y:s; k=rsa; p=" + "".join(RIGHT).partition("p=")[2][:200],
        "".join(RIGHT).partition("p=")[2][200:],
    )
    async with resolver_over({"s1._domainkey.acme.example": [strings]}) as resolver:
        verdict = await check("acme.example", "s1", KEY, resolver)
    assert verdict.ok
    assert verdict.testing
    assert "testing" in verdict.detail


async def test_ed25519_records_match():
    async with resolver_over({"s1._domainkey.acme.example": [dns_record(ED)[1]]}) as resolver:
        assert (await check("acme.example", "s1", ED, resolver)).ok


async def test_silence_is_unknown_not_missing():
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    resolver.port = transport.get_extra_info("sockname")[1]
    try:
        verdict = await check("acme.example", "s1", KEY, resolver, timeout_s=0.2)
    finally:
        transport.close()
    assert verdict.standing is Standing.UNKNOWN
