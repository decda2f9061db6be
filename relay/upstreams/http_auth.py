"""What makes a call one of ours: nothing more, an OAuth2 access token, or an AWS signature.

Vendors with a key put it into the call themselves (`Api.build`); here is what needs I/O.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from relay.errors import UpstreamError
from relay.outcome import Outcome, Scope, Status
from relay.upstreams.api import Answer
from relay.upstreams.http_body import pieces
from relay.upstreams.tokens import TokenFault, TokenSource

if TYPE_CHECKING:
    from relay.upstreams.api import Call
    from relay.upstreams.ses import Options as SesOptions


class NoCredentials(UpstreamError):
    """There is nothing to sign with. `outcome` says what to do."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


def _lack(text: str, scope: Scope = Scope.ACCOUNT) -> NoCredentials:
    status = Status.REFUSED if scope is Scope.ACCOUNT else Status.DEFERRED
    return NoCredentials(Outcome(status=status, scope=scope, text=text[:500], phase="auth", attempted=False))


Added = list[tuple[str, str]]
"""Headers of one call."""


class Auth(Protocol):
    async def headers(self, call: Call, url: str, /) -> Added:
        """Headers to add. Raises NoCredentials."""
        ...

    async def refused(self, answer: Answer, added: Added, /) -> bool:
        """The vendor refused a call with these headers. True when fresh ones may do better: the call, which proved to
        be nobody's, may be made once more."""
        ...


class KeyInCall:
    """The call has all it needs."""

    async def headers(self, _call: Call, _url: str, /) -> Added:
        return []

    async def refused(self, _answer: Answer, _added: Added, /) -> bool:
        return False


class BearerToken:
    """OAuth2 (RFC 6750)."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def headers(self, _call: Call, _url: str, /) -> Added:
        try:
            token = await self._source.token()
        except TokenFault as fault:
            raise NoCredentials(fault.outcome) from fault
        return [("Authorization", f"Bearer {token}")]

    async def refused(self, answer: Answer, added: Added, /) -> bool:
        if answer.status != 401:
            return False
        await self._source.invalidate(added[0][1].removeprefix("Bearer "))
        return True


class SigV4:
    """AWS Signature Version 4 by botocore's signer, with its chain of credentials: keys of the options, else profile,
    environment, shared files, container and instance roles, as every AWS program finds them."""

    def __init__(self, options: SesOptions) -> None:
        self._options = options
        self._credentials: Any = None
        self._lock = asyncio.Lock()

    async def headers(self, call: Call, url: str, /) -> Added:
        async with self._lock:
            if self._credentials is None:
                self._credentials = await asyncio.to_thread(self._find)
        # A role's credentials are renewed here when they are old: a call to the instance's service.
        return await asyncio.to_thread(self._sign, call, url)

    async def refused(self, answer: Answer, _added: Added, /) -> bool:
        if b"ExpiredToken" not in answer.body and "ExpiredToken" not in answer.headers.get("x-amzn-errortype", ""):
            return False
        fresh, self._credentials = self._credentials, None
        return fresh is not None and not self._options.access_key_id

    def _find(self) -> Any:
        from botocore.credentials import Credentials
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session

        options = self._options
        if options.access_key_id and options.secret_access_key:
            token = options.session_token.get_secret_value() if options.session_token else None
            return Credentials(options.access_key_id, options.secret_access_key.get_secret_value(), token)
        try:
            session = Session(profile=options.profile)
            found = session.get_credentials()
            if found is not None and options.role_arn:
                found = _assumed(session, options)
        except BotoCoreError as error:
            raise _lack(f"AWS credentials: {error}") from error
        if found is None:
            raise _lack(
                "no AWS credentials: set access_key_id and secret_access_key, or profile, or give the machine a role"
            )
        return found

    def _sign(self, call: Call, url: str) -> list[tuple[str, str]]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        digest = hashlib.sha256()
        for piece in pieces(call.body):
            digest.update(piece)
        request = AWSRequest(method=call.method, url=url, headers={"X-Amz-Content-SHA256": digest.hexdigest()})
        try:
            SigV4Auth(self._credentials.get_frozen_credentials(), "ses", self._options.region).add_auth(request)
        except BotoCoreError as error:
            raise _lack(f"AWS credentials: {error}", Scope.NODE) from error
        return [(name, str(value)) for name, value in request.headers.items()]


def _assumed(session: Any, options: SesOptions) -> Any:
    """Credentials of a role that is assumed with the found ones, renewed before they expire."""
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    fetcher = AssumeRoleCredentialFetcher(
        client_creator=session.create_client,
        source_credentials=session.get_credentials(),
        role_arn=options.role_arn,
        extra_args={"RoleSessionName": "relay", **({"ExternalId": options.external_id} if options.external_id else {})},
    )
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, method="assume-role")


def make_auth(kind: str, options: Any, tokens: Callable[[], TokenSource | None]) -> Auth:
    """The auth an `Api` asks for. Raises UpstreamError when there is no source of tokens."""
    match kind:
        case "token":
            source = tokens()
            if source is None:
                raise UpstreamError("this type of node needs OAuth2 access tokens, and none is set up for it")
            return BearerToken(source)
        case "sigv4":
            return SigV4(options)
        case _:
            return KeyInCall()
