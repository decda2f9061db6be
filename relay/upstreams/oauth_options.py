"""The `oauth` key of a node, as it stands in the configuration, and the plan that follows from it. Pure: no I/O.

A driver's options model that takes OAuth 2 has a field `oauth: OAuthOptions | None` and a method
`token_plan() -> TokenPlan | None`; whoever makes the drivers gives them a `TokenSource` for that plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints, model_validator

from relay.fields import FilePath, Login, Options, Secret, Text
from relay.upstreams.oauth_providers import PROVIDERS, Provider

Flow = Literal["refresh-token", "client-credentials", "service-account"]

_LOOPBACK = ("http://127.0.0.1", "http://[::1]", "http://localhost")


def _url(text: str) -> str:
    if not text.startswith("https://") and not text.startswith(_LOOPBACK):
        raise ValueError("not an https:// URL; secrets are sent there (http:// is for this machine alone)")
    return text


Url = Annotated[str, StringConstraints(max_length=1000, pattern=r"^https?://[^\s/?#]+[^\s#]*$"), AfterValidator(_url)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlan:
    """All that is needed to get access tokens.

    Attributes:
        scopes: asked for; empty = those of the provider for this use.
        account: whose mailbox it is: hint at login, and `sub` of a service account.
        refresh_token: the one that stands in the configuration, or empty: then a login puts one into the store.
        key_file: of a service account: the JSON file with its private key.
    """

    flow: Flow
    token_url: str
    authorize_url: str = ""
    device_url: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    basic_auth: bool = False
    scopes: tuple[str, ...] = ()
    account: str = ""
    refresh_token: str = field(default="", repr=False)
    key_file: str = ""
    authorize_extra: tuple[tuple[str, str], ...] = ()


class OAuthOptions(Options):
    """Login by OAuth 2 instead of a password."""

    flow: Flow = "refresh-token"
    """`refresh-token`: one person's consent, given by `relay oauth login`; `client-credentials`: the application's own
    right (Microsoft); `service-account`: a signed assertion (Google Workspace)."""
    provider: Literal["google", "microsoft", "microsoft-personal", "yahoo", "aol", "other"] | None = None
    """Whose tokens these are; follows from the preset or the type when left out. `other` needs `token_url`."""
    tenant: Annotated[Text, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,255}$")] | None = None
    """Microsoft: id or domain of the tenant; needed for `client-credentials`."""
    client_id: Login | None = None
    """Id of the registered application."""
    client_secret: Secret | None = None
    """Its secret; public clients have none."""
    refresh_token: Secret | None = None
    """To begin with, when there was no `relay oauth login`. Rotated ones are kept in the store's folder."""
    key_file: FilePath | None = None
    """For `service-account`: the JSON key file that Google made."""
    account: Login | None = None
    """Mailbox to act for; `username` when left out."""
    scopes: tuple[Text, ...] = ()
    """Scopes to ask for; what the provider needs for this type when left out."""
    token_url: Url | None = None
    """Token endpoint, for sovereign clouds and others; the provider's when left out."""
    device_url: Url | None = None
    """Device authorization endpoint; the provider's when left out."""
    authorize_url: Url | None = None
    """Authorization endpoint; the provider's when left out."""

    @model_validator(mode="after")
    def _is_whole(self) -> OAuthOptions:
        match self.flow:
            case "service-account":
                if self.key_file is None:
                    raise ValueError("flow service-account needs key_file, the JSON key file of the service account")
            case "client-credentials":
                if self.client_id is None or self.client_secret is None:
                    raise ValueError("flow client-credentials needs client_id and client_secret")
            case "refresh-token":
                if self.client_id is None:
                    raise ValueError("flow refresh-token needs client_id, of the application you registered")
        if self.provider == "other" and self.token_url is None:
            raise ValueError("provider other needs token_url")
        return self

    def plan(self, *, use: Literal["smtp", "api"], provider: str = "", account: str = "") -> TokenPlan:
        """What to do for a node.

        Args:
            use: what the tokens are for; decides which scopes are asked for when none are configured.
            provider: of the preset or type, when the configuration names none.
            account: the node's user name, when the configuration names no account.

        Raises:
            ValueError: no provider and no token endpoint; `what is missing`, in an operator's words.
        """
        name = self.provider or provider or "other"
        chosen = PROVIDERS.get(name, Provider())
        token_url = self.token_url or chosen.at(chosen.token_url, self.tenant)
        if not token_url:
            raise ValueError("oauth needs provider or token_url")
        if self.flow not in chosen.flows:
            raise ValueError(f"provider {name} has no flow {self.flow}; it has: {', '.join(chosen.flows)}")
        if self.flow == "client-credentials" and name == "microsoft" and not (self.tenant or self.token_url):
            raise ValueError("oauth: flow client-credentials needs tenant: an application has no `common` one")
        return TokenPlan(
            flow=self.flow,
            token_url=token_url,
            authorize_url=self.authorize_url or chosen.at(chosen.authorize_url, self.tenant),
            device_url=self.device_url or chosen.at(chosen.device_url, self.tenant),
            client_id=self.client_id or "",
            client_secret=self.client_secret.get_secret_value() if self.client_secret else "",
            basic_auth=chosen.basic_auth,
            scopes=self.scopes or chosen.scopes_for(use, self.flow),
            account=self.account or account,
            refresh_token=self.refresh_token.get_secret_value() if self.refresh_token else "",
            key_file=self.key_file or "",
            authorize_extra=chosen.authorize_extra,
        )
