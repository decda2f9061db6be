"""A person's consent: device code, or a browser page whose answer comes to a port of this machine or is pasted.

Nothing is stored here. What the person is to do is told through a callable; waiting ends with the code's life.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from relay.errors import RelayError
from relay.oauth import requests
from relay.oauth.device import BadRedirect, Wait, challenge_of, code_of, next_step
from relay.oauth.judge import advice
from relay.oauth.requests import DeviceCode, Failed, Granted, NoAnswer, Refused
from relay.oauth.source import Ask
from relay.upstreams.oauth_options import TokenPlan

PAGE = (
    "<!doctype html><meta charset=utf-8><title>relay</title><p>The relay has its answer. You may close this page"
    " and go back to the terminal.</p>"
)
LOGIN_S = 600.0
"""How long a person may take in the browser."""


class LoginFailed(RelayError):
    """There is no consent; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What to open in a browser, and what belongs to it."""

    url: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str


async def by_device(plan: TokenPlan, ask: Ask, show: Callable[[DeviceCode], None], *, node: str) -> Granted:
    """Show a code, wait until it is used.

    Raises:
        LoginFailed: refused, expired, or the server has no such flow for these scopes.
    """
    if not plan.device_url:
        raise LoginFailed("this provider has no device flow for mail: use `--browser` or `--paste`")
    code = requests.read_device_code(await _asked(ask, requests.device_code(plan)))
    if not isinstance(code, DeviceCode):
        raise LoginFailed(_told(code, node, plan) + "; `--browser` and `--paste` do without a device code")
    show(code)
    loop = asyncio.get_running_loop()
    give_up = loop.time() + code.life_s
    interval_s = code.interval_s
    while loop.time() + interval_s < give_up:
        await asyncio.sleep(interval_s)
        try:
            answer = requests.read_token(await ask(requests.device_token(plan, code)))
        except NoAnswer as error:
            answer = Failed(text=str(error))
        match next_step(answer, interval_s):
            case Granted() as granted:
                return _lasting(granted)
            case Wait(slower):
                interval_s = slower
            case Refused() as refused:
                raise LoginFailed(_told(refused, node, plan))
    raise LoginFailed("the code was not used in time; run the command again for a new one")


def page_for(plan: TokenPlan, redirect_uri: str) -> Page:
    """A page of consent with proofs of its own. Raises LoginFailed when the provider has none."""
    if not plan.authorize_url:
        raise LoginFailed("no authorization endpoint is known: set oauth.authorize_url")
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    url = requests.authorize_url(plan, challenge=challenge_of(verifier), redirect_uri=redirect_uri, state=state)
    return Page(url=url, state=state, verifier=verifier, redirect_uri=redirect_uri)


async def by_code(plan: TokenPlan, ask: Ask, page: Page, redirected: str, *, node: str) -> Granted:
    """Turn what came back from the browser into tokens. Raises LoginFailed."""
    try:
        code = code_of(redirected, page.state)
    except BadRedirect as bad:
        raise LoginFailed(str(bad)) from bad
    form = requests.code_token(plan, code=code, verifier=page.verifier, redirect_uri=page.redirect_uri)
    verdict = requests.read_token(await _asked(ask, form))
    if not isinstance(verdict, Granted):
        raise LoginFailed(_told(verdict, node, plan))
    return _lasting(verdict)


@asynccontextmanager
async def loopback(port: int = 0) -> AsyncIterator[tuple[str, Callable[[], Awaitable[str]]]]:
    """A port of this machine that a browser may be sent to (RFC 8252 §7.3): its address, and a wait for the answer.

    Only a request with `code` or `error` in its query counts; a browser asks for icons too.
    """
    arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                line = (await reader.readline()).decode("latin-1").split(" ")
                while (await reader.readline()).strip():
                    pass
                target = line[1] if len(line) > 1 else ""
                counts = "code=" in target or "error=" in target
                status, body = ("200 OK", PAGE) if counts else ("404 Not Found", "")
                head = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n"
                writer.write(f"{head}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode())
                await writer.drain()
                if counts and not arrived.done():
                    arrived.set_result(target)
        except (OSError, TimeoutError, ValueError):
            pass  # whoever that was, the browser comes again or the person sees that it did not work
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)

    async def wait() -> str:
        try:
            async with asyncio.timeout(LOGIN_S):
                return await asyncio.shield(arrived)
        except TimeoutError:
            raise LoginFailed("no answer came from the browser; `--paste` does without a port") from None

    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", wait
    finally:
        server.close()
        await server.wait_closed()


async def _asked(ask: Ask, form: requests.Form) -> requests.Answer:
    try:
        return await ask(form)
    except NoAnswer as error:
        raise LoginFailed(str(error)) from error


def _lasting(granted: Granted) -> Granted:
    if not granted.refresh_token:
        raise LoginFailed(
            "the provider gave a token for an hour but no refresh token: ask for offline access (scope"
            " `offline_access`), or withdraw the application's earlier consent and log in again"
        )
    return granted


def _told(verdict: Refused | Failed, node: str, plan: TokenPlan) -> str:
    if isinstance(verdict, Failed):
        return verdict.text
    return f"{verdict.text}; {advice(verdict.error, node=node, flow=plan.flow)}"
