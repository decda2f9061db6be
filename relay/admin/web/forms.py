"""What pages share on the way in: errors as pages, and the fields of a form that one of our own pages sent."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from relay.admin.refusals import Refused, faults_of, refusal_of
from relay.admin.security.guard import CSRF_FIELD, CSRF_HEADER, check_csrf
from relay.admin.security.guess import unauthorized
from relay.admin.security.roles import Caller
from relay.admin.web.render import fragment, page

FIELDS = 1000


class PageRoute(APIRoute):
    """Answers refusals as pages; a script of ours gets the sentence alone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                refused = Refused(422, "this address is not as it must be", errors=faults_of(error.errors()))
            except HTTPException as error:
                refused = Refused(error.status_code, str(error.detail))
            except Exception as error:
                found = refusal_of(error)
                if found is None:
                    raise
                refused = found
            return refusal_page(request, refused)

        return guarded


def refusal_page(request: Request, refused: Refused) -> Response:
    if request.headers.get("hx-request"):
        answer = fragment(request, "refused.html", "said_now", refused=refused, status=refused.status)
        answer.headers["HX-Retarget"] = "#notice"
        answer.headers["HX-Reswap"] = "innerHTML"
        return answer
    return page(request, "refused.html", refused=refused, status=refused.status)


async def form_of(request: Request) -> FormData:
    """Dependency of every page that changes something: its form, if it comes from the session's own page.

    Raises:
        Refused: there is no session (a token alone sends no forms), or its CSRF token is missing.
    """
    caller: Caller | None = request.scope.get("state", {}).get("caller")
    if caller is None or not caller.session:
        raise unauthorized("log in first")
    form = await request.form(max_files=0, max_fields=FIELDS)
    check_csrf(caller, request.headers.get(CSRF_HEADER) or str(form.get(CSRF_FIELD, "")))
    return form


Form = Annotated[FormData, Depends(form_of)]


def text_of(form: FormData, key: str, limit: int = 1000) -> str:
    """A field, without blanks around it; empty when it is missing. Raises Refused when it is too long."""
    value = form.get(key, "")
    found = value.strip() if isinstance(value, str) else ""
    if len(found) > limit:
        raise Refused(422, f"{key} has more than {limit} characters")
    return found
