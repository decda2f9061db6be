"""Pages and fragments out of templates; everything that is filled in is escaped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

import relay
from relay.admin.security.roles import Caller, Role
from relay.admin.web import assets, words

FLASH = "relay_said"
"""Cookie that carries a sentence over a redirect; it is read once."""

FLASH_OCTETS = 900

NAVIGATION = (
    ("/", "Overview"),
    ("/nodes", "Nodes"),
    ("/pools", "Pools"),
    ("/queue", "Queue"),
    ("/inbox", "Inbox"),
    ("/bridges", "Bridges"),
    ("/issues", "Issues"),
    ("/events", "Events"),
    ("/audit", "Audit"),
    ("/send", "Test send"),
)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'none'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
)
"""Nothing inline, nothing evaluated, nothing from elsewhere."""


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("relay.admin.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"asset": assets.url_of, "version": relay.__version__, "navigation": NAVIGATION, "Role": Role}
    made.filters |= {
        "moment": words.moment, "clock": words.clock, "iso": words.iso, "span": words.span, "octets": words.octets,
        "figure": words.figure, "rate": words.rate, "window": words.window, "segment": lambda text: quote(text, ""),
    }  # fmt: skip
    made.globals |= {"away": words.away, "plural": words.plural}
    made.globals["ui"] = made.get_template("macros.html").module  # also for a block that is rendered alone
    return made


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A whole page; with `HX-Request` and a `block` asked for, that part of it alone."""
    return _answer(request, template, request.query_params.get("part", ""), status, values)


def fragment(request: Request, template: str, block: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """One block of a template."""
    return _answer(request, template, block, status, values)


def go(path: str, said: str = "", *, fault: bool = False) -> RedirectResponse:
    """To another page of ours, with a sentence to be read there. Callers write `path`, clients never do."""
    answer = RedirectResponse(path, status_code=303)
    if said:
        text = quote(("!" if fault else "") + said[:FLASH_OCTETS])
        answer.set_cookie(FLASH, text, max_age=60, httponly=True, samesite="strict", path="/")
    return answer


def _answer(request: Request, template: str, block: str, status: int, values: Mapping[str, Any]) -> HTMLResponse:
    caller: Caller | None = request.scope.get("state", {}).get("caller")
    found = environment().get_template(template)
    said = unquote(request.cookies.get(FLASH, ""))
    full = {
        "caller": caller,
        "csrf": caller.csrf if caller else "",
        "may_act": caller is not None and caller.role.covers(Role.OPERATOR),
        "may_change": caller is not None and caller.role.covers(Role.ADMIN),
        "path": request.url.path,
        "query": request.url.query,
        "now": time.time(),
        "said": said.removeprefix("!"),
        "said_is_fault": said.startswith("!"),
        **values,
    }
    if block and block in found.blocks:
        text = "".join(found.blocks[block](found.new_context(full)))
        return HTMLResponse(text, status_code=status, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})
    answer = HTMLResponse(
        found.render(full), status_code=status, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    )
    if said:
        answer.delete_cookie(FLASH, httponly=True, samesite="strict", path="/")
    return answer
