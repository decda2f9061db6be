"""What operators are told of, and where: the `alerts` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from relay.config.models.shapes import Name
from relay.fields import Address, Flag, Integer, Options, Period, Secret

_OFF = ("off", "none")

Rule = Literal["node", "cap", "queue", "reload", "expiry", "spool"]

UNFIT_SCHEMES = frozenset(
    {"dbus", "glib", "gnome", "kde", "macosx", "qt", "smpp", "syslog", "windows", "mailto", "mailtos"}
)
"""Desktops and logs of this machine, a protocol that the guard of addresses does not see, and mail: it has `email`."""


def _or_off(value: object) -> object:
    return None if value is False or (isinstance(value, str) and value.lower() in _OFF) else value


def _apprise(value: SecretStr) -> SecretStr:
    scheme, colon, _ = value.get_secret_value().partition("://")
    if not colon or not scheme.replace("+", "").replace("-", "").isalnum():
        raise ValueError("not an Apprise URL; write SCHEME://…, for example slack://TOKEN_A/TOKEN_B/TOKEN_C")
    if scheme.lower() in UNFIT_SCHEMES:
        raise ValueError(f"{scheme.lower()}:// is not used from here; for mail there is `email`")
    return value


class AlertTargetModel(Options):
    """Somebody who is told: exactly one of `email`, `webhook` and `apprise`."""

    name: Name
    """For `relay alert test NAME` and for lists."""
    email: tuple[Address, ...] = ()
    """Addresses that get a mail, sent by this relay itself through one of `bridges`."""
    bridges: tuple[Name, ...] = ()
    """Bridges that may carry the mail, in order. One that leads into the pool in trouble is passed over."""
    sender: Annotated[Address | None, Field(alias="from")] = None
    """Sender of the mail; `relay@` and the relay's hostname when left out."""
    webhook: Name | None = None
    """Name of one of `webhooks`: it is called with `alert.opened` and `alert.closed`, whatever its `events` say."""
    apprise: Annotated[Secret, AfterValidator(_apprise)] | None = None
    """URL of a service that Apprise knows: chat, pager, push. It is a secret: it holds the tokens of that service."""
    allow_private: Flag = False
    """Let Apprise also connect to addresses of this machine and of private networks."""
    rules: tuple[Rule, ...] = ("node", "cap", "queue", "reload", "expiry", "spool")
    """What this one is told of."""
    recovery: Flag = True
    """Tell it also when the trouble is over."""

    @model_validator(mode="after")
    def _one_way(self) -> AlertTargetModel:
        if sum((bool(self.email), self.webhook is not None, self.apprise is not None)) != 1:
            raise ValueError("a target has exactly one of email, webhook and apprise")
        if self.email and not self.bridges:
            raise ValueError("a target with email needs bridges: the relay sends the mail through one of them")
        return self


class AlertsModel(Options):
    """What is watched. Every trouble is an *issue* that closes itself when it is over; targets are told of both."""

    nodes: Flag = True
    """A node that was deactivated, with the upstream's words, and its recovery."""
    cap: Annotated[Annotated[Integer, Field(ge=1, le=100)] | None, BeforeValidator(_or_off)] = 80
    """A cap of an hour or more that is used to so many percent; `off` for none."""
    queue_age: Annotated[Period | None, BeforeValidator(_or_off)] = 900.0
    """Mail of a pool that has waited longer than this; held mail does not count; `off` for none."""
    reload: Flag = True
    """A reload that failed, or was undone because delivery broke."""
    expiry: Annotated[Period | None, BeforeValidator(_or_off)] = 14 * 86400.0
    """A certificate, or the consent of a mailbox used by OAuth 2, that ends within this time; `off` for none."""
    spool: Flag = True
    """A worker that takes no mail: its disk is full or its store is damaged."""
    quiet: Period = 900.0
    """The same trouble is told once in this time, however often it comes and goes."""
    targets: tuple[AlertTargetModel, ...] = ()
    """Who is told. Without any, issues are still kept for the dashboard and the API."""
