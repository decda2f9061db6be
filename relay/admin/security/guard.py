"""The door of the HTTP server: what every request passes before any path is looked at.

In this order: the host it was meant for (DNS rebinding), size and encoding of its body, who asks, and for changes by a
browser's session whether one of our own pages asked (CSRF). A path is closed unless it stands in `OPEN`; roles are the
affair of paths. Every answer leaves with headers that keep browsers from doing more than our pages need.

ASGI, so that bodies are counted while they come and streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Collection
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.admin.api.problems import of_refusal
from relay.admin.refusals import Refused
from relay.admin.security.access import Access
from relay.admin.security.guess import unauthorized
from relay.admin.security.roles import Caller

COOKIE = "relay_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf_token"

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

OPEN: Collection[tuple[str, str]] = frozenset(
    {
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),  # looks by itself
        ("GET", "/login"),
        ("POST", "/login"),
        ("POST", "/api/v1/messages"),  # logins of bridges
        ("POST", "/api/v1/messages/batch"),
    }
)
"""Method and path of what needs no token, or asks for something else."""

OPEN_BELOW = ("/static/",)

BODY_LIMIT = 1024 * 1024
"""Octets of a request's body; some paths take more."""

BODY_PAUSE_S = 30.0
"""A body of which nothing more comes for so long is given up."""

LARGE_AT_ONCE = 16
"""Bodies above `BODY_LIMIT` that are in memory at the same time."""

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none at all, browsers send forms of ours with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """
    Args:
        hosts: names the server may be called, lower case; IP addresses and `localhost` always are.
        limit_of: octets the body of a path may have.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        hosts: Callable[[], Collection[str]],
        limit_of: Callable[[str], int] = lambda _: BODY_LIMIT,
    ) -> None:
        self._app = app
        self._access = access
        self._hosts = hosts
        self._limit_of = limit_of
        self._large = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        secured = _secured(send)
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            limit = self._limit_of(scope["path"])
            self._check_body(headers, limit)
            caller = await self._caller(scope, headers)
            scope.setdefault("state", {})["caller"] = caller
            answer = None
            if caller is None and not is_open(scope["method"], scope["path"]):
                answer = _ask_for_login(scope)
        except Refused as refused:
            answer = of_refusal(refused)
        if answer is not None:
            await answer(scope, receive, secured)
            return
        await self._pass_on(scope, receive, secured, limit)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        taken, complete, is_large = 0, False, False

        async def counted() -> Message:
            nonlocal taken, complete, is_large
            if complete:
                return await receive()  # waits for the end of the connection, as long as an answer is streamed
            try:
                async with asyncio.timeout(BODY_PAUSE_S):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not come", headers={"Connection": "close"}) from None
            if message["type"] == "http.request":
                complete = not message.get("more_body", False)
                taken += len(message.get("body", b""))
                if taken > limit:
                    refused = _too_large(limit)
                    raise HTTPException(refused.status, refused.detail, headers=refused.headers)
                if taken > BODY_LIMIT and not is_large:
                    if self._large >= LARGE_AT_ONCE:
                        raise HTTPException(503, "too many large bodies at once", headers={"Retry-After": "5"})
                    self._large += 1
                    is_large = True
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._large -= is_large

    def _check_host(self, headers: Headers) -> None:
        """A page elsewhere whose name was made to point here must not be taken for one of ours."""
        host = headers.get("host", "")
        try:
            parts = urlsplit(f"//{host}")
            name, _ = (parts.hostname or "").lower().rstrip("."), parts.port
        except ValueError:
            name = ""
        if not name or (name != "localhost" and not _is_address(name) and name not in self._hosts()):
            raise Refused(421, "this server is not known under that name; add it to admin.hosts")

    def _check_body(self, headers: Headers, limit: int) -> None:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "send the body as it is, without Content-Encoding")
        length = headers.get("content-length")
        if length is not None and length.isdecimal() and int(length[:20]) > limit:
            raise _too_large(limit)

    async def _caller(self, scope: Scope, headers: Headers) -> Caller | None:
        """Who asks, or None. Raises Refused for a token that is none, and for changes that a foreign page asks for."""
        if ("POST", scope["path"]) in OPEN and scope["method"] == "POST" and scope["path"] != "/login":
            return None  # its own kind of login
        peer = peer_of(scope)
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if kind:
            if kind.lower() == "bearer":
                caller = await asyncio.to_thread(self._access.by_token, secret.strip(), peer=peer)
                if caller is not None:
                    return caller
            # Not counted: 256 random bits cannot be guessed, and a scraper with an old token must not lock others out.
            raise unauthorized("this token is not known, or its time is over")
        session = _cookie(headers)
        if not session:
            return None
        caller = await asyncio.to_thread(self._access.by_session, session, peer=peer)
        if caller is not None and scope["method"] not in SAFE:
            check_origin(headers)
            given = headers.get(CSRF_HEADER, "")
            # A form without script sends it as a field; its handler compares that, by `check_csrf`.
            as_form = _is_form(headers) and not scope["path"].startswith("/api/")
            if not as_form and not is_csrf(caller, given):
                raise Refused(403, f"changes by a browser's session need the header {CSRF_HEADER}")
        return caller


def is_open(method: str, path: str) -> bool:
    """Whether a path may be asked without a token."""
    return (method, path) in OPEN or path.startswith(OPEN_BELOW)


def check_origin(headers: Headers) -> None:
    """Raises Refused when the request says that another site asks."""
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin")
    if site not in ("same-origin", "none"):
        raise Refused(403, "another site asked for this change")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise Refused(403, "another site asked for this change")


def check_csrf(caller: Caller, given: str) -> None:
    """For handlers of forms. Raises Refused."""
    if not is_csrf(caller, given):
        raise Refused(403, "the page is too old; load it again")


def is_csrf(caller: Caller, given: str) -> bool:
    return bool(caller.csrf) and hmac.compare_digest(caller.csrf.encode(), given.encode("utf-8", "replace"))


def peer_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit} octets", headers={"Connection": "close"})


def _ask_for_login(scope: Scope) -> Response:
    wants_page = "text/html" in Headers(scope=scope).get("accept", "")
    if scope["method"] == "GET" and wants_page and not scope["path"].startswith("/api/"):
        return RedirectResponse("/login", status_code=303)
    return of_refusal(unauthorized("a token is needed: Authorization: Bearer …; `relay token add` makes one"))


def _is_form(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/x-www-form-urlencoded", "multipart/form-data")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _secured(send: Send) -> Callable[[Message], Awaitable[Any]]:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return with_headers
