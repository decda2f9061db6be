"""The reference file: every key with its description, choices and default, written from the models.

`python -m relay.config.reference > conf/examples/reference.yaml` renews it; a test compares. The file loads as it is:
keys without a default, and those that need files of their own, are shown commented out.
"""

from __future__ import annotations

import enum
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.config.models import Config
from relay.config.models.shapes import Address
from relay.config.models.traffic import NODE_CLASSES, NodeModel
from relay.units import parse_duration, parse_size
from relay.upstreams.api_options import ApiOptions, ShownOptions
from relay.upstreams.smtp_options import SmtpOptions

_WIDTH = 110
_HEAD = """\
# Every key of the configuration, with its default. Written from the models: change them, not this file.
#
# Text may hold ${NAME}, ${NAME:-default} and ${file:/run/secrets/name}; $$ is a dollar sign.
# Durations: 500ms, 30s, 15m, 24h, 3d. Sizes: 512kB, 25MB (1 kB = 1024 octets). Relative paths start at the working
# directory, those under `include` at the file they stand in.
"""

_BRIEF = "brief"
"""Marks a node of which only what its type adds is shown."""

_VENDORS: dict[str, dict[str, Any]] = {
    "ses": {
        "region": "eu-west-1",
        "access_key_id": "${SES_ACCESS_KEY_ID}",
        "secret_access_key": "${file:/run/secrets/ses}",
        "session_token": "${SES_SESSION_TOKEN}",
        "profile": "relay",
        "role_arn": "arn:aws:iam::111122223333:role/relay",
        "external_id": "acme",
        "configuration_set": "transactional",
        "identity_arn": "arn:aws:ses:eu-west-1:111122223333:identity/acme.example",
        "base_url": "https://gateway.acme.example",
        "ca_file": "conf/tls/ca.pem",
        "proxy": "http://proxy.acme.example:3128",
    },
    "sendgrid": {"api_key": "${SENDGRID_KEY:-SG.change-me}", "on_behalf_of": "acme", "ip_pool": "transactional"},
    "mailgun": {"domain": "mg.acme.example", "api_key": "${MAILGUN_KEY:-change-me}"},
    "postmark": {"server_token": "${POSTMARK_TOKEN:-change-me}"},
    "sparkpost": {
        "api_key": "${SPARKPOST_KEY:-change-me}",
        "subaccount": '"7"',
        "ip_pool": "transactional",
        "return_path": "bounces@mail.acme.example",
    },
    "mandrill": {
        "api_key": "${MANDRILL_KEY:-change-me}",
        "ip_pool": "Main Pool",
        "return_path_domain": "mail.acme.example",
    },
    "elasticemail": {"api_key": "${ELASTICEMAIL_KEY:-change-me}", "ip_pool": "Main", "channel": "relay"},
    "mailjet": {"api_key": "${MAILJET_KEY:-change-me}", "secret_key": "${MAILJET_SECRET:-change-me}"},
    "smtp2go": {"api_key": "${SMTP2GO_KEY:-api-change-me}"},
    "brevo": {"api_key": "${BREVO_KEY:-xkeysib-change-me}"},
    "zeptomail": {"token": "${ZEPTOMAIL_TOKEN:-change-me}", "bounce_address": "bounces@bounce.acme.example"},
    "resend": {"api_key": "${RESEND_KEY:-re_change-me}"},
    "mailersend": {"api_key": "${MAILERSEND_KEY:-mlsn.change-me}"},
    "mumara-one": {"url": "https://bridge.mumara.example/v1/send", "token": "${MUMARA_TOKEN:-change-me}"},
    "msgraph": {"mailbox": "news@acme.example", "oauth": "{client_id: app, tenant: acme.example}"},
    "gmail-api": {"mailbox": "news@acme.example", "oauth": "{client_id: app.apps.googleusercontent.com}"},
    "relay": {
        "url": "https://relay.other.example",
        "token": "${OTHER_RELAY_TOKEN:-change-me}",
        "host": "smtp.other.example",
    },
}
"""A node of each vendor; what all of them share is shown at the first."""

_SAMPLES: dict[str, Any] = {
    "version": 1,
    "include": "[bridges.yaml, pools/*.yaml]",
    "hostname": "relay.acme.example",
    "headers": "{X-Relayed-By: acme}",
    "mtas": [{"id": "mta4", "zone": "us-1"}],
    "listeners": [
        {
            "bind": '"127.0.0.1:2525"',
            "cert": "conf/tls/cert.pem",
            "key": "conf/tls/key.pem",
            "key_password": "${file:/run/secrets/tls_key_password}",
            "auth_without_tls": "true",
            "proxy": {"trusted": "[192.0.2.10/32]"},
        }
    ],
    "dkim": [{"domain": "acme.example", "selector": "s1", "key_file": "conf/dkim/acme.pem"}],
    "dsn": {"from": "mailer-daemon@acme.example", "pool": "acme-transactional"},
    "admin": {
        "hosts": "[relay.acme.example]",
        "cert": "conf/tls/cert.pem",
        "key": "conf/tls/key.pem",
        "proxies": "[192.0.2.10/32]",
    },
    "webhooks": [
        {
            "name": "crm",
            "url": "https://hooks.acme.example/relay",
            "secret": '"${RELAY_WEBHOOK_SECRET:-whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3}"',
        }
    ],
    "alerts": {
        "targets": [
            {
                "name": "ops",
                "email": "[ops@acme.example]",
                "bridges": "[shop-web]",
                "from": "relay@acme.example",
                "webhook": "crm",
                "apprise": "${RELAY_CHAT_URL}",
            }
        ]
    },
    "bridges": [
        {
            "name": "shop-web",
            "pool": "acme-transactional",
            "credentials": [{"username": "shop-web", "password": '"${SHOP_WEB_PASSWORD:-change-me}"'}],
            "networks": "[192.0.2.7/32]",
            "senders": '["@acme.example"]',
            "feedtype": "transactional",
            "lane": "transactional",
            "limits": {"second": "10", "minute": "300", "hour": "5000", "day": "50000", "size": "10MB"},
        }
    ],
    "pools": [
        {
            "name": "acme-transactional",
            "id": 7,
            "mta": "mta4",
            "default": "true",
            "lane": "transactional",
            "headers": "{X-Mailer-Pool: acme}",
            "nodes": [
                {
                    "type": "smtp",
                    "name": "primary",
                    "preset": "ses-smtp",
                    "region": "us-east-1",
                    "host": "smtp.acme.example",
                    "verify": "{ca_file: conf/tls/ca.pem, hostname: smtp.acme.example}",
                    "username": "relay",
                    "password": "${file:/run/secrets/primary}",
                    "oauth": {
                        "provider": "microsoft",
                        "tenant": "acme.example",
                        "client_id": "00000000-0000-0000-0000-000000000000",
                        "client_secret": "${file:/run/secrets/oauth_client}",
                        "refresh_token": "${file:/run/secrets/oauth_refresh}",
                        "key_file": "conf/google-service-account.json",
                        "account": "news@acme.example",
                        "token_url": "https://login.microsoftonline.us/acme.example/oauth2/v2.0/token",
                        "device_url": "https://login.microsoftonline.us/acme.example/oauth2/v2.0/devicecode",
                        "authorize_url": "https://login.microsoftonline.us/acme.example/oauth2/v2.0/authorize",
                    },
                    "source_address": "192.0.2.25",
                    "ehlo": "relay.acme.example",
                    "caps": {"second": "14", "minute": "600", "hour": "{limit: 10000, spread: true}", "day": "100000"},
                    "sender_domains": "[acme.example]",
                    "max_size": "25MB",
                    "headers": "{X-Mailer-Variant: a}",
                    "return_path": "bounces@acme.example",
                    "from": {"name": "Acme", "email": "news@acme.example", "reply_to": "help@acme.example"},
                },
            ],
        }
    ],
    "nodes": [
        {
            _BRIEF: True,
            "type": "sandbox",
            "name": "spare",
            "pool": "acme-transactional",
            "directory": "var/sandbox",
            "seed": 1,
            "fail": [
                {
                    "mode": "refuse",
                    "recipients": '"*@refuse.example"',
                    "delay": "2s",
                    "reply": "550 5.1.1 no such mailbox",
                }
            ],
        },
        *(
            {_BRIEF: True, "type": kind, "name": kind, "pool": "acme-transactional", **sample}
            for kind, sample in _VENDORS.items()
        ),
    ],
}
"""Values shown for keys that have no default, as YAML text. A string under a key that has a default is shown beside it
only when the key is required in this example."""

_SHOWN = {
    "url",
    "token",
    "hostname",
    "mtas",
    "headers",
    "networks",
    "senders",
    "pool",
    "mta",
    "caps",
    "default",
    "sender_domains",
} | {
    "second",
    "minute",
    "hour",
    "day",
}
_COMMENTED = {"include", "dkim", "fail", "webhooks", "targets"}
"""Keys whose sample needs files that are not there, makes mail fail, or calls somebody."""


def reference_yaml() -> str:
    """Text of the reference file."""
    return _HEAD + "\n".join(_model_lines(Config, _SAMPLES, 0, blank=True)) + "\n"


def _model_lines(model: type[BaseModel], sample: dict[str, Any], indent: int, *, blank: bool = False) -> Iterator[str]:
    for name, field in _ordered(model, brief=_BRIEF in sample):
        key = field.alias or name
        if blank:
            yield ""
        yield from _comment(field, indent)
        yield from _field_lines(key, field, sample, indent)


def _ordered(model: type[BaseModel], *, brief: bool) -> list[tuple[str, FieldInfo]]:
    """Fields as declared; of a node first what it is, then what its type adds, then what every node has. Brief: what
    others show already is left out."""
    fields = list(model.model_fields.items())
    if not issubclass(model, NodeModel):
        return fields
    first = ["name", "type", "pool"]
    common = set(NodeModel.model_fields).difference(first)
    fields.sort(key=lambda item: first.index(item[0]) if item[0] in first else len(first) + (item[0] in common))
    if not brief:
        return fields
    if model is not NODE_CLASSES["ses"] and issubclass(model, ApiOptions):
        common.update(ApiOptions.model_fields)
    if model is not NODE_CLASSES["sendgrid"] and issubclass(model, ShownOptions):
        common.update(ShownOptions.model_fields)
    if model is NODE_CLASSES["relay"]:
        common.update(set(SmtpOptions.model_fields) - {"host"})
    return [item for item in fields if item[0] not in common]


def _comment(field: FieldInfo, indent: int) -> Iterator[str]:
    text = " ".join((field.description or "").split())
    choices = _choices(field.annotation)
    if choices and not all(f"`{choice}`" in text for choice in choices):
        text += f" One of: {', '.join(choices)}."
    pad = " " * indent
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ", break_on_hyphens=False
    )


def _field_lines(key: str, field: FieldInfo, sample: dict[str, Any], indent: int) -> Iterator[str]:
    pad = " " * indent
    given = sample.get(key)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    model = _model_of(field.annotation)
    if isinstance(given, list):
        lines = [f"{pad}{key}:"]
        for item in given:
            inner = list(_model_lines(_item_model(field, item), item, indent + 4))
            lines += _as_item(inner, indent + 2)
        yield from _commented(lines, indent) if key in _COMMENTED else lines
    elif (
        model is not None and (isinstance(default, BaseModel) or isinstance(given, dict)) and not isinstance(given, str)
    ):
        inner = list(_model_lines(model, given or {}, indent + 2))
        empty = all(line.lstrip().startswith("#") for line in inner)
        lines = [f"{pad}{key}: {{}}" if empty else f"{pad}{key}:", *inner]
        yield from lines if isinstance(default, BaseModel) else _commented(lines, indent)
    elif given is not None and (field.is_required() or key in _SHOWN):
        yield f"{pad}{key}: {given}"
    elif default is None:
        yield f"{pad}# {key}: {given if given is not None else '…'}"
    else:
        yield f"{pad}{key}: {_text(default, field)}"
        if given is not None:
            yield f"{pad}# {key}: {given}"


def _as_item(lines: list[str], indent: int) -> list[str]:
    """The lines of a mapping as an item of a list: the dash takes the place before the first key."""
    first = next(index for index, line in enumerate(lines) if not line.lstrip().startswith("#"))
    pad = " " * indent
    lines = lines.copy()
    lines[first] = f"{pad}- {lines[first][indent + 2 :]}"
    return [line if index >= first else pad + line[indent + 2 :] for index, line in enumerate(lines)]


def _commented(lines: list[str], indent: int) -> list[str]:
    pad = " " * indent
    return [line if line[indent:].startswith("#") else f"{pad}# {line[indent:]}" for line in lines]


def _item_model(field: FieldInfo, item: dict[str, Any]) -> type[BaseModel]:
    kind = item.get("type")
    if isinstance(kind, str) and kind in NODE_CLASSES:
        return NODE_CLASSES[kind]
    model = _model_of(field.annotation)
    assert model is not None
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The first model anywhere in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_of(part)) is not None), None)


def _choices(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [str(member.value) for member in annotation]
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)] if len(get_args(annotation)) > 1 else []
    return next((found for part in get_args(annotation) if (found := _choices(part))), [])


def _text(value: Any, field: FieldInfo) -> str:
    """A default as YAML text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, Address):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_text(item, field) for item in value)}]"
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, float) and _reads_with(field.annotation, field.metadata, parse_duration):
        return _duration(value)
    if isinstance(value, int) and _reads_with(field.annotation, field.metadata, parse_size):
        return _size(value)
    if isinstance(value, str):
        return f'"{value}"' if not value or value[0] in "*@{[&!" else value
    return f"{value:g}" if isinstance(value, float) else str(value)


def _reads_with(annotation: Any, metadata: Any, reader: object) -> bool:
    if any(getattr(part, "func", None) is reader for part in metadata):
        return True
    inner = getattr(annotation, "__metadata__", ())
    return any(_reads_with(part, inner, reader) for part in get_args(annotation)) or any(
        getattr(part, "func", None) is reader for part in inner
    )


def _duration(seconds: float) -> str:
    for unit, width in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= width and seconds % width == 0:
            return f"{seconds / width:g}{unit}"
    return f"{seconds:g}s"


def _size(octets: int) -> str:
    for unit, width in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if octets >= width and octets % width == 0:
            return f"{octets // width}{unit}"
    return str(octets)


if __name__ == "__main__":
    sys.stdout.write(reference_yaml())
