# ruff: noqa: E501 - the tables read best with one case a line
"""Every kind of fault: told at its place, by its key, with what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config import Fault, InvalidConfig, Notice, Place
from relay.config.faults import did_you_mean, key_path
from relay.errors import ConfigError
from tests.unit.config.config_files import SECTIONS, faults_of, load_text, text_with, unmark

ARGON2 = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub+b4dWRWJTmaaJObG"
BCRYPT = "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW"
TOKEN = "sha256:" + "ab" * 32


def bridge(fields: str, login: str = "credentials: [{username: u, password: '${PW}'}]") -> dict[str, str]:
    return {"bridges": f"bridges:\n  - name: shop\n    {login}\n    pool: main\n    {fields}\n"}


def node(fields: str) -> dict[str, str]:
    return {"pools": f"pools:\n  - name: main\n    id: 1\n    nodes:\n      - {{name: n1, type: smtp, {fields}}}\n"}


def extra(text: str) -> dict[str, str]:
    return {"extra": text + "\n"}


def password(text: str) -> dict[str, str]:
    return bridge("share: 1", f"credentials: [{{username: u, password: §{text}}}]")


# name, sections, key, what is said, hint
SHAPES: list[tuple[str, dict[str, str], str, str, str]] = [
    # Unknown and missing keys
    ("unknown top key", extra("§bridgs: []"), "bridgs", "unknown key", 'did you mean "bridges"?'),
    ("one letter short", extra("§pool: []"), "pool", "unknown key", 'did you mean "pools"?'),
    ("typo in limits", bridge("limits: {§recipents: 5}"), "bridges[0].limits.recipents", "unknown key", '"recipients"'),
    ("typo in a node", node("host: h.example, §prot: 25"), "pools[0].nodes[0].prot", "unknown key", '"port"'),
    ("key of another type", node("host: h.example, §directory: x"), "pools[0].nodes[0].directory", "unknown key", "known"),
    ("far from all", extra("health: {§zzzzzz: 1}"), "health.zzzzzz", "unknown key", "known here: recheck_every"),
    ("no version", {"version": "", "bridges": "§" + SECTIONS["bridges"]}, "version", '"version" is missing', "version: 1"),
    ("unknown version", {"version": "version: §2\n"}, "version", "must be 1", ""),
    ("no name", {"pools": "pools: [§{id: 1, nodes: [{name: a, type: sandbox}]}]\n", "bridges": ""}, "pools[0].name", '"name" is missing', ""),
    ("no host", {"pools": "pools: [{name: main, id: 1, nodes: [§{name: a, type: smtp}]}]\n"}, "pools[0].nodes[0].host", '"host" is missing', ""),
    ("no node type", {"pools": "pools: [{name: main, id: 1, nodes: [§{name: a}]}]\n"}, "pools[0].nodes[0].type", '"type" is missing', "one of smtp, sandbox"),
    ("unknown node type", {"pools": "pools: [{name: main, id: 1, nodes: [{name: a, type: §smpt}]}]\n"}, "pools[0].nodes[0].type", "unknown type", '"smtp"'),
    ("node type a number", {"pools": "pools: [{name: main, id: 1, nodes: [{name: a, type: §5}]}]\n"}, "pools[0].nodes[0].type", "unknown type", "one of"),
    # Wrong types
    ("text for a list", extra("listeners: §here"), "listeners", "must be a list", "- "),
    ("list for keys", extra("log: §[a]"), "log", "must hold keys", ""),
    ("number for keys", extra("log: §5"), "log", "must hold keys", ""),
    ("text in a list of keys", extra("dkim: [§a]"), "dkim[0]", "must hold keys", ""),
    ("node a text", {"pools": "pools: [{name: main, id: 1, nodes: [§a]}]\n"}, "pools[0].nodes[0]", "must hold keys", ""),
    ("nothing for keys", extra("log:§"), "log", "has no value", "remove the key"),
    ("number as password", password("123456"), "bridges[0].credentials[0].password", "must be text", "quotes"),
    ("float as password", password("1.5"), "bridges[0].credentials[0].password", "must be text", "quotes"),
    ("flag as password", password("true"), "bridges[0].credentials[0].password", "must be text", "quotes"),
    ("nothing as password", password("~"), "bridges[0].credentials[0].password", "has no value", ""),
    ("octal-looking password", password("0123456"), "", "ambiguous or unusable number", "quote it"),
    ("list as password", password("[a]"), "bridges[0].credentials[0].password", "must be text", ""),
    ("number as name", {"pools": "pools: [{name: §7, id: 1, nodes: [{name: a, type: sandbox}]}]\n", "bridges": ""}, "pools[0].name", "must be text", "quotes"),
    ("date as name", {"pools": "pools: [{name: 2025-01-01, id: §1.0, nodes: [{name: a, type: sandbox}]}]\n", "bridges": ""}, "pools[0].id", "must be a whole number", ""),
    ("quoted number", extra("limits: {connections: §'5'}"), "limits.connections", "must be a whole number", "remove the quotes"),
    ("float for a count", extra("limits: {connections: §1e3}"), "limits.connections", "must be a whole number", ""),
    ("flag for a count", extra("limits: {connections: §true}"), "limits.connections", "must be a whole number", ""),
    ("no for a flag", extra("health: {auto_recover: §no}"), "health.auto_recover", "must be true or false", "YAML 1.2"),
    ("off for a flag", extra("log: {errors_only: §off}"), "log.errors_only", "must be true or false", "YAML 1.2"),
    ("number for a flag", extra("log: {errors_only: §1}"), "log.errors_only", "must be true or false", ""),
    ("no for verify", node("host: h.example, verify: §no"), "pools[0].nodes[0].verify", "must be true or false", "YAML 1.2"),
    ("unknown level", extra("log: {level: §inf}"), "log.level", "must be debug, info, warning or error", '"info"'),
    ("unknown rotation", {"pools": "pools: [{name: main, id: 1, rotation: §roundrobin, nodes: [{name: a, type: sandbox}]}]\n"}, "pools[0].rotation", "must be random, round-robin", '"round-robin"'),
    ("workers neither", extra("workers: §all"), "workers", "must be a whole number", ""),
    # Ranges (B229, B240)
    ("zero cap", node("host: h.example, caps: {hour: §0}"), "pools[0].nodes[0].caps.hour", "must be at least 1", ""),
    ("negative cap", node("host: h.example, caps: {hour: §-1}"), "pools[0].nodes[0].caps.hour", "must be at least 1", ""),
    ("huge cap", node("host: h.example, caps: {hour: §9999999999}"), "pools[0].nodes[0].caps.hour", "must be at most 1000000000", ""),
    ("float cap", node("host: h.example, caps: {hour: §1.5}"), "pools[0].nodes[0].caps.hour", "", ""),
    ("cap without limit", node("host: h.example, caps: {hour: §{spread: true}}"), "pools[0].nodes[0].caps.hour.limit", '"limit" is missing', ""),
    ("unknown window", node("host: h.example, caps: {§hours: 5}"), "pools[0].nodes[0].caps.hours", "unknown key", '"hour"'),
    ("negative weight", node("host: h.example, weight: §-1"), "pools[0].nodes[0].weight", "must be at least 0", ""),
    ("share zero", bridge("share: §0"), "bridges[0].share", "must be at least 1", ""),
    ("port zero", node("host: h.example, port: §0"), "pools[0].nodes[0].port", "must be at least 1", ""),
    ("port too high", node("host: h.example, port: §70000"), "pools[0].nodes[0].port", "must be at most 65535", ""),
    ("port quoted", node("host: h.example, port: §'25'"), "pools[0].nodes[0].port", "must be a whole number", "remove the quotes"),
    ("timeout zero", node("host: h.example, timeouts: {dot: §0}"), "pools[0].nodes[0].timeouts.dot", "must be more than 0", ""),
    ("negative wait", extra("limits: {idle: §-5}"), "limits.idle", "not a duration", ""),
    ("wait in words", extra("limits: {idle: §soon}"), "limits.idle", "not a duration; write for example 30s", ""),
    ("wait as clock", extra("limits: {idle: §00:01:00}"), "limits.idle", "not a duration", ""),
    ("endless wait", extra("limits: {idle: §9999d}"), "limits.idle", "must be at most 31622400", ""),
    ("size in words", extra("limits: {size: §big}"), "limits.size", "not a size; write for example 512kB", ""),
    ("size huge", extra("limits: {size: §999999999999999999GB}"), "limits.size", "must be at most 1073741824", ""),
    ("size zero", extra("limits: {size: §0}"), "limits.size", "must be at least 1024", ""),
    ("jitter above", extra("retry: {jitter: §0.9}"), "retry.jitter", "must be at most 0.5", ""),
    ("rate text", {"pools": "pools: [{name: main, id: 1, nodes: [{name: a, type: sandbox, fail: [{mode: refuse, rate: §often}]}]}]\n"}, "pools[0].nodes[0].fail[0].rate", "not a number", ""),
    ("delay without length", {"pools": "pools: [{name: main, id: 1, nodes: [{name: a, type: sandbox, fail: [§{mode: delay}]}]}]\n"}, "pools[0].nodes[0].fail[0]", "mode delay needs `delay`", ""),
    ("no retries", extra("retry: {schedule: §[]}"), "retry.schedule", "needs at least 1 item", ""),
    ("retries without end", extra("retry: {schedule: §[" + "1m, " * 101 + "]}"), "retry.schedule", "has more than 100 items", ""),
    ("retries unsorted", extra("retry: {schedule: [1m, 5m, §2m, 1h]}"), "retry.schedule[2]", "shorter than the wait before it", "sort"),
    ("retry of nothing", extra("retry: {schedule: [§0s, 5m]}"), "retry.schedule[0]", "must be more than 0", ""),
    ("max_age below the first wait", extra("retry: {schedule: [5m], max_age: §1m}"), "retry.max_age", "shorter than the first wait", ""),
    ("first wait above max_age", extra("retry: {schedule: [§4d]}"), "retry.schedule[0]", "shorter than the first wait", ""),
    ("tests that never come", extra("health: {recheck_every: 2h, recheck_for: §1h}"), "health.recheck_for", "must not be shorter", ""),
    # Names (B231)
    *[
        (f"name {name!r}", {"pools": f"pools: [{{name: §{name}, id: 1, nodes: [{{name: a, type: sandbox}}]}}]\n"}, "pools[0].name", "not a name", "")
        for name in ("Main", "a/b", "'..'", "a:b", "'a b'", "''", "'\U0001f600'", "x" * 64, "_a", "-a")
    ],
    ("feed type with CR", bridge('feedtype: §"a\\r\\nX: y"'), "bridges[0].feedtype", "not a name", ""),
    # Addresses, hosts, headers (B237)
    ("host with blank", node("host: §'a b'"), "pools[0].nodes[0].host", "not a host name", ""),
    ("host with line end", node('host: §"h.example\\r\\nx"'), "pools[0].nodes[0].host", "not a host name", ""),
    ("host as URL", node("host: §'http://h.example'"), "pools[0].nodes[0].host", "write the host name alone", ""),
    ("host with port", node("host: §'h.example:25'"), "pools[0].nodes[0].host", "write the host name alone", ""),
    ("host with login", node("host: §'u@h.example'"), "pools[0].nodes[0].host", "write the host name alone", ""),
    ("host empty", node("host: §''"), "pools[0].nodes[0].host", "not a host name", ""),
    ("source a name", node("host: h.example, source_address: §here"), "pools[0].nodes[0].source_address", "not an IP address", ""),
    ("header value with line end", extra('headers: {X-A: §"a\\r\\nBcc: b"}'), "headers.X-A", "one line", ""),
    ("header name with blank", extra("headers: {§X A: a}"), "headers.X A", "not a header name", ""),
    ("header name with colon", extra("headers: {§'X:': a}"), "headers.X:", "not a header name", ""),
    ("header of the message", extra("headers: {§Subject: a}"), "headers.Subject", "header Subject belongs to the message", ""),
    ("header of the relay", extra("headers: {§x-virtual-mta: a}"), "headers.x-virtual-mta", "header x-virtual-mta belongs to the message", ""),
    ("header twice", extra("headers: §{X-A: a, x-a: b}"), "headers", "header x-a is given twice", ""),
    ("header not ASCII", extra("headers: {X-A: §ä}"), "headers.X-A", "a header value must be ASCII", ""),
    ("header a number", extra("headers: {X-A: §5}"), "headers.X-A", "must be text", "quotes"),
    ("return path", node("host: h.example, return_path: §nobody"), "pools[0].nodes[0].return_path", "not an e-mail address", ""),
    ("return path injected", node('host: h.example, return_path: §"a@b.example>\\r\\nRCPT"'), "pools[0].nodes[0].return_path", "not an e-mail address", ""),
    ("from address", node("host: h.example, from: {email: §'Acme <a@b.example>'}"), "pools[0].nodes[0].from.email", "not an e-mail address", ""),
    ("sender pattern", bridge("senders: ['@a.example', §acme.example]"), "bridges[0].senders[1]", "not a sender pattern", ""),
    ("network with host bits", bridge("networks: [§192.0.2.7/24]"), "bridges[0].networks[0]", "write 192.0.2.0/24", ""),
    ("network of words", bridge("networks: [§office]"), "bridges[0].networks[0]", "not a network", ""),
    ("network a number", bridge("networks: [§10]"), "bridges[0].networks[0]", "not a network", ""),
    # Secrets (B235)
    ("empty password", password("''"), "bridges[0].credentials[0].password", "empty", ""),
    ("long password", password("'" + "x" * 1025 + "'"), "bridges[0].credentials[0].password", "longer than 1024", ""),
    ("password with line end", password('"a\\nb"'), "bridges[0].credentials[0].password", "line ends and NUL", ""),
    ("unknown hash", password("'$6$salt$abcdefgh'"), "bridges[0].credentials[0].password", "unknown password hash", ""),
    ("ldap hash", password("'{SSHA}abcdef'"), "bridges[0].credentials[0].password", "unknown password hash", ""),
    ("cut bcrypt", password("'$2b$12$abc'"), "bridges[0].credentials[0].password", "damaged", ""),
    ("costly bcrypt", password("'" + BCRYPT.replace("$12$", "$31$") + "'"), "bridges[0].credentials[0].password", "from 4 to 14", ""),
    ("costly argon2", password("'" + ARGON2.replace("m=19456", "m=4194304") + "'"), "bridges[0].credentials[0].password", "costs too much", ""),
    ("slow argon2", password("'" + ARGON2.replace("t=2", "t=99") + "'"), "bridges[0].credentials[0].password", "costs too much", ""),
    ("short token", password("'sha256:abcd'"), "bridges[0].credentials[0].password", "64 hexadecimal digits", ""),
    ("login without password", {"pools": "pools:\n  - name: main\n    id: 1\n    nodes:\n      - §{name: n1, type: smtp, host: h.example, username: u}\n"}, "pools[0].nodes[0]", "password is missing", ""),
    ("interpolated hash of another kind", {**password("'${H}'")}, "bridges[0].credentials[0].password", "unknown password hash", ""),
    # Stores
    ("store unknown", extra("store: §'postgres://h/db'"), "store", "not a store", ""),
    ("store half shared", extra("store: §{spool: 'redis://h:6379/0', state: sqlite:var/x}"), "store", "caps would be exceeded", "redis://"),
    # Listeners (B230, B239)
    ("bind without port", extra("listeners: [{bind: §127.0.0.1}]"), "listeners[0].bind", "not a place to listen at", ""),
    ("bind a port", extra("listeners: [{bind: §2525}]"), "listeners[0].bind", "not a place to listen at", ""),
    ("bind a name", extra("listeners: [{bind: §'relay.example:25'}]"), "listeners[0].bind", "not an IP address", ""),
    ("bind IPv6 without brackets", extra("listeners: [{bind: §'::1:25'}]"), "listeners[0].bind", "[::1]:2525", ""),
    ("bind port 70000", extra("listeners: [{bind: §'127.0.0.1:70000'}]"), "listeners[0].bind", "at most 65535", ""),
    ("bind port 0 for all", extra("listeners: [{bind: §'0.0.0.0:0', auth_without_tls: false}]"), "listeners[0].bind", "port 0", ""),
    ("no listeners", extra("listeners: §[]"), "listeners", "no listeners", ""),
    ("one port twice", extra("listeners: [{bind: '127.0.0.1:25'}, {bind: §'127.0.0.1:25'}]"), "listeners[1].bind", "the port is taken by the listener at", ""),
    ("one port by all", extra("listeners: [{bind: '0.0.0.0:25', auth_without_tls: false}, {bind: §'127.0.0.1:25'}]"), "listeners[1].bind", "the port is taken", ""),
    ("clear logins", extra("listeners: [§{bind: '0.0.0.0:25'}]"), "listeners[0]", "logins would pass in clear text", "starttls"),
    ("clear logins IPv6", extra("listeners: [§{bind: '[::]:25'}]"), "listeners[0]", "logins would pass in clear text", "starttls"),
    ("TLS without files", extra("listeners: [§{bind: '127.0.0.1:25', tls: starttls}]"), "listeners[0]", "tls: starttls needs cert and key", ""),
    ("proxy trusts nobody", extra("listeners: [{bind: '127.0.0.1:25', proxy: {trusted: §[]}}]"), "listeners[0].proxy.trusted", "needs at least 1 item", ""),
    ("open relay", bridge("networks: [§0.0.0.0/0]"), "bridges[0].networks[0]", "open relay", "own networks"),
    ("open relay IPv6", bridge("networks: [§'::/0']"), "bridges[0].networks[0]", "open relay", "own networks"),
    ("half the Internet", bridge("networks: [§128.0.0.0/1]"), "bridges[0].networks[0]", "close to an open relay", ""),
    # References (B231)
    ("no such pool", {"bridges": "bridges: [{name: b, pool: §maine, networks: [192.0.2.1/32]}]\n"}, "bridges[0].pool", 'there is no pool "maine"', '"main"'),
    ("no pool, no default", {"bridges": "bridges: [§{name: b, networks: [192.0.2.1/32]}]\n"}, "bridges[0]", "no pool is the default", "default: true"),
    ("no such pool for reports", extra("dsn: {pool: §other}"), "dsn.pool", 'there is no pool "other"', "known: main"),
    ("no such mta", {"pools": "mtas: [{id: mta4, zone: z}]\npools: [{name: main, id: 1, mta: §mta5, nodes: [{name: a, type: sandbox}]}]\n"}, "pools[0].mta", 'there is no mta "mta5"', '"mta4"'),
    ("no mta at all", {"pools": "pools: [{name: main, id: 1, mta: §mta5, nodes: [{name: a, type: sandbox}]}]\n"}, "pools[0].mta", 'there is no mta "mta5"', "mta1"),
    ("which mta", {"pools": "mtas: [{id: a, zone: z}, {id: b, zone: z}]\npools: [§{name: main, id: 1, nodes: [{name: a, type: sandbox}]}]\n"}, "pools[0]", '"mta" is missing and there are several', "one of a, b"),
    ("empty pool", {"pools": "pools: [§{name: main, id: 1}]\n"}, "pools[0]", "the pool has no node", ""),
    ("empty list of nodes", {"pools": "pools: [§{name: main, id: 1, nodes: []}]\n"}, "pools[0]", "the pool has no node", ""),
    ("node in another pool", {"pools": "pools: [{name: main, id: 1, nodes: [{name: a, type: sandbox, pool: §x}]}]\n"}, "pools[0].nodes[0].pool", "names another", "exactly one pool"),
    ("free node without pool", extra("nodes: [§{name: b, type: sandbox}]"), "nodes[0]", "no pool is the default", ""),
    ("free node, wrong pool", extra("nodes: [{name: b, type: sandbox, pool: §mian}]"), "nodes[0].pool", 'there is no pool "mian"', '"main"'),
    ("two defaults", {"pools": "pools:\n- {name: main, id: 1, default: true, nodes: [{name: a, type: sandbox}]}\n- {name: b, id: 2, default: §true, nodes: [{name: b, type: sandbox}]}\n"}, "pools[1].default", "a second default pool, the first is at", ""),
    ("pool name twice", {"pools": "pools:\n- {name: main, id: 1, nodes: [{name: a, type: sandbox}]}\n- {name: §main, id: 2, nodes: [{name: b, type: sandbox}]}\n"}, "pools[1].name", "pool name is used twice, first at", ""),
    ("pool id twice", {"pools": "pools:\n- {name: main, id: 1, nodes: [{name: a, type: sandbox}]}\n- {name: b, id: §1, nodes: [{name: b, type: sandbox}]}\n"}, "pools[1].id", "pool id is used twice", ""),
    ("node name twice, two pools", {"pools": "pools:\n- {name: main, id: 1, nodes: [{name: a, type: sandbox}]}\n- {name: b, id: 2, nodes: [{name: §a, type: sandbox}]}\n"}, "pools[1].nodes[0].name", "node name is used twice", ""),
    ("bridge name twice", {"bridges": "bridges: [{name: b, pool: main, networks: [192.0.2.1/32]}, {name: §b, pool: main, networks: [192.0.2.2/32]}]\n"}, "bridges[1].name", "bridge name is used twice", ""),
    ("username twice", {"bridges": "bridges:\n- {name: a, pool: main, credentials: [{username: u, password: '${PW}'}]}\n- {name: b, pool: main, credentials: [{username: §u, password: '${PW}'}]}\n"}, "bridges[1].credentials[0].username", "username is used twice", ""),
    ("username twice in one bridge", bridge("share: 1", "credentials: [{username: u, password: '${PW}'}, {username: §u, password: '${PW}'}]"), "bridges[0].credentials[1].username", "username is used twice", ""),
    ("network twice", {"bridges": "bridges: [{name: a, pool: main, networks: [192.0.2.1/32]}, {name: b, pool: main, networks: [§192.0.2.1]}]\n"}, "bridges[1].networks[0]", "network is used twice", ""),
    ("no mtas", extra("mtas: §[]"), "mtas", "needs at least 1 item", ""),
    ("no mtas", extra("mtas: §[]"), "mtas", "needs at least 1 item", ""),
    ("mta twice", {"pools": "mtas: [{id: a, zone: z}, {id: §a, zone: z}]\n" + SECTIONS["pools"].replace("id: 1", "id: 1, mta: a")}, "mtas[1].id", "mta id is used twice", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case[0])
def test_each_fault_is_told_at_its_place(tmp_path: Path, case: tuple[str, dict[str, str], str, str, str]) -> None:
    _, sections, key, what, hint = case
    text = text_with(**sections)
    _, places = unmark(text, str(tmp_path / "relay.yaml"))
    refusal = faults_of(tmp_path, text, {"PW": "s3cret-of-shop", "H": "$1$salt$hash-of-shop"})
    assert [str(fault.place) for fault in refusal.faults] == places
    (fault,) = refusal.faults
    assert fault.key == key
    assert what in fault.what
    assert hint in fault.hint
    assert "of-shop" not in str(refusal)


def test_the_line_is_written_for_editors_and_people(tmp_path: Path) -> None:
    refusal = faults_of(tmp_path, text_with(extra="log:\n  levle: debug\n"))
    assert str(refusal) == (
        f'configuration not usable, 1 fault:\n{tmp_path}/relay.yaml:7:3: log.levle: unknown key; did you mean "level"?'
    )
    assert isinstance(refusal, ConfigError)


def test_everything_is_told_at_once_and_one_fault_hides_no_other(tmp_path: Path) -> None:
    text = (
        "version: 1\n"
        "§hostnam: x\n"
        "listeners:\n"
        "  - §{bind: '0.0.0.0:25'}\n"
        "  - {bind: §'10.0.0.1:99999'}\n"
        "retry: {schedule: [5m, §1m]}\n"
        "bridges:\n"
        "  - name: a\n"
        "    pool: §mian\n"
        "    credentials: [{username: u, password: §5}]\n"
        "  - name: b\n"
        "    pool: main\n"
        "    credentials: [{username: §u, password: §'${UNSET}'}]\n"
        "    networks: [§0.0.0.0/0, §1.2.3.4/8]\n"
        "pools:\n"
        "  - name: main\n"
        "    id: 1\n"
        "    mta: §mta9\n"
        "    nodes:\n"
        "      - {name: n, type: §smpt}\n"
        "      - {name: §n, type: smtp, host: h.example, port: §0}\n"
    )
    _, places = unmark(text, str(tmp_path / "relay.yaml"))
    assert [str(fault.place) for fault in faults_of(tmp_path, text).faults] == places


def test_every_faulty_header_is_told_at_once(tmp_path: Path) -> None:
    text = text_with(**extra('headers: {§From: x, X-A: §"b\\nc", §DKIM-Signature: x, §X Y: z, X-U: §ä, X-Fine: a}'))
    _, places = unmark(text, str(tmp_path / "relay.yaml"))
    assert [str(fault.place) for fault in faults_of(tmp_path, text).faults] == places


def test_a_faulty_section_draws_no_faults_after_it(tmp_path: Path) -> None:
    """A listener, node or default pool with a fault is still there: nothing else is blamed for its absence."""
    text = text_with(
        pools="pools:\n  - {name: main, id: 1, default: §yes, nodes: [{name: a, type: §x}]}\n",
        bridges="bridges:\n  - {name: b, credentials: §5}\n",
        extra="listeners: [{bind: '127.0.0.1:25', tls: §startls}]\nnodes: [{name: c, type: §y}]\n",
    )
    refusal = faults_of(tmp_path, text)
    _, places = unmark(text, str(tmp_path / "relay.yaml"))
    assert sorted(str(fault.place) for fault in refusal.faults) == sorted(places)
    assert refusal.warnings == ()


# name, sections, key, what
WARNINGS: list[tuple[str, dict[str, str], str, str]] = [
    ("plain password", bridge("share: 1", "credentials: [{username: u, password: §hunter2}]"), "bridges[0].credentials[0].password", "the password itself stands in the file"),
    ("plain password of a node", node("host: h.example, username: u, password: §hunter2"), "pools[0].nodes[0].password", "the password itself stands in the file"),
    ("clear logins allowed", extra("listeners: [{bind: '0.0.0.0:25', auth_without_tls: §true}]"), "listeners[0].auth_without_tls", "in clear text"),
    ("port of the kernel", extra("listeners: [{bind: §'127.0.0.1:0'}]"), "listeners[0].bind", "the kernel chooses"),
    ("unused certificate", extra("listeners: [§{bind: '127.0.0.1:25', cert: a, key: b}]"), "listeners[0]", "not used with tls: none"),
    ("own listener", node("host: §127.0.0.1, port: 2525, tls: none"), "pools[0].nodes[0].host", "own listener at 127.0.0.1:2525"),
    ("own listener by name", node("host: §localhost, port: 2525, tls: none"), "pools[0].nodes[0].host", "own listener"),
    ("own listener on all", {**node("host: §127.0.0.1, port: 26, tls: none"), **extra("listeners: [{bind: '0.0.0.0:26', auth_without_tls: false}]")}, "pools[0].nodes[0].host", "own listener"),
    ("own name", {**node("host: §relay.acme.example, port: 26, tls: none"), **extra("hostname: relay.acme.example\nlisteners: [{bind: '0.0.0.0:26', auth_without_tls: false}]")}, "pools[0].nodes[0].host", "own listener"),
    ("password without TLS", node("host: h.example, tls: opportunistic, username: u, password: §'${PW}'"), "pools[0].nodes[0].password", "may pass in clear text"),
    ("nobody can use it", {"bridges": "bridges: [§{name: b, pool: main}]\n"}, "bridges[0]", "nobody can use this bridge"),
    ("memory", extra("store: §'memory:'"), "store", "forgets everything"),
    ("size above the listener's", bridge("limits: {size: §50MB}"), "bridges[0].limits.size", "larger than limits.size"),
    ("no bridges", {"bridges": "", "version": "§version: 1\n"}, "", "nobody can hand mail in"),
]  # fmt: skip


@pytest.mark.parametrize("case", WARNINGS, ids=lambda case: case[0])
def test_each_warning_is_told_and_the_configuration_loads(
    tmp_path: Path, case: tuple[str, dict[str, str], str, str]
) -> None:
    _, sections, key, what = case
    text = text_with(**sections)
    _, places = unmark(text, str(tmp_path / "relay.yaml"))
    (warning,) = load_text(tmp_path, text).warnings
    assert isinstance(warning, Notice)
    assert [str(warning.place)] == places
    assert warning.key == key
    assert what in warning.what
    assert "hunter2" not in str(warning)


SOUND: list[tuple[str, dict[str, str]]] = [
    ("least", {}),
    ("argon2", password(f"'{ARGON2}'")),
    ("bcrypt", password(f"'{BCRYPT}'")),
    ("token", password(f"'{TOKEN}'")),
    ("dollar password", password("'${PW:-$ecret}'")),
    ("caps in both forms", node("host: h.example, caps: {second: 14, hour: {limit: 5, spread: true}}")),
    ("verify in all forms", node("host: h.example, verify: {hostname: x.example}")),
    ("IPv6 listener", extra("listeners: [{bind: '[::1]:25'}, {bind: '127.0.0.1:25'}]")),
    ("both families on all", extra("listeners: [{bind: '0.0.0.0:25', auth_without_tls: false}, {bind: '[::]:25', auth_without_tls: false}]")),
    ("private networks", bridge("networks: [10.0.0.0/8, 'fc00::/7', 192.0.2.7]")),
    ("subdomain senders", bridge("senders: ['@.acme.example', 'A.User+x@Acme.example', '@bücher.example']")),
    ("nodes outside", {"pools": "pools: [{name: main, id: 1, default: true}]\nnodes: [{name: a, type: sandbox}]\n"}),
    ("nodes outside by name", {"pools": "pools: [{name: main, id: 1}]\nnodes: [{name: a, type: sandbox, pool: main}]\n"}),
    ("default pool", {"pools": SECTIONS["pools"].replace("id: 1", "id: 1, default: true"), "bridges": SECTIONS["bridges"].replace("pool: main, ", "")}),
    ("one mta need not be named", {"pools": "mtas: [{id: m, zone: z}]\n" + SECTIONS["pools"]}),
    ("stores apart", extra("store: {spool: sqlite:var/x, state: 'redis://:pw@h:6379/0'}")),
    ("proxy", extra("listeners: [{bind: '127.0.0.1:25', proxy: {trusted: [192.0.2.0/24]}}]")),
    ("everything empty", extra("headers: {}\ndkim: []\nnodes: []\nlog: {}\ninclude: []")),
]  # fmt: skip


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case[0])
def test_sound_configurations_load_without_a_warning(tmp_path: Path, case: tuple[str, dict[str, str]]) -> None:
    text, _ = unmark(text_with(**case[1]))
    assert load_text(tmp_path, text).warnings == ()


def test_many_plain_passwords_are_one_warning(tmp_path: Path) -> None:
    lines = "".join(
        f"  - {{name: b{n}, pool: main, credentials: [{{username: u{n}, password: hunter2}}]}}\n" for n in range(50)
    )
    (warning,) = load_text(tmp_path, text_with(bridges="bridges:\n" + lines)).warnings
    assert "(and 49 more in this file)" in warning.what


def test_a_name_behind_a_reference_is_told_by_its_reference(tmp_path: Path) -> None:
    text = text_with(bridges="bridges: [{name: b, pool: '${POOL}', networks: [192.0.2.1/32]}]\n")
    (fault,) = faults_of(tmp_path, text, {"POOL": "s3cret-pool"}).faults
    assert fault.what == "there is no pool the value of ${POOL}"


def test_faults_and_places_read_well() -> None:
    assert str(Fault(Place("a.yaml", 3, 7), "log.level", "wrong", "do this")) == "a.yaml:3:7: log.level: wrong; do this"
    assert str(Fault(Place("a.yaml"), "", "empty")) == "a.yaml: empty"
    assert key_path(("pools", 0, "nodes", 12, "from", "email")) == "pools[0].nodes[12].from.email"
    assert did_you_mean("prot", ["port", "host"]) == 'did you mean "port"?'
    assert did_you_mean("zzz", ["port"]) == ""
    twice = Fault(Place("a.yaml", 1, 1), "k", "wrong")
    assert str(InvalidConfig([twice, twice])).startswith("configuration not usable, 1 fault:\n")
