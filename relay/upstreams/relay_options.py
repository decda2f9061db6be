"""Options of a node of type `relay`: a bridge of another relay, over SMTP or its HTTP API. Pure: no I/O."""

from __future__ import annotations

from pydantic import model_validator

from relay.fields import Flag, Host, Secret
from relay.upstreams.api_options import ApiOptions, ApiTimeouts, Url, is_loopback
from relay.upstreams.carries import EVERYTHING, Carries
from relay.upstreams.smtp_options import SmtpOptions, SmtpVerify


class HttpOptions(ApiOptions):
    """The same node as the HTTP driver sees it."""

    token: Secret

    @property
    def carries(self) -> Carries:
        # The recipients travel in one header field; 100 of them are at most 26 kB, where servers take 64.
        return Carries(max_recipients=100)


class Options(SmtpOptions):
    """A bridge of another relay: over SMTP with `host` and login, or over its HTTP API with `url` and `token`."""

    host: Host | None = None  # type: ignore[assignment]
    """Host name or IP address of the other relay, for SMTP."""
    url: Url | None = None
    """Address of the other relay's HTTP API, for example `https://relay.example`; then `host` is left out."""
    token: Secret | None = None
    """API token of the bridge, for `url`."""
    plain_http: Flag = False
    """Allow `http://` to other machines. Token and mail then travel in the clear."""

    @model_validator(mode="after")
    def _one_way(self) -> Options:
        if (self.url is None) == (self.host is None):
            raise ValueError("give `host` (SMTP) or `url` (HTTP API), one of them")
        if self.url is not None:
            if self.token is None:
                raise ValueError("`url` needs the bridge's `token`")
            if self.username is not None:
                raise ValueError("`username` is for SMTP; with `url` the bridge is known by its `token`")
            if self.verify is False:
                raise ValueError("over HTTP the certificate is always checked; give `verify: {ca_file: …}`")
            if self.url.startswith("http:") and not self.plain_http and not is_loopback(self.url):
                raise ValueError("http:// would show the token to the network; use https://, or `plain_http: true`")
        elif self.token is not None:
            raise ValueError("`token` is for `url`; over SMTP give `username` and `password`")
        return self

    @property
    def http(self) -> HttpOptions | None:
        """For the HTTP driver; None where the way is SMTP."""
        if self.url is None or self.token is None:
            return None
        return HttpOptions(
            base_url=self.url,
            token=self.token,
            plain_http=self.plain_http,
            ca_file=self.verify.ca_file if isinstance(self.verify, SmtpVerify) else None,
            connections=self.connections,
            idle_close=self.idle_close,
            timeouts=ApiTimeouts(connect=self.timeouts.connect, write=self.timeouts.block, answer=self.timeouts.dot),
        )

    @property
    def carries(self) -> Carries:
        http = self.http
        return EVERYTHING if http is None else http.carries
