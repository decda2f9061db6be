"""Options of a node of type `smtp`, as they stand in the configuration. Pure: no I/O.

Phase timeouts follow RFC 5321 §4.5.3.2 in shape and are shorter where a relay with other nodes at hand should not
wait: five minutes for a greeting are four minutes in which a sound node could have sent the message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, StringConstraints, Tag, model_validator

from relay.fields import Count, FilePath, Flag, Host, IpAddress, Login, Options, Period, Port, Secret
from relay.upstreams.oauth_options import OAuthOptions, TokenPlan
from relay.upstreams.smtp_presets import PRESETS, place

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


def _host_or_preset(schema: dict[str, Any]) -> None:
    """Editors are told what the model asks for: a preset brings its host."""
    if "host" in schema.get("required", ()):
        schema["required"] = [name for name in schema["required"] if name != "host"]
        schema["anyOf"] = [{"required": ["host"]}, {"required": ["preset"]}]


def _verify_shape(value: object) -> str:
    return "{options}" if isinstance(value, (dict, SmtpVerify)) else "{flag}"


class SmtpOptions(Options):
    """One SMTP server to hand messages to."""

    model_config = ConfigDict(json_schema_extra=_host_or_preset)

    preset: Literal[tuple(PRESETS)] | None = None  # type: ignore[valid-type]
    """A well-known server: fills in host, port, TLS, fixed user name and known limits; keys given here win."""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    """For presets with a host in each region: `us-east-1` for ses-smtp, `eu` for mailgun-smtp and sparkpost-smtp."""
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
    auth: Literal["auto", "plain", "login", "cram-md5", "xoauth2", "oauthbearer"] = "auto"
    """AUTH mechanism; `auto` takes the better of PLAIN and LOGIN among those offered, with `oauth` XOAUTH2 or
    OAUTHBEARER."""
    oauth: OAuthOptions | None = None
    """Log in by OAuth 2 instead of a password."""
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
    def _fill(cls, data: Any) -> Any:
        """What the preset knows, below what is given; then the port that goes with `tls`."""
        if not isinstance(data, dict):
            return data
        data = _with_preset(data, cls.model_fields)
        if "port" not in data:
            usual = _USUAL_PORT.get(str(data.get("tls", "starttls")))
            if usual is not None:
                return {**data, "port": usual}
        return data

    @model_validator(mode="after")
    def _login_is_whole(self) -> SmtpOptions:
        if self.oauth is not None:
            if self.password is not None:
                raise ValueError("password and oauth are two ways to log in; keep one")
            if self.username is None:
                raise ValueError("oauth needs username, the address of the mailbox")
            if self.auth in ("plain", "login", "cram-md5"):
                raise ValueError(f"auth {self.auth} needs a password; with oauth leave it out")
            if self.tls in ("none", "opportunistic") and not self.host.startswith(_THIS_MACHINE):
                raise ValueError(f"a token is not sent in clear: tls {self.tls} does not go with oauth")
            self.token_plan()
        elif self.auth in ("xoauth2", "oauthbearer"):
            raise ValueError(f"auth {self.auth} needs oauth")
        elif self._preset_username() == "@":
            if self.password is None and self.username is not None:
                raise ValueError("password is missing")
        elif (self.username is None) != (self.password is None):
            fixed = self._preset_username()
            if self.password is None and fixed and self.username == fixed:
                raise ValueError(f"password is missing: {PRESETS[str(self.preset)].hint}")
            missing = "password" if self.password is None else "username"
            raise ValueError(f"username and password belong together; {missing} is missing")
        return self

    def login(self) -> tuple[str, str] | None:
        """User name and password for AUTH; None without a password."""
        if self.password is None:
            return None
        password = self.password.get_secret_value()
        return (self.username or password, password)

    def token_plan(self) -> TokenPlan | None:
        """How tokens for this server are had; None without `oauth`. Raises ValueError for what is missing."""
        if self.oauth is None:
            return None
        provider = PRESETS[self.preset].oauth if self.preset else ""
        return self.oauth.plan(use="smtp", provider=provider, account=self.username or "")

    def _preset_username(self) -> str:
        return PRESETS[self.preset].username if self.preset else ""


_THIS_MACHINE = ("127.", "::1", "localhost")


def _with_preset(data: dict[str, Any], known: Any) -> dict[str, Any]:
    """`data` over what its preset fills in.

    Raises:
        ValueError: the preset has a host in each region, and which one is not said.
    """
    name, region = data.get("preset"), data.get("region")
    if name is None:
        if region is not None:
            raise ValueError("region goes with a preset")
        return data
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return {"host": "preset.invalid", **data}  # the preset is at fault; nothing else is to be said about the host
    filled: dict[str, Any] = {"tls": preset.tls}
    if "tls" not in data or data["tls"] == preset.tls:
        filled["port"] = preset.port
    if "host" not in data:
        host = place(preset, region if isinstance(region, str) else "")
        if host is None:
            choices = f"one of {', '.join(preset.regions)}" if preset.regions else "for example us-east-1"
            raise ValueError(f"preset {name} needs region, {choices}")
        filled["host"] = host
    if preset.username not in ("", "@") and data.get("oauth") is None:
        filled["username"] = preset.username
    if preset.connections:
        filled["connections"] = preset.connections
    limits = {"max_size": preset.max_size, "max_recipients": preset.max_recipients}
    # The limits are keys of the node; the driver's options alone do not have them.
    filled |= {key: limit for key, limit in limits.items() if limit and key in known}
    if preset.caps and "caps" in known and isinstance(data.get("caps", {}), dict):
        filled["caps"] = {**preset.caps, **data.get("caps", {})}
        return {**filled, **data, "caps": filled["caps"]}
    return {**filled, **data}
