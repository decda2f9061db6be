"""OAuth 2 endpoints and scopes of the providers of mailboxes, as data. Pure: no I/O.

Google: developers.google.com/identity/protocols/oauth2 and /gmail/imap/xoauth2-protocol (SMTP needs the scope of all
mail; `gmail.send` serves the API alone). The device flow of Google does not give mail scopes; it is for its other
services, so there is no device endpoint here. Microsoft: learn.microsoft.com, "Authenticate an IMAP, POP or SMTP
connection using OAuth". Yahoo and AOL register new applications for mail only under an agreement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Endpoints; `{tenant}` in them is filled in.

    Attributes:
        tenant: when none is configured.
        smtp, api: scopes of a person's consent. smtp_app, api_app: those an application asks for itself.
        basic_auth: the client authenticates by HTTP Basic instead of in the form.
        authorize_extra: parameters of the authorization request, so that a refresh token is given.
    """

    token_url: str = ""
    authorize_url: str = ""
    device_url: str = ""
    tenant: str = ""
    smtp: tuple[str, ...] = ()
    api: tuple[str, ...] = ()
    smtp_app: tuple[str, ...] = ()
    api_app: tuple[str, ...] = ()
    flows: tuple[str, ...] = ("refresh-token", "client-credentials", "service-account")
    basic_auth: bool = False
    authorize_extra: tuple[tuple[str, str], ...] = ()

    def at(self, url: str, tenant: str | None) -> str:
        return url.replace("{tenant}", tenant or self.tenant)

    def scopes_for(self, use: str, flow: str) -> tuple[str, ...]:
        if flow == "refresh-token":
            return self.smtp if use == "smtp" else self.api
        return self.smtp_app if use == "smtp" else self.api_app


def _microsoft(tenant: str, flows: tuple[str, ...]) -> Provider:
    base = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0"
    return Provider(
        token_url=f"{base}/token",
        authorize_url=f"{base}/authorize",
        device_url=f"{base}/devicecode",
        tenant=tenant,
        smtp=("https://outlook.office.com/SMTP.Send", "offline_access"),
        api=("https://graph.microsoft.com/Mail.Send", "offline_access"),
        smtp_app=("https://outlook.office365.com/.default",),
        api_app=("https://graph.microsoft.com/.default",),
        flows=flows,
    )


def _yahoo(host: str) -> Provider:
    return Provider(
        token_url=f"https://{host}/oauth2/get_token",
        authorize_url=f"https://{host}/oauth2/request_auth",
        smtp=("mail-w",),
        api=("mail-w",),
        flows=("refresh-token",),
        basic_auth=True,
    )


PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        "google": Provider(
            token_url="https://oauth2.googleapis.com/token",  # noqa: S106 - an address
            authorize_url="https://accounts.google.com/o/oauth2/v2/auth",
            smtp=("https://mail.google.com/",),
            api=("https://www.googleapis.com/auth/gmail.send",),
            smtp_app=("https://mail.google.com/",),
            api_app=("https://www.googleapis.com/auth/gmail.send",),
            flows=("refresh-token", "service-account"),
            authorize_extra=(("access_type", "offline"), ("prompt", "consent")),
        ),
        "microsoft": _microsoft("common", ("refresh-token", "client-credentials")),
        "microsoft-personal": _microsoft("consumers", ("refresh-token",)),
        "yahoo": _yahoo("api.login.yahoo.com"),
        "aol": _yahoo("api.login.aol.com"),
        "other": Provider(),
    }
)
