"""What paths share: services at hand, roles, JSON that is read strictly."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, HTTPException, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from relay.admin.context import Context
from relay.admin.refusals import Refused
from relay.admin.security.guess import unauthorized
from relay.admin.security.roles import Caller, Role
from relay.admin.services.bridges import Bridges
from relay.admin.services.configuration import Configuration
from relay.admin.services.inbox import Inbox
from relay.admin.services.issues import Issues
from relay.admin.services.last_use import LastUse
from relay.admin.services.nodes import Nodes
from relay.admin.services.overview import Overview
from relay.admin.services.pools import Pools
from relay.admin.services.queue import Queue
from relay.admin.services.rates import Rates
from relay.admin.services.sending import Sending


@dataclass(frozen=True, slots=True)
class Services:
    """The service layer, for API and pages alike."""

    context: Context
    overview: Overview
    queue: Queue
    nodes: Nodes
    pools: Pools
    bridges: Bridges
    configuration: Configuration
    sending: Sending
    rates: Rates
    inbox: Inbox
    last_use: LastUse
    issues: Issues

    @classmethod
    def over(cls, context: Context) -> Services:
        overview = Overview(context)
        configuration = Configuration(context)
        return cls(
            context,
            overview,
            Queue(context),
            Nodes(context, configuration, overview),
            Pools(context, configuration),
            Bridges(context, configuration),
            configuration,
            Sending(context),
            Rates(context),
            Inbox(context),
            LastUse(context),
            Issues(context),
        )


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


Served = Annotated[Services, Depends(services)]


class Needs:
    """Dependency: the caller has at least this role. A route without one is open to nobody (see the tests)."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __call__(self, request: Request) -> Caller:
        caller: Caller | None = request.scope.get("state", {}).get("caller")
        if caller is None:
            raise unauthorized("a token is needed: Authorization: Bearer …")
        if not caller.role.covers(self.role):
            raise Refused(403, f"this needs the role {self.role}; the token {caller.name!r} has {caller.role}")
        return caller


Viewer = Annotated[Caller, Depends(Needs(Role.VIEWER))]
Operator = Annotated[Caller, Depends(Needs(Role.OPERATOR))]
Admin = Annotated[Caller, Depends(Needs(Role.ADMIN))]


def if_match(if_match: Annotated[str | None, Header(max_length=200)] = None) -> str:
    """The ETag a change was made for; empty for none, or for `*`."""
    text = (if_match or "").strip()
    return "" if text in ("", "*") else text.removeprefix("W/").strip('"') or "none"


Test = Annotated[bool, Query(description="Test it with the real transport before it is saved.")]
Force = Annotated[bool, Query(description="Save it although its test fails.")]
IfMatch = Annotated[str, Depends(if_match)]


async def tag(request: Request, response: Response) -> None:
    """Dependency of paths that show configuration: their ETag is that of the files."""
    found = services(request)
    response.headers["ETag"] = f'"{await found.context.current.etag()}"'


Tagged = Depends(tag)


class _StrictRequest(Request):
    async def json(self) -> Any:
        """By orjson: UTF-8 only, no NaN, no nesting that would eat the stack, no half characters."""
        if not hasattr(self, "_strict"):
            body = await self.body()
            try:
                self._strict = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise HTTPException(400, f"the body is not JSON: {error}") from None
        return self._strict


class StrictRoute(APIRoute):
    """Reads JSON bodies strictly, and takes no query parameter that it does not know: a filter with a typing error must
    not show, or change, everything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        known = _query_of(self.dependant)

        async def strict(request: Request) -> Response:
            if unknown := sorted(set(request.query_params) - known):
                there = f"there are: {', '.join(sorted(known))}" if known else "there are none here"
                raise Refused(422, f"unknown query parameter {unknown[0][:100]!r}; {there}")
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def _query_of(dependant: Dependant) -> set[str]:
    """Names of the query parameters of a handler and of all that it depends on."""
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_query_of(each) for each in dependant.dependencies))


async def json_object(request: Request) -> dict[str, Any]:
    """Dependency: a body of any members; what they mean is the service's to judge."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "send JSON, with Content-Type: application/json")
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refused(422, "the body must be a JSON object")
    return body


JsonObject = Annotated[dict[str, Any], Depends(json_object)]


def body_of(name: str) -> dict[str, Any]:
    """OpenAPI of a body that `json_object` reads: a schema of `openapi.EXTRA_SCHEMAS`."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
