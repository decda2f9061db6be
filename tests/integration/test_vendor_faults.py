"""What the HTTP driver makes of calls that break, wait, are refused or overtaken, over real sockets."""

from __future__ import annotations

import asyncio
import os
import ssl
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import trustme

from relay.envelope import BodyFile, Content
from relay.errors import UpstreamError
from relay.outcome import Outcome, Scope, Status
from relay.upstreams import make, options_model
from relay.upstreams.base import Capabilities, Outbound, OutboundRecipient, Setting
from relay.upstreams.http_api import ALIKE
from relay.upstreams.tokens import TokenFault
from tests.fakes.vendor_corpus import case
from tests.fakes.vendor_node import Tokens, letter, options_for, vendor_node
from tests.fakes.vendor_server import Do, Handler, Reply, Request, vendor_server

JANE = "jane@customer.example"
PLAIN = case("plain").octets
KEY = "SG.key"


def message(id: str = "01J0000000000000000000TEST", *recipients: str) -> Outbound:
    return letter(PLAIN, recipients or (JANE,), id=id)


async def outcome_of(
    handler: Handler, kind: str = "sendgrid", *, within: float = 5.0, early: Any = lambda _: None, **options: Any
) -> Outcome:
    async with vendor_node(kind, handler, early=early, **options) as node:
        (outcome,) = await node.send(message(), within=within)
        return outcome


@pytest.mark.parametrize(
    ("misdeed", "status", "scope", "words"),
    [
        (Do.RESET, Status.UNCERTAIN, Scope.MESSAGE, "the call broke"),
        (Do.CLOSE, Status.UNCERTAIN, Scope.MESSAGE, "without sending a response"),
        (Do.GARBAGE, Status.UNCERTAIN, Scope.MESSAGE, "the call broke"),
        (Do.BREAK_OFF, Status.UNCERTAIN, Scope.MESSAGE, "the answer 200 broke off"),
        (Do.BREAK_OFF_REFUSAL, Status.REFUSED, Scope.ACCOUNT, ""),
    ],
)
async def test_a_call_that_breaks_after_it_left(misdeed: Do, status: Status, scope: Scope, words: str) -> None:
    """Without an answer nothing is known; half an answer proves what its status says, if that is a refusal."""
    outcome = await outcome_of(lambda _: misdeed)
    assert (outcome.status, outcome.scope) == (status, scope)
    assert words in outcome.text
    assert outcome.attempted
    assert outcome.phase == "http"


async def test_silence_until_the_answer_is_overdue_is_uncertain() -> None:
    outcome = await outcome_of(lambda _: Do.HANG, timeouts={"answer": 0.2})
    assert outcome.status is Status.UNCERTAIN


async def test_silence_until_the_deadline_is_uncertain() -> None:
    outcome = await outcome_of(lambda _: Do.HANG, within=0.3)
    assert outcome.status is Status.UNCERTAIN
    assert outcome.text == "no answer in time"


async def test_a_large_call_that_breaks_in_its_middle_was_not_taken() -> None:
    """A request shorter than its Content-Length is none, so the message may go to another node at once."""
    big = case("five-megabytes").octets
    async with vendor_node("ses", early=lambda _: Do.RESET_EARLY) as node:
        (outcome,) = await node.send(letter(big, [JANE]))
    assert (outcome.status, outcome.scope) == (Status.DEFERRED, Scope.NODE)
    assert outcome.attempted


async def test_nobody_listens() -> None:
    async with vendor_node("sendgrid") as node:
        await node.server.stop()
        (outcome,) = await node.send(message())
    assert (outcome.status, outcome.scope, outcome.attempted) == (Status.DEFERRED, Scope.NODE, False)
    assert outcome.phase == "connect"
    assert outcome.text == f"no connection with 127.0.0.1:{node.server.port}: Connection refused"


async def test_a_refusal_before_the_body_was_read_counts() -> None:
    """A server may answer 401 and close while a large body is still on its way."""
    big = case("five-megabytes").octets

    def refuse(request: Request) -> Do | None:
        return Do.BREAK_OFF_REFUSAL

    async with vendor_node("mailgun", early=refuse) as node:
        (outcome,) = await node.send(letter(big, [JANE]))
    assert outcome.status in (Status.REFUSED, Status.DEFERRED), outcome
    assert outcome.scope in (Scope.ACCOUNT, Scope.NODE)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """The key goes where the operator sent it, and nowhere else."""
    async with vendor_server(lambda _: Reply(202)) as elsewhere:

        def redirect(_: Request) -> Reply:
            return Reply(status, b"", {"Location": f"{elsewhere.url}/v3/mail/send"})

        outcome = await outcome_of(redirect)
        assert elsewhere.requests == []
    assert (outcome.status, outcome.scope) == (Status.REFUSED, Scope.ACCOUNT)


async def test_a_key_that_a_vendor_repeats_is_masked_everywhere() -> None:
    def echo(request: Request) -> Reply:
        said = f"bad key {request.headers['authorization']}"
        return Reply(401, {"errors": [{"message": said}]}, {"X-Message-Id": KEY})

    async with vendor_node("sendgrid", echo) as node:
        (outcome,) = await node.send(message())
        probe = await node.upstream.probe()
    assert "bad key Bearer ***" in outcome.text
    assert KEY not in repr((outcome, probe))
    assert probe.outcome.scope is Scope.ACCOUNT
    assert KEY not in repr(options_model("sendgrid").model_validate({"api_key": KEY}))


async def test_connections_are_kept_and_never_more_than_allowed() -> None:
    async with vendor_node("postmark", connections=3) as node:
        for number in range(5):
            await node.send(message(f"01J{number}"))
        assert node.server.connections == 1
        await asyncio.gather(*(node.send(message(f"01K{number}")) for number in range(30)))
        assert node.server.connections <= 3
        assert len(node.server.requests) == 35


async def test_who_waits_for_a_connection_until_the_deadline_was_not_sent() -> None:
    async with vendor_node("sendgrid", lambda _: Do.HANG, connections=1) as node:
        first = asyncio.create_task(node.send(message("01JA"), within=1.0))
        await asyncio.sleep(0.2)
        (second,) = await node.send(message("01JB"), within=0.2)
        assert (second.status, second.scope, second.attempted) == (Status.DEFERRED, Scope.NODE, False)
        ((outcome),) = await first
        assert outcome.status is Status.UNCERTAIN
        assert len(node.server.requests) == 1


async def test_closing_lets_running_calls_finish() -> None:
    answered = asyncio.Event()

    def slow(_: Request) -> Reply:
        answered.set()
        return Reply(202, b"", {"X-Message-Id": "x"})

    async with vendor_node("sendgrid", slow) as node:
        task = asyncio.create_task(node.send(message()))
        while not node.upstream._running:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        await node.upstream.close()
        (outcome,) = await task
    assert outcome.status is Status.DELIVERED
    assert answered.is_set()


async def test_a_token_that_is_refused_is_renewed_once_and_the_message_goes() -> None:
    def expired(request: Request) -> Reply:
        if request.headers["authorization"] == "Bearer token-1":
            return Reply(401, {"error": {"code": "InvalidAuthenticationToken", "message": "Access token has expired"}})
        return Reply(202)

    async with vendor_node("msgraph", expired) as node:
        (outcome,) = await node.send(message())
        assert outcome.status is Status.DELIVERED
        assert node.tokens.invalidated == ["token-1"]
        (outcome,) = await node.send(message())
        assert len(node.server.requests) == 3


async def test_a_token_that_is_refused_again_takes_the_node_out() -> None:
    refusal = {"error": {"code": "InvalidAuthenticationToken", "message": "Access token validation failure"}}
    async with vendor_node("msgraph", lambda _: Reply(401, refusal)) as node:
        (outcome,) = await node.send(message())
        assert len(node.server.requests) == 2
    assert (outcome.status, outcome.scope) == (Status.REFUSED, Scope.ACCOUNT)
    assert outcome.text == "InvalidAuthenticationToken: Access token validation failure"


async def test_without_a_token_nothing_is_sent() -> None:
    class Revoked(Tokens):
        async def token(self) -> str:
            text = "invalid_grant: the refresh token was revoked; run `relay oauth login node-1`"
            raise TokenFault(Outcome(status=Status.REFUSED, scope=Scope.ACCOUNT, text=text, attempted=False))

    async with vendor_server(lambda _: Reply(202)) as server:
        options = options_model("gmail-api").model_validate(options_for("gmail-api", server.url))
        upstream = make("gmail-api", "node-1", options, Setting(ehlo="r", tokens=lambda _: Revoked()))
        loop = asyncio.get_running_loop()
        (result,) = await upstream.deliver(message(), deadline=loop.time() + 5)
        await upstream.close()
        assert server.requests == []
    assert (result.outcome.status, result.outcome.scope) == (Status.REFUSED, Scope.ACCOUNT)
    assert "relay oauth login" in result.outcome.text
    assert not result.outcome.attempted


def test_a_type_that_needs_tokens_cannot_begin_without_their_source() -> None:
    oauth = {"client_id": "app"}
    options = options_model("msgraph").model_validate({"mailbox": "a@acme.example", "oauth": oauth})
    with pytest.raises(UpstreamError, match=r"node n: .*OAuth2"):
        make("msgraph", "n", options, Setting(ehlo="r"))


async def test_a_vendor_that_says_nothing_is_left_is_not_asked_again() -> None:
    headers = {"X-Message-Id": "x", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "3"}
    async with vendor_node("sendgrid", lambda _: Reply(202, b"", headers)) as node:
        (first,) = await node.send(message())
        (second,) = await node.send(message())
        assert len(node.server.requests) == 1
    assert first.status is Status.DELIVERED
    assert (second.status, second.scope, second.attempted) == (Status.DEFERRED, Scope.QUOTA, False)
    assert second.retry_after_s == pytest.approx(3, abs=1)


async def test_many_refusals_in_the_same_words_are_about_the_node() -> None:
    refused = Reply(400, {"errors": [{"message": "The from address is strange", "field": "from"}]})
    delivered = Reply(202, b"", {"X-Message-Id": "x"})
    answers: list[Reply] = []
    async with vendor_node("sendgrid", lambda _: answers.pop(0)) as node:

        async def send(number: int, reply: Reply) -> Outcome:
            answers.append(reply)
            (outcome,) = await node.send(message(f"01J{number}"))
            return outcome

        for number in range(ALIKE - 1):
            assert (await send(number, refused)).scope is Scope.MESSAGE
        assert (await send(0, refused)).scope is Scope.MESSAGE, "the same message again says nothing new"
        assert (await send(90, delivered)).status is Status.DELIVERED
        scopes = [(await send(number, refused)).scope for number in range(100, 100 + ALIKE)]
        assert scopes == [Scope.MESSAGE] * (ALIKE - 1) + [Scope.ACCOUNT]
        other = Reply(400, {"errors": [{"message": "Something else"}]})
        assert (await send(300, other)).scope is Scope.MESSAGE


@pytest.mark.parametrize("kind", ["resend", "brevo", "mumara-one", "relay"])
async def test_a_second_hand_over_carries_the_same_key_and_the_same_octets(kind: str) -> None:
    async with vendor_node(kind) as node:
        await node.send(message("01JA", JANE))
        await node.send(message("01JA", JANE))
        await node.send(message("01JB", JANE))
        first, again, other = node.contract.seen
        assert first.key == again.key != other.key
        assert node.server.requests[0].body == node.server.requests[1].body


async def test_large_bodies_are_streamed_from_their_files(tmp_path: Path) -> None:
    """Twenty megabytes of raw MIME pass with a fraction of that in memory."""
    file = tmp_path / "body"
    line = b"a line of seventy-six octets, as base64 has them, again and again and again\r\n"
    file.write_bytes(line * (20 * 2**20 // len(line)))
    content = Content(b"From: shop@acme.example\r\nTo: jane@customer.example\r\n", BodyFile(file, file.stat().st_size))

    async def render(_: Capabilities) -> Content:
        return content

    received = []

    def take(request: Request) -> Reply:
        received.append(len(request.body))
        request.body = b""
        return Reply(200, {"id": "<1@mg>"})

    async with vendor_node("mailgun", take) as node:
        outbound = Outbound(
            id="01JL",
            sender="a@acme.example",
            recipients=(OutboundRecipient(address=JANE),),
            render=render,
            size=content.size,
        )
        await node.send(message())  # imports and buffers
        tracemalloc.start()
        (outcome,) = await node.send(outbound, within=60)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert outcome.status is Status.DELIVERED
    assert received[-1] > 20 * 2**20
    # The server in this process holds the body once and a copy while it grows; the driver adds little.
    assert peak < 3 * received[-1], f"{peak / 2**20:.0f} MiB"


async def test_messages_above_the_vendors_size_are_left_before_anything_is_sent() -> None:
    async with vendor_node("msgraph") as node:
        (outcome,) = await node.send(letter(case("five-megabytes").octets, [JANE]))
        assert node.server.requests == []
    assert (outcome.status, outcome.scope, outcome.enhanced) == (Status.REFUSED, Scope.MESSAGE, "5.3.4")
    assert (outcome.code, outcome.attempted) == (552, False)


async def test_a_content_that_changed_under_us_is_tried_later(tmp_path: Path) -> None:
    content = Content(b"From: a@acme.example\r\n", BodyFile(tmp_path / "gone", 100))

    async def render(_: Capabilities) -> Content:
        return content

    outbound = Outbound(
        id="01JG", sender="", recipients=(OutboundRecipient(address=JANE),), render=render, size=content.size
    )
    for kind in ("mailgun", "sendgrid", "ses", "sparkpost"):
        async with vendor_node(kind) as node:
            (outcome,) = await node.send(outbound)
            assert not node.contract.seen
        assert (outcome.status, outcome.scope, outcome.attempted) == (Status.DEFERRED, Scope.MESSAGE, False), kind


async def test_tls_is_verified_and_an_authority_of_ones_own_can_be_named(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{"ID":1,"Name":"x","y":1 } ')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def probe(**more: Any) -> Outcome:
        options = options_model("postmark").model_validate({"server_token": "pm", "base_url": url, **more})
        upstream = make("postmark", "n", options, Setting(ehlo="r"))
        found = await upstream.probe()
        await upstream.close()
        return found.outcome

    refused = await probe()
    assert (refused.status, refused.scope, refused.phase) == (Status.DEFERRED, Scope.NODE, "connect")
    assert "CERTIFICATE_VERIFY_FAILED" in refused.text
    assert seen == [], "the key was shown to a stranger"
    assert (await probe(ca_file=str(ca_file))).status is Status.DELIVERED
    server.close()
    await server.wait_closed()


def test_a_file_of_authorities_that_is_none_stops_the_driver(tmp_path: Path) -> None:
    options = options_model("postmark").model_validate({"server_token": "pm-t", "ca_file": str(tmp_path / "none.pem")})
    with pytest.raises(UpstreamError, match=r"node n: ca_file"):
        make("postmark", "n", options, Setting(ehlo="r"))


@pytest.mark.parametrize("way", ["option", "environment"])
async def test_a_proxy_is_honoured(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain HTTP proxy sees the whole URL; it answers in the vendor's place."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with vendor_server(lambda _: Reply(202, b"", {"X-Message-Id": "by-proxy"})) as proxy:
        more: dict[str, Any] = {"base_url": "http://sendgrid.invalid", "plain_http": True, "api_key": "SG.proxied"}
        if way == "option":
            more["proxy"] = proxy.url
        else:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
        upstream = make("sendgrid", "n", options_model("sendgrid").model_validate(more), Setting(ehlo="r"))
        (result,) = await upstream.deliver(message(), deadline=asyncio.get_running_loop().time() + 5)
        await upstream.close()
        assert result.outcome.vendor_id == "by-proxy"
        assert proxy.requests[0].target == "http://sendgrid.invalid/v3/mail/send"


async def test_what_is_not_shown_is_said() -> None:
    async with vendor_node("postmark") as node:
        found = case("partly-delivered")
        (outcome,) = await node.send(letter(found.octets, found.recipients))
        assert outcome.text == "OK (2 other recipients are not shown)"
    async with vendor_node("postmark", other_recipients="refuse") as node:
        (outcome,) = await node.send(letter(found.octets, found.recipients))
        assert (outcome.status, outcome.enhanced, outcome.attempted) == (Status.REFUSED, "5.6.3", False)
        assert not node.server.requests
    async with vendor_node("gmail-api", other_recipients="refuse") as node:
        (outcome,) = await node.send(letter(found.octets, found.recipients))
        assert (outcome.status, outcome.enhanced, outcome.attempted) == (Status.REFUSED, "5.6.3", False)


async def test_aws_credentials_come_from_profile_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    shared = tmp_path / "credentials"
    shared.write_text("[relay]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = secret/of/iam\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    none = {"access_key_id": None, "secret_access_key": None}
    async with vendor_node("ses", **none, profile="relay") as node:
        (outcome,) = await node.send(message())
        assert outcome.status is Status.DELIVERED, outcome
    async with vendor_node("ses", **none) as node:
        (outcome,) = await node.send(message())
        assert (outcome.scope, outcome.attempted) == (Scope.ACCOUNT, False)
        assert "no AWS credentials" in outcome.text
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret/of/iam")
        (outcome,) = await node.send(message())
        assert outcome.status is Status.DELIVERED, outcome
    async with vendor_node("ses", **none, profile="nobody") as node:
        (outcome,) = await node.send(message())
        assert "nobody" in outcome.text
        assert not node.server.requests


async def test_the_limits_of_an_ses_account_are_read() -> None:
    async with vendor_node("ses") as node:
        quota = await node.upstream.quota()  # type: ignore[attr-defined]
    assert quota is not None
    assert [(cap.window_s, cap.limit, cap.source) for cap in quota] == [
        (1.0, 14, "SES account"),
        (86400.0, 50000, "SES account"),
    ]


async def test_a_bridge_of_another_relay_over_smtp_is_an_smtp_node() -> None:
    from relay.upstreams.smtp import SmtpUpstream

    options = options_model("relay").model_validate({"host": "127.0.0.1", "port": 2525, "tls": "none"})
    upstream = make("relay", "n", options, Setting(ehlo="r"))
    assert isinstance(upstream, SmtpUpstream)
    await upstream.close()


async def test_a_relay_is_told_the_null_sender_and_odd_addresses_exactly() -> None:
    odd = ['"a,b"@x.example', "100%@x.example", "jürgen@bücher.example", "plain@x.example"]
    async with vendor_node("relay") as node:
        outcomes = await node.send(letter(PLAIN, odd, sender=""))
        (seen,) = node.contract.seen
    assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
    assert seen.envelope == odd
    assert seen.reverse_path == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Reply(401, {"ErrorCode": 10, "Message": "Bad or missing Server API token."}),
            "Bad or missing Server API token",
        ),
        (Reply(500, b""), ""),
        (Do.CLOSE, "the call broke"),
    ],
)
async def test_a_probe_that_fails_says_what_was_answered(answer: Reply | Do, words: str) -> None:
    async with vendor_node("postmark", lambda _: answer) as node:
        probe = await node.upstream.probe()
    assert probe.outcome.status is not Status.DELIVERED
    assert probe.outcome.status is not Status.UNCERTAIN, "a test hands nothing over"
    assert not probe.outcome.attempted
    assert words in probe.outcome.text
    assert probe.steps[0] == f"GET {node.server.url}/server"
