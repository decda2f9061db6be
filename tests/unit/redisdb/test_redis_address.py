"""URLs of shared stores: what they mean, what is wrong with them, and that a password never gets out."""

from __future__ import annotations

import pytest

from relay.redisdb.address import Address, Form, is_shared, parse
from relay.redisdb.keys import key

GOOD: dict[str, tuple[str, Address]] = {
    "plain": ("redis://cache.acme.example", Address(hosts=(("cache.acme.example", 6379),))),
    "port and database": ("redis://h:7000/3", Address(hosts=(("h", 7000),), db=3)),
    "password": ("redis://:p%40ss@h", Address(hosts=(("h", 6379),), password="p@ss")),
    "user": ("redis://mail:a:b@h", Address(hosts=(("h", 6379),), username="mail", password="a:b")),
    "an address of version 6": ("redis://[2001:db8::1]:7000", Address(hosts=(("2001:db8::1", 7000),))),
    "TLS": (
        "rediss://h?ca_file=/etc/ca.pem&verify=no",
        Address(hosts=(("h", 6379),), tls=True, ca_file="/etc/ca.pem", verify=False),
    ),
    "certificate": (
        "rediss://h?cert_file=c.pem&key_file=k.pem",
        Address(hosts=(("h", 6379),), tls=True, cert_file="c.pem", key_file="k.pem"),
    ),
    "socket": ("unix:///run/redis.sock?db=2", Address(socket="/run/redis.sock", db=2)),
    "socket with a login": (
        "unix://u:p@/run/redis.sock",
        Address(socket="/run/redis.sock", username="u", password="p"),
    ),
    "sentinels": (
        "redis+sentinel://a,b:26380/mail/1?sentinel_password=x",
        Address(form=Form.SENTINEL, hosts=(("a", 26379), ("b", 26380)), service="mail", db=1, sentinel_password="x"),
    ),
    "cluster": ("rediss+cluster://a,b:7001", Address(form=Form.CLUSTER, hosts=(("a", 6379), ("b", 7001)), tls=True)),
    "options": (
        "redis://h?name=eu-1&timeout=250ms&protocol=3&lease=2m&min_replicas=1",
        Address(hosts=(("h", 6379),), name="eu-1", timeout_s=0.25, protocol=3, lease_s=120.0, min_replicas=1),
    ),
}


@pytest.mark.parametrize(("url", "expected"), GOOD.values(), ids=GOOD)
def test_a_url_means(url: str, expected: Address) -> None:
    assert is_shared(url)
    assert parse(url) == expected


BAD = {
    "another scheme": ("http://h", "begins with one of"),
    "no scheme": ("redis:h", "begins with one of"),
    "no host": ("redis://", "the host is not one"),
    "bad port": ("redis://h:99999", "the host is not one"),
    "bare version 6": ("redis://2001:db8::1", "the host is not one"),
    "several hosts": ("redis://a,b", "redis\\+sentinel"),
    "database": ("redis://h/mail", "is a number"),
    "too much": ("redis://h/1/2", "too many parts"),
    "no service": ("redis+sentinel://a", "name of the master"),
    "database in a cluster": ("redis+cluster://a/1", "no databases"),
    "copies in a cluster": ("redis+cluster://a?min_replicas=1", "cannot be asked"),
    "relative socket": ("unix://run/redis.sock", "absolute path"),
    "TLS option without TLS": ("redis://h?ca_file=x", "rediss://"),
    "half a certificate": ("rediss://h?cert_file=x", "go together"),
    "unknown option": ("redis://h?nmae=x", "there is no option 'nmae'; there are: ca_file"),
    "twice": ("redis://h?name=a&name=b", "given twice"),
    "no value": ("redis://h?name", "name=value"),
    "bad name": ("redis://h?name=A%20B", "option name: small letters"),
    "bad timeout": ("redis://h?timeout=soon", "option timeout: not a duration"),
    "long timeout": ("redis://h?timeout=5m", "option timeout: must be between"),
    "bad protocol": ("redis://h?protocol=4", "option protocol: must be one of 2, 3"),
    "db twice": ("redis://h/1?db=2", "behind a slash"),
}


@pytest.mark.parametrize(("url", "why"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(url)


@pytest.mark.parametrize("url", [good for good, _ in GOOD.values()] + [bad for bad, _ in BAD.values()])
def test_no_password_is_ever_told(url: str) -> None:
    secret = "s3cr3t-pw"
    scheme, _, rest = url.partition("://")
    with_login = f"{scheme}://user:{secret}@{rest.rpartition('@')[2]}"
    try:
        told = repr(parse(with_login)) + str(parse(with_login))
    except ValueError as error:
        told = f"{error} {error.__cause__} {error.__context__}"
    assert secret not in told


def test_all_keys_of_a_relay_are_in_one_slot() -> None:
    assert key("eu-1", "m", "01ARZ") == "{relay:eu-1}:m:01ARZ"
    assert key("eu-1") == "{relay:eu-1}"
