"""Which addresses a webhook may call."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from relay.admin.webhooks.reach import Forbidden, is_public, judged
from relay.admin.webhooks.service import BACK_OFF_S, wait_s


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "192.0.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
     "fd00::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::",
     "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
)  # fmt: skip
def test_addresses_of_nobody_outside(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(Forbidden):
        judged("hooks.example", [address], allow_private=False)
    assert judged("hooks.example", [address], allow_private=True) == [str(ip_address(address))]


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(ip_address(address))


def test_one_private_address_among_others_is_enough() -> None:
    with pytest.raises(Forbidden, match=r"127\.0\.0\.1"):
        judged("rebind.example", ["1.1.1.1", "127.0.0.1"], allow_private=False)
    with pytest.raises(Forbidden, match="no address"):
        judged("nowhere.example", [], allow_private=True)


def test_waits_grow_and_cover_days() -> None:
    waits = [wait_s(tries) for tries in range(1, 25)]
    assert waits == sorted(waits)
    assert waits[0] == BACK_OFF_S[0]
    assert sum(waits[:20]) > 3 * 86400
