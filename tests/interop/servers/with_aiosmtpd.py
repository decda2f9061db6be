"""A server written with aiosmtpd in a process of its own: no PIPELINING, no DSN, lines of at most 1000 octets.

Run as `python -m tests.interop.servers.with_aiosmtpd FOLDER CHAIN KEY DOOR=PORT…`.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from tests.interop.programs import ROOT
from tests.interop.servers.base import DOMAIN, PASSWORD, SMALL, USER, Server


class Aiosmtpd(Server):
    OFFERS = frozenset({"SIZE", "8BITMIME", "SMTPUTF8"})

    def start(self) -> None:
        (self.folder / "mailbox" / "new").mkdir(parents=True)
        doors = [f"{door}={port}" for door, port in self.ports.items()]
        files = [self.folder, self.certificates.chain, self.certificates.key]
        self.launch([sys.executable, "-m", "tests.interop.servers.with_aiosmtpd", *files, *doors], PYTHONPATH=str(ROOT))


class _Keep:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        name, _, domain = address.rpartition("@")
        if domain not in (DOMAIN, "acme.example"):
            return "554 5.7.1 relaying denied"
        if name.startswith("unknown"):
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        protocol = "ESMTP" + "S" * (server.transport.get_extra_info("ssl_object") is not None)
        protocol += "A" * bool(session.authenticated)
        sender = envelope.mail_from.strip("<>")
        for recipient in envelope.rcpt_tos:
            self._count += 1
            top = f"Return-Path: <{sender}>\nDelivered-To: {recipient}\nReceived: by here with {protocol}\n"
            path = self._folder / "mailbox" / f"{self._count}"
            path.write_bytes(top.encode() + envelope.content.replace(b"\r\n", b"\n"))
            path.rename(self._folder / "mailbox" / "new" / path.name)
        return "250 2.0.0 Ok"


def _authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: object) -> AuthResult:
    assert isinstance(data, LoginPassword)
    return AuthResult(success=data == LoginPassword(USER.encode(), PASSWORD.encode()), handled=False)


async def _serve(folder: Path, chain: str, key: str, ports: dict[str, int]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    keep = _Keep(folder)
    common: dict[str, Any] = {"hostname": "aiosmtpd.example.com", "enable_SMTPUTF8": True}
    login: dict[str, Any] = {"authenticator": _authenticate, "auth_required": True}
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "submission": {"tls_context": context, "require_starttls": True, **login},
        "submissions": {"auth_require_tls": False, **login},  # it does not see that the socket is encrypted already
        "small": {"data_size_limit": SMALL},
    }
    loop = asyncio.get_running_loop()
    for door, port in ports.items():
        await loop.create_server(
            lambda door=door: SMTP(keep, **common, **options[door]),
            "127.0.0.1",
            port,
            ssl=context if door == "submissions" else None,
        )
    await asyncio.Event().wait()


if __name__ == "__main__":
    folder, chain, key, *doors = sys.argv[1:]
    asyncio.run(_serve(Path(folder), chain, key, {d: int(p) for d, _, p in (door.partition("=") for door in doors)}))
