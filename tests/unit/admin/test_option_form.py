"""Forms out of option models, and back."""

from __future__ import annotations

from typing import Any

import pytest

from relay.admin.refusals import Refused
from relay.admin.services.changes import difference, unmasked
from relay.admin.services.nodes import NODE, TYPES
from relay.admin.web.option_form import Kind, bridge_fields, filled, mapping_of, node_fields, pool_fields
from relay.config.models.traffic import NODE_CLASSES


def _form(**fields: str) -> dict[str, str]:
    return {f"o.{key.replace('__', '.')}": value for key, value in fields.items()}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_has_a_form_that_asks_for_what_it_needs(kind: str) -> None:
    fields = node_fields(kind)
    keys = set(NODE_CLASSES[kind].model_json_schema(by_alias=True)["properties"])
    assert {field.key.partition(".")[0] for field in fields} == keys - {"name", "pool", "type"}
    assert all(field.help for field in fields)
    assert all(field.is_common for field in fields if field.is_required)


@pytest.mark.parametrize("kind", TYPES)
def test_an_empty_form_sets_nothing(kind: str) -> None:
    fields = node_fields(kind)
    flags = {field.name: "on" for field in fields if field.kind is Kind.FLAG and field.default == "on"}
    choices = {field.name: field.default for field in fields if field.kind is Kind.CHOICE}
    assert mapping_of(fields, {**flags, **choices}) == {}


def test_what_is_typed_becomes_the_keys_of_the_file() -> None:
    form = _form(
        host="smtp.acme.example", port="2525", tls="implicit", username="u", password=" p w ", caps__hour="1000",
        caps__day="{limit: 9000, spread: true}", headers="X-A: 1\r\nX-B: two: three\r\n",
        sender_domains="a.example\n\n b.example ", timeouts__dot="5m", verify="{ca_file: x.pem}", smtputf8="on",
    )  # fmt: skip
    found = mapping_of(node_fields("smtp"), form)
    assert found == {
        "host": "smtp.acme.example", "port": 2525, "tls": "implicit", "username": "u", "password": " p w ",
        "caps": {"hour": 1000, "day": {"limit": 9000, "spread": True}}, "headers": {"X-A": "1", "X-B": "two: three"},
        "sender_domains": ["a.example", "b.example"], "timeouts": {"dot": "5m"}, "verify": {"ca_file": "x.pem"},
    }  # fmt: skip
    NODE.validate_python({"name": "n", "type": "smtp", **found})


def test_a_secret_is_never_shown_and_stays_when_left_empty() -> None:
    fields = node_fields("smtp", {"password": "***", "username": "u"})
    password = next(field for field in fields if field.key == "password")
    assert (password.value, password.is_set) == ("", True)
    assert mapping_of(fields, _form(username="u", smtputf8="on"))["password"] == "***"
    assert mapping_of(fields, _form(username="u", password="new", smtputf8="on"))["password"] == "new"
    assert next(field for field in filled(fields, _form(password="typed")) if field.key == "password").value == ""


def test_what_is_there_comes_back_unchanged() -> None:
    current: dict[str, Any] = {
        "host": "h.example", "caps": {"hour": {"limit": 5}, "day": {"limit": 9, "spread": True}}, "smtputf8": False,
        "headers": {"X-A": "1"}, "sender_domains": ["a.example"], "idle_close": 90.0, "verify": False,
    }  # fmt: skip
    fields = node_fields("smtp", current)
    form = {field.name: field.value for field in fields}
    found = mapping_of(fields, form)
    one = NODE.validate_python({"name": "n", "type": "smtp", **found})
    assert one == NODE.validate_python({"name": "n", "type": "smtp", **current})


@pytest.mark.parametrize(
    ("typed", "where"),
    [
        (_form(headers="no colon here"), "headers"),
        (_form(caps__hour="{limit: [}"), "caps.hour"),
        (_form(verify="!!python/object:os.system x"), "verify"),
        (_form(verify="&a [*a]"), "verify"),
    ],
    ids=["pairs", "broken YAML", "tags", "aliases"],
)
def test_what_cannot_be_read_is_named(typed: dict[str, str], where: str) -> None:
    with pytest.raises(Refused) as caught:
        mapping_of(node_fields("smtp"), typed)
    assert [each["where"] for each in caught.value.errors] == [where]


def test_pools_and_bridges_keep_what_never_changes() -> None:
    assert {"name", "id", "mta"} <= {field.key for field in pool_fields()}
    assert not {"name", "id", "mta", "nodes"} & {field.key for field in pool_fields({"name": "p"})}
    assert not {"credentials", "pool", "name"} & {field.key for field in bridge_fields({"name": "b"})}


def test_a_secret_within_a_mapping_stays_or_is_given_anew() -> None:
    """A mask is never written into the file as if it were the secret."""
    written = {"flow": "refresh-token", "client_id": "c", "client_secret": "s3", "refresh_token": "r3",
               "token_url": "https://login.example/token"}  # fmt: skip
    current = NODE.validate_python(
        {"name": "n", "type": "smtp", "host": "h.example", "username": "u", "oauth": written}
    )
    masked = {**written, "client_secret": "***", "refresh_token": "***"}
    body = {"name": "n", "type": "smtp", "host": "h2.example", "username": "u", "oauth": masked}
    wanted = NODE.validate_python(unmasked(body, current))
    assert difference(body, wanted, current, partial=False).write == {"host": "h2.example"}
    body["oauth"] = {**masked, "client_id": "other"}
    wanted = NODE.validate_python(unmasked(body, current))
    with pytest.raises(Refused, match="give its secrets anew"):
        difference(body, wanted, current, partial=False)
