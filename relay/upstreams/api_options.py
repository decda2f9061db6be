"""What the options of every HTTP driver share. Pure: no I/O, and no HTTP library, so that reading the configuration
stays fast."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr, StringConstraints, model_validator

from relay.fields import Count, FilePath, Flag, Options, Period, Secret
from relay.upstreams.carries import Carries

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        port_is_sound = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_sound or _UNPRINTABLE.search(text):
        raise ValueError("not a URL; write for example https://api.vendor.example")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a base URL has no login, no query and no fragment; credentials have keys of their own")
    return text.rstrip("/")


Url = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_url)]
"""Scheme, host, port and path, without a slash at the end."""


def _proxy(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or _UNPRINTABLE.search(text):
        raise ValueError(
            "not a proxy; write for example http://proxy.acme.example:3128, with a login where it needs one"
        )
    return value


Proxy = Annotated[Secret, AfterValidator(_proxy)]
"""An HTTP proxy; may hold a login, so it is never shown."""


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ApiTimeouts(Options):
    """Longest wait for each phase of a call, in seconds once read."""

    connect: Period = 15.0
    """TCP connection with TLS, and with the proxy where there is one."""
    write: Period = 60.0
    """Sending one block of the request."""
    answer: Period = 120.0
    """The first octet of the answer, and each pause in it; giving up earlier makes duplicates."""


class ApiOptions(Options):
    """What every HTTP driver has."""

    base_url: Url | None = None
    """Address of the API, for gateways and tests; left out: the vendor's own."""
    plain_http: Flag = False
    """Allow `http://` to other machines. The key then travels in the clear."""
    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted instead of the system's."""
    proxy: Proxy | None = None
    """HTTP proxy to go through; left out: what HTTPS_PROXY and NO_PROXY say."""
    connections: Count = 20
    """Calls at once, shared out over the workers (at least one each)."""
    idle_close: Period = 30.0
    """An idle connection is closed after this time."""
    timeouts: ApiTimeouts = ApiTimeouts()
    """Longest wait for each phase of a call."""
    null_sender: Flag = False
    """Take messages with the null reverse-path (reports, automatic answers) too. They leave with the vendor's own
    return path."""

    @model_validator(mode="after")
    def _clear_only_where_wanted(self) -> ApiOptions:
        for url in (self.base_url, getattr(self, "url", None)):
            if url is not None and url.startswith("http:") and not self.plain_http and not is_loopback(url):
                raise ValueError("http:// would show the key to the network; use https://, or say `plain_http: true`")
        return self

    @property
    def api_url(self) -> str:
        """The base URL in use."""
        return self.base_url or self._vendor_url()

    def _vendor_url(self) -> str:
        raise NotImplementedError

    @property
    def carries(self) -> Carries:
        """What the router must know of this node."""
        return Carries(null_sender=self.null_sender)


class ShownOptions(ApiOptions):
    """Of drivers whose vendor delivers to those it shows in To and Cc."""

    other_recipients: Literal["drop", "refuse"] = "drop"
    """Addresses in To and Cc that this hand-over is not for (a mailing list, those who have it already): `drop` leaves
    them out of what is shown and says so in the log, `refuse` leaves the message to other nodes."""
