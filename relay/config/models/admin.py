"""The HTTP side in the configuration: the admin server, and the webhooks that tell others."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema

from relay.config.models.shapes import Address, Bind, Name, Network
from relay.fields import FilePath, Flag, Host, Options, Period, Secret, Text

_OFF = ("off", "none")


class AdminModel(Options):
    """The admin server: API, send API, metrics and health. A process of its own; mail does not depend on it."""

    bind: Bind = Address("127.0.0.1", 8025)
    """IP address and port."""
    hosts: tuple[Host, ...] = ()
    """Names it is reached under, beside IP addresses, `localhost` and the relay's hostname; others are refused."""
    cert: FilePath | None = None
    """PEM file with the certificate and its chain; with it the server speaks HTTPS."""
    key: FilePath | None = None
    """PEM file with the private key of `cert`."""
    proxies: tuple[Network, ...] = ()
    """Reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    metrics: Literal["local", "token", "open"] = "local"
    """Who may read /metrics without a token: `local` this machine, `token` nobody, `open` everybody."""
    session: Period = 12 * 3600.0
    """A browser is logged out after this time."""


def _admin(value: object) -> object:
    return None if value is False or (isinstance(value, str) and value.lower() in _OFF) else value


Admin = Annotated[
    AdminModel | None,
    BeforeValidator(_admin, json_schema_input_type=AdminModel | Literal["off"] | None),
]


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port of the URL is no number up to 65535") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("not a URL to call; write https://hooks.acme.example/relay")
    if parts.username or parts.password:
        raise ValueError("no login in the URL; receivers check the signature")
    if not text.isascii() or " " in text:
        raise ValueError("write the URL in ASCII, other characters percent-encoded")
    return text


def _signing_secret(value: SecretStr) -> SecretStr:
    import base64
    import binascii

    text = value.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("a signing secret is `whsec_` and 24 to 64 octets in base64; `relay webhook secret` makes one")
    return value


class WebhookModel(Options):
    """One receiver of events, called as Standard Webhooks says: signed, retried, each event with an id of its own."""

    name: Name | None = None
    """For lists and logs; made from the URL when left out."""
    url: Annotated[Text, AfterValidator(_url), WithJsonSchema({"type": "string", "format": "uri"})]
    """Where events are posted to."""
    secret: Annotated[Secret, AfterValidator(_signing_secret)]
    """`whsec_…`: key of the signatures."""
    events: tuple[Annotated[Text, Field(pattern=r"^(\*|[a-z]+(\.[a-z_]+)?)$")], ...] = ("message", "attempt", "node")
    """Names of events such as `message.failed`, or the part before the dot for all of its kind; `*` = all."""
    allow_private: Flag = False
    """Also call addresses of this machine and of private networks."""
    keep_trying: Period = 3 * 86400.0
    """An event that is not taken is given up after this time."""
