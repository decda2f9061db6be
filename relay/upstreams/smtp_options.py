"""Options of a node of type `smtp`, as they stand in the configuration. Pure: no I/O.

Phase timeouts follow RFC 5321 §4.5.3.2 in shape and are shorter where a relay with other nodes at hand should not
wait: five minutes for a greeting are four minutes in which a sound node could have sent the message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, model_validator

from relay.fields import Count, FilePath, Flag, Host, IpAddress, Login, Options, Period, Port, Secret

_USUAL_PORT = {"none": 25, "opportunistic": 25, "starttls": 587, "implicit": 465}


class SmtpVerify(Options):
    """How the upstream's certificate is checked when the system's authorities or its host name do not fit."""

    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted instead of the system's."""
    hostname: Host | None = None
    """Name the certificate must carry instead of `host`."""


class SmtpTimeouts(Options):
    """Longest wait for each phase of the dialogue, in seconds once read."""

    connect: Period = 30.0
    """TCP connection, and the TLS handshake of `tls: implicit`."""
    greeting: Period = 60.0
    """The 220 after connecting."""
    ehlo: Period = 60.0
    """Answer to EHLO, STARTTLS with its handshake, and AUTH."""
    mail: Period = 60.0
    """Answer to MAIL."""
    rcpt: Period = 60.0
    """Answer to each RCPT."""
    data: Period = 120.0
    """The 354 after DATA."""
    block: Period = 180.0
    """Sending one block of content."""
    dot: Period = 600.0
    """Answer to the final dot; giving up earlier makes duplicates (RFC 1047)."""


def _verify_shape(value: object) -> str:
    return "{options}" if isinstance(value, (dict, SmtpVerify)) else "{flag}"


class SmtpOptions(Options):
    """One SMTP server to hand messages to."""

    host: Host
    """Host name or IP address of the server."""
    port: Port = 587
    """TCP port. Left out it follows `tls`: 25 for none and opportunistic, 587 for starttls, 465 for implicit."""
    tls: Literal["none", "opportunistic", "starttls", "implicit"] = "starttls"
    """`starttls` and `implicit` never send without TLS; `opportunistic` uses STARTTLS where it is offered."""
    verify: Annotated[
        Annotated[Flag, Tag("{flag}")] | Annotated[SmtpVerify, Tag("{options}")],
        Discriminator(_verify_shape),
    ] = True
    """Check the certificate: `true`, `false`, or `{ca_file: …, hostname: …}`. Opportunistic TLS is never checked."""
    username: Login | None = None
    """Login at the server; without it no AUTH is done."""
    password: Secret | None = None
    """Password for `username`; `${NAME}` and `${file:/path}` keep it out of this file."""
    auth: Literal["auto", "plain", "login", "cram-md5"] = "auto"
    """AUTH mechanism; `auto` takes the better of PLAIN and LOGIN among those offered."""
    source_address: IpAddress | None = None
    """Local IP address to connect from."""
    ehlo: Host | None = None
    """Name to say in EHLO; the relay's `hostname` when left out."""
    connections: Count = 20
    """Connections to this server at once, shared out over the workers (at least one each)."""
    messages_per_connection: Count = 100
    """Messages after which a connection is closed and made anew."""
    idle_close: Period = 30.0
    """An idle connection is closed after this time."""
    timeouts: SmtpTimeouts = SmtpTimeouts()
    """Longest wait for each phase of the dialogue."""
    pipelining: Literal["auto", "off"] = "auto"
    """`auto` sends MAIL, RCPT and DATA together where the server offers PIPELINING (RFC 2920)."""

    @model_validator(mode="before")
    @classmethod
    def _port_follows_tls(cls, data: Any) -> Any:
        if isinstance(data, dict) and "port" not in data:
            usual = _USUAL_PORT.get(str(data.get("tls", "starttls")))
            if usual is not None:
                return {**data, "port": usual}
        return data

    @model_validator(mode="after")
    def _login_is_whole(self) -> SmtpOptions:
        if (self.username is None) != (self.password is None):
            missing = "password" if self.password is None else "username"
            raise ValueError(f"username and password belong together; {missing} is missing")
        return self
