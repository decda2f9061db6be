"""Nodes of vendors in the configuration: what is refused, what is warned of, and what the router learns of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config import values
from relay.pools.pool import Node
from tests.unit.config.config_files import faults_of, load_text, text_with

SOUND = {
    "ses": "region: eu-west-1",
    "sendgrid": "api_key: SG.key",
    "mailgun": "domain: mg.acme.example, api_key: key-1",
    "postmark": "server_token: pm-token",
    "sparkpost": "api_key: spark-key",
    "mandrill": "api_key: md-key",
    "elasticemail": "api_key: ee-key",
    "mailjet": "api_key: public, secret_key: secret-1",
    "smtp2go": "api_key: api-1",
    "brevo": "api_key: xkeysib-1",
    "sendinblue": "api_key: xkeysib-1",
    "zeptomail": "token: zepto",
    "resend": "api_key: re_key",
    "mailersend": "api_key: mlsn.key",
    "mumara-one": "url: 'https://mumara.example/v1/send', token: mumara",
    "msgraph": "mailbox: news@acme.example, oauth: {client_id: app-1}",
    "gmail-api": "mailbox: news@acme.example, oauth: {client_id: app-1, client_secret: oauth-1}",
    "relay": "url: 'https://relay.example', token: bridge-token",
}


def text(kind: str, options: str = "") -> str:
    given = ", ".join(part for part in (SOUND[kind], options) if part)
    nodes = f"[{{name: n1, type: {kind}, {given}}}, {{name: spare, type: sandbox}}]"
    return text_with(pools=f"pools:\n  - {{name: main, id: 1, nodes: {nodes}}}\n")


def node(folder: Path, kind: str, options: str = "") -> Node:
    return values.pools(load_text(folder, text(kind, options)).config)[0].nodes[0]


@pytest.mark.parametrize("kind", SOUND)
def test_each_type_loads_with_its_credentials_alone(tmp_path: Path, kind: str) -> None:
    loaded = load_text(tmp_path, text(kind))
    assert [warning for warning in loaded.warnings if "itself stands in the file" not in warning.what] == []
    (pool,) = values.pools(loaded.config)
    assert pool.nodes[0].type == kind
    shown = repr(values.options_of_nodes(loaded.config)["n1"])
    for secret in (
        "SG.key",
        "key-1",
        "pm-token",
        "-key",
        "secret-1",
        "xkeysib-1",
        "zepto",
        "re_key",
        "bridge-token",
        "oauth-1",
    ):
        assert secret not in shown


@pytest.mark.parametrize("kind", [kind for kind in SOUND if kind != "ses"])
def test_each_type_needs_its_credentials(tmp_path: Path, kind: str) -> None:
    bare = text_with(pools=f"pools:\n  - {{name: main, id: 1, nodes: [{{name: n1, type: {kind}}}]}}\n")
    assert "missing" in str(faults_of(tmp_path, bare)) or kind == "relay"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("sendgrid", "base_url: 'http://gateway.example'", "http:// would show the key"),
        ("sendgrid", "base_url: 'ftp://gateway.example'", "not a URL"),
        ("sendgrid", "base_url: 'https://user:pw@gateway.example'", "has no login"),
        ("sendgrid", "base_url: 'https://gateway.example/?key=1'", "no query"),
        ("sendgrid", "base_url: 'https://gateway.example:99999'", "not a URL"),
        ("mumara-one", "plain_http: false, proxy: 'no url'", "not a proxy"),
        ("ses", "access_key_id: AKIA1", "secret_access_key is missing"),
        ("ses", "secret_access_key: secret-1", "access_key_id is missing"),
        ("ses", "access_key_id: AKIA1, secret_access_key: secret-1, profile: x", "stands alone"),
        ("relay", "host: relay.example", "one of them"),
        ("relay", "verify: false", "always checked"),
        ("relay", "username: u, password: pw", "is for SMTP"),
        ("mailgun", "region: mars", "us, eu or eu|must be"),
        ("mailgun", "regoin: eu", 'did you mean "region"'),
        ("sparkpost", "batch: 0", "at least 1"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(tmp_path: Path, kind: str, options: str, words: str) -> None:
    import re

    refusal = str(faults_of(tmp_path, text(kind, options)))
    assert re.search(words, refusal), refusal
    assert "secret-1" not in refusal
    assert ":pw@" not in refusal


@pytest.mark.parametrize(
    "options",
    [
        "base_url: 'http://127.0.0.1:8080'",
        "base_url: 'http://[::1]:8080'",
        "base_url: 'http://localhost/x/'",
        "base_url: 'http://gateway.example', plain_http: true",
    ],
)
def test_clear_text_is_for_this_machine_or_said(tmp_path: Path, options: str) -> None:
    assert node(tmp_path, "sendgrid", options).type == "sendgrid"


def test_the_router_learns_what_a_vendor_carries(tmp_path: Path) -> None:
    ses = node(tmp_path, "ses")
    assert (ses.max_recipients, ses.max_size, ses.smtputf8, ses.null_sender) == (50, 30_000_000, False, False)
    smaller = node(tmp_path, "ses", "max_recipients: 7, max_size: 1MB")
    assert (smaller.max_recipients, smaller.max_size) == (7, 2**20)
    larger = node(tmp_path, "ses", "max_recipients: 700, max_size: 1GB, null_sender: true, smtputf8: true")
    assert (larger.max_recipients, larger.max_size) == (50, 30_000_000)
    assert (larger.smtputf8, larger.null_sender) == (False, True)
    other = node(tmp_path, "relay")
    assert (other.max_recipients, other.smtputf8, other.null_sender) == (100, True, True)
    assert node(tmp_path, "sparkpost").max_recipients == 1
    assert node(tmp_path, "sparkpost", "batch: 20").max_recipients == 20


def test_a_pool_that_no_report_can_leave_through_is_warned_of(tmp_path: Path) -> None:
    nodes = "[{name: n1, type: resend, api_key: '${PW}'}]"
    alone = text_with(pools=f"pools:\n  - {{name: main, id: 1, nodes: {nodes}}}\n")
    (warning,) = load_text(tmp_path, alone).warnings
    assert "null reverse-path" in str(warning)
    carried = alone.replace("type: resend", "type: resend, null_sender: true")
    assert load_text(tmp_path, carried).warnings == ()
    off = alone + "dsn: {enabled: false}\n"
    assert load_text(tmp_path, off).warnings == ()
    other = alone.replace(
        "pools:\n", "dsn: {pool: reports}\npools:\n  - {name: reports, id: 2, nodes: [{name: n2, type: sandbox}]}\n"
    )
    assert load_text(tmp_path, other).warnings == ()


def test_a_file_of_authorities_is_looked_at(tmp_path: Path) -> None:
    refusal = str(faults_of(tmp_path, text("postmark", "ca_file: none.pem")))
    assert "none.pem" in refusal
