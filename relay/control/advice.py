"""What an operator is to do about a node whose test failed. Pure; words only, no decision hangs on them.

The upstream's own words come first wherever this is shown; this says what they usually mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from relay.outcome import Outcome, Scope, Status

_Test = Callable[[Outcome], bool]


def _says(pattern: str) -> _Test:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda outcome: bool(compiled.search(f"{outcome.code} {outcome.enhanced} {outcome.text}"))


def _in(*phases: str) -> _Test:
    return lambda outcome: outcome.phase in phases


_ALREADY_SAID = _says(r"relay oauth login|check client_id|check the oauth key|key file")

_ADVICE: tuple[tuple[_Test, str], ...] = (
    (_ALREADY_SAID, ""),
    (
        _says(r"5\.7\.139|5\.7\.30\b|basic authentication is disabled|SmtpClientAuthentication"),
        "Microsoft has switched passwords off here: use `oauth`, or allow SMTP AUTH for the mailbox",
    ),
    (
        _says(r"application-specific password|5\.7\.9 .*(app|application)"),
        "the provider wants an app password, made in the account's security settings, or `oauth`",
    ),
    (_says(r"does not offer AUTH"), "choose a mechanism that is offered with `auth`, or check port and tls"),
    (
        _says(r"does not offer STARTTLS"),
        "try `tls: implicit` with port 465, or another port; `tls: none` only inside your own network",
    ),
    (
        _says(r"certificate verify failed|CERTIFICATE"),
        "check the host name; an own authority goes into `verify: {ca_file: …}`",
    ),
    (_says(r"WRONG_VERSION_NUMBER|wrong version number"), "this port does not begin with TLS: use `tls: starttls`"),
    (_in("tls"), "check tls and port: 465 is implicit, 587 and 25 are starttls"),
    (_says(r"cannot be resolved|Name or service"), "check the host name and this machine's DNS"),
    (_says(r"refused|unreachable|no route"), "check host and port, and that a firewall lets this machine out"),
    (
        lambda o: o.phase in ("connect", "greeting") and o.code == 0,
        "nothing answers: many networks block port 25 and 465; try 587 or 2525, and check the firewall",
    ),
    (lambda o: o.scope is Scope.QUOTA, "the upstream asks for a slower pace; the node is used again by itself"),
    (
        lambda o: o.scope is Scope.ACCOUNT and o.phase == "auth",
        "check username and password, and that the account may send by SMTP",
    ),
    (lambda o: o.scope is Scope.ACCOUNT, "check the credentials, their rights, and the account at the vendor"),
    (lambda o: o.code >= 500 and o.phase == "http", "the vendor has trouble; the node is tested again by itself"),
    (lambda o: o.scope is Scope.MESSAGE, "this machine lacks something; see the words above"),
    (lambda o: o.status is Status.DEFERRED, "this may pass; the node is tested again by itself"),
)


def advice(outcome: Outcome) -> str:
    """One line, or empty where the words above say it all or the test passed."""
    if outcome.status is Status.DELIVERED:
        return ""
    return next((words for fits, words in _ADVICE if fits(outcome)), "")
