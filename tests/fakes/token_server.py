"""An OAuth 2 server over real HTTP: token, device and authorization endpoints, as strict as the RFCs ask.

    async with TokenServer() as server:
        server.script(Say(500, b"oops"), times=1)      # the next answer of /token
        ...
        server.forms[-1]["grant_type"]

Refresh tokens are rotated: each is good once, and a second use ends the whole consent, as the RFC 9700 §4.14.2 way of
telling theft wants it. It listens on 127.0.0.1 and a port of the kernel's choice.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


@dataclass(frozen=True)
class Say:
    """One scripted answer. `hang`: never."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    hang: bool = False


def error(code: str, description: str = "", status: int = 400) -> Say:
    facts = {"error": code} | ({"error_description": description} if description else {})
    return Say(status, json.dumps(facts).encode())


@dataclass
class TokenServer:
    """Attributes:
    forms: what was posted to /token, in order; `paths`: of every request.
    life_s: of access tokens. rotate: give a new refresh token with each refresh.
    refresh_tokens: the ones that are good now. revoked: the consent has ended.
    pending: how often a device is told to wait before its person agrees.
    public_key: of the service account that may come.
    codes: authorization code → code_challenge.
    """

    client_id: str = "client-1"
    client_secret: str = ""
    life_s: float = 3600
    rotate: bool = True
    pending: int = 0
    delay: float = 0.0
    refresh_tokens: set[str] = field(default_factory=lambda: {"r0"})
    used: set[str] = field(default_factory=set)
    revoked: bool = False
    public_key: RSAPublicKey | None = None
    codes: dict[str, str] = field(default_factory=dict)
    forms: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._script: list[tuple[Say, int]] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    def script(self, say: Say, *, times: int = 1) -> None:
        self._script.append((say, times))

    def forget(self) -> None:
        self._script.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while line := await reader.readline():
                path = line.decode().split(" ")[1]
                headers: dict[str, str] = {}
                while head := (await reader.readline()).strip():
                    name, _, value = head.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.paths.append(path)
                say = await self._answer(path, headers, body)
                if say.hang:
                    await asyncio.sleep(3600)
                if say.delay:
                    await asyncio.sleep(say.delay)
                lines = [
                    f"HTTP/1.1 {say.status} X",
                    f"Content-Length: {len(say.body)}",
                    "Content-Type: application/json",
                ]
                lines += [f"{name}: {value}" for name, value in say.headers]
                writer.write("\r\n".join([*lines, "", ""]).encode() + say.body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _answer(self, path: str, headers: dict[str, str], body: bytes) -> Say:
        form = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        if path == "/device":
            if form.get("client_id") != self.client_id:
                return error("invalid_client", status=401)
            facts = {"device_code": "dev-1", "user_code": "ABCD-EFGH", "verification_uri": f"{self.url}/enter"}
            return Say(200, json.dumps(facts | {"expires_in": 60, "interval": 1}).encode())
        if path != "/token":
            return Say(404, b"<html>no such page</html>")
        self.forms.append(form)
        self.authorizations.append(headers.get("authorization", ""))
        if headers.get("content-type") != "application/x-www-form-urlencoded":
            return error("invalid_request", "not a form")
        if self._script:
            say, times = self._script[0]
            self._script[0] = (say, times - 1)
            if times <= 1:
                self._script.pop(0)
            return say
        if self.delay:
            await asyncio.sleep(self.delay)
        return self._grant(form, headers)

    def _grant(self, form: dict[str, str], headers: dict[str, str]) -> Say:
        kind = form.get("grant_type", "")
        if kind.endswith("jwt-bearer"):
            return self._check_assertion(form["assertion"])
        if not self._knows_client(form, headers):
            return error("invalid_client", "AADSTS7000215: Invalid client secret provided.", 401)
        match kind:
            case "client_credentials":
                return self._token()
            case "refresh_token":
                return self._refresh(form.get("refresh_token", ""))
            case "authorization_code":
                challenge = self.codes.pop(form.get("code", ""), None)
                digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
                if challenge != base64.urlsafe_b64encode(digest).rstrip(b"=").decode():
                    return error("invalid_grant", "PKCE verification failed")
                return self._consented()
            case "urn:ietf:params:oauth:grant-type:device_code":
                if form.get("device_code") != "dev-1":
                    return error("expired_token")
                if self.pending:
                    self.pending -= 1
                    return error("authorization_pending")
                return self._consented()
        return error("unsupported_grant_type")

    def _knows_client(self, form: dict[str, str], headers: dict[str, str]) -> bool:
        if headers.get("authorization", "").startswith("Basic "):
            pair = base64.b64decode(headers["authorization"][6:]).decode()
            return pair == f"{self.client_id}:{self.client_secret}"
        return (form.get("client_id"), form.get("client_secret", "")) == (self.client_id, self.client_secret)

    def _refresh(self, token: str) -> Say:
        if token in self.used:
            self.revoked = True
        if self.revoked or token not in self.refresh_tokens:
            return error("invalid_grant", "AADSTS700082: The refresh token has expired due to inactivity.")
        if not self.rotate:
            return self._token()
        self.refresh_tokens.discard(token)
        self.used.add(token)
        return self._consented()

    def _consented(self) -> Say:
        token = f"r{len(self.issued) + 1}"
        self.refresh_tokens.add(token)
        return self._token(refresh_token=token)

    def _token(self, **more: Any) -> Say:
        token = f"access-{len(self.issued) + 1}"
        self.issued.append(token)
        facts = {"access_token": token, "token_type": "Bearer", "expires_in": self.life_s, "scope": "mail"}
        return Say(200, json.dumps(facts | more).encode())

    def _check_assertion(self, jwt: str) -> Say:
        head, claims, signature = jwt.split(".")
        assert self.public_key is not None
        try:
            self.public_key.verify(_decoded(signature), f"{head}.{claims}".encode(), PKCS1v15(), hashes.SHA256())
        except Exception:
            return error("invalid_grant", "Invalid JWT Signature.")
        facts = json.loads(_decoded(claims))
        if facts["aud"] != f"{self.url}/token" or facts["exp"] - facts["iat"] > 3600:
            return error("invalid_grant", "Invalid JWT: audience or life")
        self.claims = facts
        return self._token()


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
