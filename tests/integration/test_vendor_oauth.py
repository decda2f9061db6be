"""Mailboxes behind an API, with tokens from a real token endpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from relay.oauth.desk import TokenDesk
from relay.oauth.store import FileTokenStore
from relay.outcome import Scope, Status
from relay.upstreams import make, options_model
from relay.upstreams.base import Setting
from tests.fakes.token_server import TokenServer, error
from tests.fakes.upstream import outbound
from tests.fakes.vendor_node import vendor_server
from tests.fakes.vendor_server import Reply, Request

APPLICATION = {"flow": "client-credentials", "tenant": "acme.example", "client_id": "client-1", "client_secret": "shh"}


async def test_graph_is_called_with_the_token_of_the_application(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(request: Request) -> Reply:
        seen.append(request.headers["authorization"])
        return Reply(401, {"error": {"code": "InvalidAuthenticationToken"}}) if len(seen) == 1 else Reply(202)

    async with TokenServer(client_secret="shh") as tokens, vendor_server(answer) as vendor:
        options = options_model("msgraph").model_validate(
            {
                "mailbox": "news@acme.example",
                "base_url": vendor.url,
                "oauth": {**APPLICATION, "token_url": f"{tokens.url}/token"},
            }
        )
        told: list[str] = []
        desk = TokenDesk(FileTokenStore(tmp_path), lambda _node, text, _account: told.append(text))
        plan = options.token_plan()  # type: ignore[attr-defined]
        node = make("msgraph", "n", options, Setting(ehlo="r", tokens=lambda name: desk.source(name, plan)))
        deadline = asyncio.get_running_loop().time() + 10
        (first,) = await node.deliver(outbound(), deadline=deadline)
        assert first.outcome.status is Status.DELIVERED
        assert seen == ["Bearer access-1", "Bearer access-2"]
        assert [form["scope"] for form in tokens.forms] == ["https://graph.microsoft.com/.default"] * 2
        await node.close()

        tokens.script(error("invalid_client", "AADSTS7000222: The provided client secret keys are expired.", 401))
        other = make("msgraph", "n", options, Setting(ehlo="r", tokens=lambda name: desk.source(name, plan)))
        (refused,) = await other.deliver(outbound(), deadline=deadline)
        assert (refused.outcome.status, refused.outcome.scope) == (Status.REFUSED, Scope.ACCOUNT)
        assert "AADSTS7000222: The provided client secret keys are expired." in refused.outcome.text
        assert len(seen) == 2
        assert len(told) == 1
        await other.close()
        await desk.close()


PLANS = {
    "graph": ("msgraph", {"oauth": APPLICATION}, "login.microsoftonline.com", "https://graph.microsoft.com/.default"),
    "graph, consent": (
        "msgraph",
        {"oauth": {"client_id": "c"}},
        "microsoftonline.com",
        "graph.microsoft.com/Mail.Send",
    ),
    "china": (
        "msgraph",
        {"cloud": "china", "oauth": APPLICATION},
        "microsoftonline.cn",
        "microsoftgraph.chinacloudapi.cn",
    ),
    "us": ("msgraph", {"cloud": "us-government", "oauth": APPLICATION}, "microsoftonline.us", "graph.microsoft.us"),
    "gmail": ("gmail-api", {"oauth": {"client_id": "c"}}, "oauth2.googleapis.com", "auth/gmail.send"),
}


@pytest.mark.parametrize(("kind", "keys", "endpoint", "scope"), PLANS.values(), ids=list(PLANS))
def test_where_tokens_are_asked_for(kind: str, keys: dict[str, object], endpoint: str, scope: str) -> None:
    options = options_model(kind).model_validate({"mailbox": "news@acme.example", **keys})
    plan = options.token_plan()  # type: ignore[attr-defined]
    assert endpoint in plan.token_url
    assert scope in plan.scopes[0]
    assert plan.account == "news@acme.example"


def test_an_application_without_its_tenant_is_refused() -> None:
    oauth = {key: value for key, value in APPLICATION.items() if key != "tenant"}
    with pytest.raises(ValidationError, match="tenant"):
        options_model("msgraph").model_validate({"mailbox": "news@acme.example", "oauth": oauth})
