"""The driver against a server it was not written together with (aiosmtpd), and on the loop that production runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
import uvloop
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from relay.envelope import BodyFile
from relay.outcome import Scope, Status
from relay.upstreams.base import Setting
from relay.upstreams.smtp import SmtpUpstream
from relay.upstreams.smtp_options import SmtpOptions
from tests.fakes.smtp_server import RESET, SmtpServer
from tests.fakes.upstream import BODY, HEAD, kinds, outbound, send, smtp_node

OK = (Status.DELIVERED, Scope.RECIPIENT)


class Taker:
    """Takes everything but recipients that begin with `bad`."""

    def __init__(self) -> None:
        self.taken: list[Envelope] = []

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("bad"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.taken.append(envelope)
        return "250 2.0.0 taken"


@asynccontextmanager
async def aiosmtpd_server(taker: Taker, **options: object) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    made: list[SMTP] = []

    def factory() -> SMTP:
        made.append(SMTP(taker, loop=loop, hostname="mx.example", enable_SMTPUTF8=True, **options))  # type: ignore[arg-type]
        return made[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def node(port: int, **options: object) -> SmtpUpstream:
    model = SmtpOptions.model_validate({"host": "127.0.0.1", "port": port, "tls": "none", **options})
    return SmtpUpstream("node-1", model, Setting(ehlo="relay.example"))


async def test_aiosmtpd_takes_what_was_sent(tmp_path: Path) -> None:
    taker = Taker()
    lines = b"".join(b".%d\r\n..\r\n" % i for i in range(60_000))
    path = tmp_path / "body"
    path.write_bytes(lines)
    async with aiosmtpd_server(taker) as port:
        upstream = node(port)
        assert kinds(await send(upstream, "a@y.example", "bad@y.example", "\u00fc@y.example")) == [
            OK,
            (Status.REFUSED, Scope.RECIPIENT),
            OK,
        ]
        assert kinds(await send(upstream, "bad@y.example")) == [(Status.REFUSED, Scope.RECIPIENT)]
        assert kinds(await send(upstream, body=BodyFile(path, len(lines)))) == [OK]
        assert (await upstream.probe()).outcome.status is Status.DELIVERED
        await upstream.close()
    assert [envelope.content for envelope in taker.taken] == [HEAD + b"\r\n" + BODY, HEAD + b"\r\n" + lines]
    assert taker.taken[0].rcpt_tos == ["a@y.example", "\u00fc@y.example"]


@pytest.mark.parametrize("mechanism", ["plain", "login"])
async def test_aiosmtpd_with_starttls_and_login(tmp_path: Path, mechanism: str) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    tried: list[str] = []

    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        tried.append(mechanism)
        return AuthResult(success=data.password == b"right-word", handled=False)

    taker = Taker()
    options = {
        "tls": "starttls",
        "verify": {"ca_file": str(tmp_path / "ca.pem")},
        "username": "relay",
        "auth": mechanism,
    }
    async with aiosmtpd_server(
        taker, tls_context=tls, require_starttls=True, authenticator=check, auth_required=True
    ) as port:
        upstream = node(port, password="right-word", **options)
        assert kinds(await send(upstream)) == [OK]
        await upstream.close()
        upstream = node(port, password="wrong-word", **options)
        assert kinds(await send(upstream)) == [(Status.REFUSED, Scope.ACCOUNT)]
        await upstream.close()
    assert tried == [mechanism.upper()] * 2
    assert len(taker.taken) == 1


async def _plain() -> None:
    async with SmtpServer() as server, smtp_node(server, connections=3) as upstream:
        results = await asyncio.gather(*[send(upstream) for _ in range(20)])
        assert all(kinds(result) == [OK] for result in results)
        assert server.messages[0].content == HEAD + b"\r\n" + BODY


async def _large() -> None:
    async with SmtpServer() as server, smtp_node(server) as upstream:
        body = b".0123456789\r\n" * 100_000
        assert kinds(await send(upstream, body=body)) == [OK]
        assert server.messages[0].content == HEAD + b"\r\n" + body


async def _tls() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    for mode in ("starttls", "implicit"):
        async with SmtpServer(tls=tls, implicit=mode == "implicit") as server:
            async with smtp_node(server, tls=mode, verify=False) as upstream:
                assert kinds(await send(upstream)) == [OK]
                assert server.messages[0].tls
            async with smtp_node(server, tls=mode) as upstream:
                [outcome] = await send(upstream)
                assert (outcome.status, outcome.scope, outcome.phase) == (Status.DEFERRED, Scope.NODE, "tls")


async def _reset() -> None:
    async with SmtpServer() as server, smtp_node(server) as upstream:
        server.at("dot", RESET, times=1)
        assert kinds(await send(upstream)) == [(Status.UNCERTAIN, Scope.MESSAGE)]
        assert kinds(await send(upstream)) == [OK]
        server.disconnect()
        await server.until(gone=True)
        assert kinds(await send(upstream)) == [OK]


@pytest.mark.parametrize("scenario", [_plain, _large, _tls, _reset])
def test_on_uvloop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_a_message_without_recipients_needs_no_connection() -> None:
    async with SmtpServer() as server, smtp_node(server) as upstream:
        message = outbound("bad>@y.example")
        [result] = await upstream.deliver(message, deadline=asyncio.get_running_loop().time() + 1)
        assert result.outcome.enhanced == "5.1.3"
        assert server.connections == 0
