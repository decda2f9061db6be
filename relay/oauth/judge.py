"""What a node learns from a token endpoint that gives no token, and what an operator is to do. Pure."""

from __future__ import annotations

from relay.oauth.requests import Failed, Refused
from relay.outcome import Outcome, Scope, Status
from relay.upstreams.oauth_options import Flow
from relay.upstreams.replies import clean


def outcome(answer: Refused | Failed, *, node: str, flow: Flow) -> Outcome:
    """ACCOUNT for what only an operator can mend, QUOTA for "slower", NODE for everything that may pass by itself."""
    match answer:
        case Refused():
            text = clean(f"{answer.text}; {advice(answer.error, node=node, flow=flow)}")
            return Outcome(
                status=Status.REFUSED,
                scope=Scope.ACCOUNT,
                code=answer.status,
                text=text,
                phase="auth",
                attempted=False,
            )
        case Failed():
            return Outcome(
                status=Status.DEFERRED,
                scope=Scope.QUOTA if answer.busy else Scope.NODE,
                code=answer.status,
                text=clean(f"token endpoint: {answer.text}"),
                phase="auth",
                retry_after_s=answer.retry_after_s,
                attempted=False,
            )


def advice(error: str, *, node: str, flow: Flow) -> str:
    """What to do about an error code of RFC 6749 §5.2 and RFC 8628 §3.5."""
    match error, flow:
        case (("invalid_grant" | "interaction_required" | "consent_required" | "login_required"), "refresh-token"):
            return f"the consent has ended or was withdrawn: `relay oauth login {node}` asks for it again"
        case "invalid_grant", "service-account":
            return "check the key of the service account, the mailbox it acts for, and this machine's clock"
        case "invalid_client", _:
            return "check client_id and client_secret; secrets expire"
        case "unauthorized_client", "service-account":
            return "allow the scopes for the service account's client id under domain-wide delegation"
        case "unauthorized_client", _:
            return "the application may not use this flow: check its registration"
        case "invalid_scope", _:
            return "check scopes, and the rights that the application was given"
        case "access_denied", _:
            return f"the consent was refused: `relay oauth login {node}` asks for it again"
        case _:
            return "check the oauth key of the node and the application's registration"


def no_login_yet(node: str) -> Outcome:
    """Nobody has given consent."""
    text = f"no refresh token for node {node}: `relay oauth login {node}` gets one"
    return Outcome(status=Status.REFUSED, scope=Scope.ACCOUNT, text=text, phase="auth", attempted=False)


def no_store(node: str, why: str) -> Outcome:
    """Our own trouble with the stored token. The node cannot be used here until it passes."""
    text = clean(f"the stored token of node {node} cannot be used: {why}")
    return Outcome(status=Status.DEFERRED, scope=Scope.NODE, text=text, phase="auth", attempted=False)
