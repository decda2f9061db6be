"""The drivers by type name. A new vendor is one line in `KINDS` and one file.

Nothing is imported before it is asked for: reading the configuration imports the option models alone, and only the
drivers of configured nodes are ever loaded. A driver class is called with `(name, options, setting)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from relay.fields import Options
    from relay.upstreams.base import Setting, Upstream


@dataclass(frozen=True, slots=True)
class Kind:
    """Where the parts of one type of node are: `module:name` below `relay.upstreams`.

    `api`: of a vendor, its functions (`api.Api`), which are the driver's fourth argument.
    """

    options: str
    driver: str
    api: str = ""


def _vendor(module: str) -> Kind:
    return Kind(f"{module}:Options", "http_api:HttpUpstream", f"{module}:API")


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "smtp": Kind("smtp_options:SmtpOptions", "smtp:SmtpUpstream"),
        "sandbox": Kind("sandbox_options:SandboxOptions", "sandbox:Sandbox"),
        "ses": _vendor("ses"),
        "sendgrid": _vendor("sendgrid"),
        "mailgun": _vendor("mailgun"),
        "postmark": _vendor("postmark"),
        "sparkpost": _vendor("sparkpost"),
        "elasticemail": _vendor("elasticemail"),
        "mailjet": _vendor("mailjet"),
        "smtp2go": _vendor("smtp2go"),
        "mandrill": _vendor("mandrill"),
        "brevo": _vendor("brevo"),
        "sendinblue": _vendor("brevo"),
        "zeptomail": _vendor("zeptomail"),
        "mumara-one": _vendor("mumara_one"),
        "resend": _vendor("resend"),
        "mailersend": _vendor("mailersend"),
        "msgraph": _vendor("msgraph"),
        "gmail-api": _vendor("gmail_api"),
        "relay": Kind("relay_options:Options", "relay_bridge:make"),
    }
)


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def options_model(kind: str) -> type[Options]:
    """The model that reads the options of nodes of this type. Raises KeyError for an unknown type."""
    return cast("type[Options]", _load(KINDS[kind].options))


def make(kind: str, name: str, options: Options, setting: Setting) -> Upstream:
    """A driver for the node `name`. Opens no connection and needs no running loop.

    Raises:
        KeyError: the type is unknown.
        UpstreamError: the options cannot work (a folder that cannot be made, a certificate file that cannot be read).
    """
    parts = KINDS[kind]
    more = (_load(parts.api),) if parts.api else ()
    return cast("Upstream", _load(parts.driver)(name, options, setting, *more))
