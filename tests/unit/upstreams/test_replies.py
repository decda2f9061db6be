"""Which outcome each answer of an SMTP server gets. The texts are ones that servers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.outcome import Scope, Status
from relay.upstreams import replies, reply_rules

D, R, U, OK = Status.DEFERRED, Status.REFUSED, Status.UNCERTAIN, Status.DELIVERED
RECIPIENT, MESSAGE, NODE, ACCOUNT, QUOTA = Scope.RECIPIENT, Scope.MESSAGE, Scope.NODE, Scope.ACCOUNT, Scope.QUOTA

TABLE = [
    # greeting and EHLO: the node, unless it says slower or never
    ("greeting", 554, "", "no SMTP service here", D, NODE),
    ("greeting", 421, "", "mx.example.net Service not available, closing transmission channel", D, NODE),
    ("greeting", 220, "", "half a greeting of the wrong kind", D, NODE),
    ("greeting", 421, "4.7.0", "mx.example.net Error: too many connections from 192.0.2.7", D, QUOTA),
    (
        "greeting",
        554,
        "5.7.1",
        "Service unavailable; Client host [192.0.2.7] blocked using zen.example.org",
        R,
        ACCOUNT,
    ),
    ("greeting", 550, "", "Your IP 192.0.2.7 is blacklisted", R, ACCOUNT),
    ("ehlo", 550, "5.7.1", "bad helo", D, NODE),
    ("ehlo", 421, "4.3.2", "The maximum number of concurrent connections has exceeded a limit", D, QUOTA),
    ("tls", 454, "4.7.0", "TLS not available due to local problem", D, NODE),
    # AUTH
    ("auth", 535, "5.7.8", "Error: authentication failed: UGFzc3dvcmQ6", R, ACCOUNT),
    ("auth", 535, "5.7.139", "Authentication unsuccessful, SmtpClientAuthentication is disabled", R, ACCOUNT),
    ("auth", 534, "5.7.9", "Application-specific password required", R, ACCOUNT),
    ("auth", 538, "5.7.11", "Encryption required for requested authentication mechanism", R, ACCOUNT),
    ("auth", 530, "5.7.0", "Must issue a STARTTLS command first", R, ACCOUNT),
    ("auth", 432, "4.7.12", "A password transition is needed", R, ACCOUNT),
    ("auth", 504, "5.5.4", "Unrecognized authentication type", R, ACCOUNT),
    ("auth", 502, "5.5.1", "Command not implemented", R, ACCOUNT),
    ("auth", 454, "4.7.0", "Temporary authentication failure", D, NODE),
    ("auth", 454, "4.7.0", "Too many login attempts, please try again later", D, QUOTA),
    ("auth", 421, "4.7.0", "server is shutting down", D, NODE),
    ("auth", 334, "", "dGVzdA==", D, NODE),
    # MAIL
    ("mail", 421, "4.4.2", "mx.example.net Error: timeout exceeded", D, NODE),
    ("mail", 530, "5.7.0", "Authentication Required", R, ACCOUNT),
    ("mail", 550, "5.7.1", "Authentication required", R, ACCOUNT),
    ("mail", 553, "5.7.1", "<a@b.example>: Sender address rejected: not owned by user shop", R, MESSAGE),
    ("mail", 550, "5.1.0", "<a@b.example>: Sender address rejected: User unknown", R, MESSAGE),
    ("mail", 501, "5.1.7", "Bad sender address syntax", R, MESSAGE),
    ("mail", 555, "5.5.4", "Unsupported option: SMTPUTF8", R, MESSAGE),
    ("mail", 552, "5.3.4", "Message size exceeds fixed limit", R, MESSAGE),
    ("mail", 552, "5.3.4", "Message size exceeds fixed maximum message size", R, MESSAGE),
    ("mail", 451, "4.7.1", "try again later", D, MESSAGE),
    ("mail", 452, "4.3.1", "Insufficient system storage", D, QUOTA),
    ("mail", 451, "4.3.2", "Please try again later", D, QUOTA),
    ("mail", 421, "4.3.2", "Service shutting down", D, NODE),
    ("mail", 503, "5.5.1", "Error: nested MAIL command", D, NODE),
    ("mail", 500, "5.5.2", "Error: bad syntax", D, NODE),
    ("mail", 354, "", "what", D, NODE),
    ("mail", 450, "4.7.1", "Error: too much mail from 192.0.2.7", D, QUOTA),
    ("mail", 550, "5.4.5", "Daily user sending limit exceeded", D, QUOTA),
    ("mail", 554, "5.7.1", "Your account has been suspended", R, ACCOUNT),
    ("mail", 550, "5.7.1", "Account disabled, contact support", R, ACCOUNT),
    ("mail", 571, "", "Sending is blocked for this account", R, ACCOUNT),
    ("mail", 454, "4.7.1", "Your account is temporarily suspended", D, QUOTA),
    # RCPT
    ("rcpt", 550, "5.1.1", "<x@y.example>: User unknown", R, RECIPIENT),
    ("rcpt", 450, "4.2.0", "<x@y.example>: Recipient address rejected: Greylisted", D, RECIPIENT),
    ("rcpt", 451, "4.7.1", "Greylisting in action, please come back in 5 minutes", D, RECIPIENT),
    ("rcpt", 450, "4.7.0", "greylisted, try again later", D, RECIPIENT),
    ("rcpt", 552, "5.2.2", "Mailbox over quota", R, RECIPIENT),
    ("rcpt", 452, "4.2.2", "The recipient's inbox is out of storage space and quota exceeded", D, RECIPIENT),
    ("rcpt", 452, "", "mailbox over quota", D, RECIPIENT),
    ("rcpt", 450, "4.2.1", "The user is receiving mail at a rate that prevents additional messages", D, RECIPIENT),
    ("rcpt", 550, "5.2.1", "The email account that you tried to reach is disabled", R, RECIPIENT),
    ("rcpt", 554, "", "delivery error: This user's account is disabled", R, RECIPIENT),
    ("rcpt", 550, "5.7.1", "Your account is suspended", R, ACCOUNT),
    ("rcpt", 554, "5.7.1", "<x@y.example>: Relay access denied", R, ACCOUNT),
    ("rcpt", 550, "5.7.1", "Relaying denied. Proper authentication required.", R, ACCOUNT),
    ("rcpt", 550, "5.7.54", "SMTP; Unable to relay recipient in non-accepted domain", R, ACCOUNT),
    ("rcpt", 550, "", "relay not permitted", R, ACCOUNT),
    ("rcpt", 454, "4.7.1", "<x@y.example>: Relay access denied", D, NODE),
    ("rcpt", 530, "5.7.0", "Authentication required", R, ACCOUNT),
    ("rcpt", 452, "4.5.3", "Error: too many recipients", D, RECIPIENT),
    ("rcpt", 452, "", "Too many recipients", D, RECIPIENT),
    ("rcpt", 552, "5.5.3", "Too many recipients", D, RECIPIENT),
    ("rcpt", 452, "4.5.3", "Too many recipients this hour", D, QUOTA),
    ("rcpt", 421, "4.7.28", "Our system has detected an unusual rate of unsolicited mail", D, QUOTA),
    ("rcpt", 550, "5.7.28", "unusual rate of unsolicited mail originating from your IP", D, QUOTA),
    ("rcpt", 450, "4.7.1", "Rate limit exceeded", D, QUOTA),
    ("rcpt", 354, "", "go", D, NODE),
    ("rcpt", 503, "5.5.1", "MAIL first", D, NODE),
    # DATA
    ("data", 250, "", "Ok", D, NODE),
    ("data", 503, "5.5.1", "out of order", D, NODE),
    ("data", 451, "4.3.0", "queue file write error", D, MESSAGE),
    ("data", 554, "5.7.1", "rejected", R, MESSAGE),
    # while content is being sent
    ("body", 552, "5.3.4", "Message too big", R, MESSAGE),
    ("body", 250, "", "Ok", D, NODE),
    ("body", 421, "", "closing", D, NODE),
    # the final dot
    ("dot", 250, "2.0.0", "Ok: queued as 4XyZ", OK, RECIPIENT),
    ("dot", 251, "", "will do", OK, RECIPIENT),
    ("dot", 250, "5.1.1", "the basic code decides", OK, RECIPIENT),
    ("dot", 354, "", "again", U, MESSAGE),
    ("dot", 399, "", "", U, MESSAGE),
    ("dot", 451, "4.7.1", "Service unavailable - try again later", D, MESSAGE),
    ("dot", 451, "4.7.0", "Temporary server error. Please try again later", D, QUOTA),
    ("dot", 550, "5.7.1", "Message contains spam or virus", R, MESSAGE),
    ("dot", 550, "5.7.26", "This mail has been blocked because the sender is unauthenticated", R, MESSAGE),
    ("dot", 552, "5.2.3", "Message size limit exceeded", R, MESSAGE),
    ("dot", 554, "5.4.6", "Too many hops", R, MESSAGE),
    ("dot", 421, "4.3.0", "try later", D, NODE),
    ("dot", 454, "", "Throttling failure: Maximum sending rate exceeded.", D, QUOTA),
    ("dot", 454, "", "Throttling failure: Daily message quota exceeded.", D, QUOTA),
    ("dot", 554, "", "Message rejected: Email address is not verified. The following identities failed", R, MESSAGE),
    ("dot", 554, "", "Message rejected: Sending paused for this account.", R, ACCOUNT),
    ("dot", 550, "5.4.5", "Daily sending quota exceeded", D, QUOTA),
    ("dot", 550, "5.7.1", "You have reached your daily sending limit", D, QUOTA),
    ("dot", 550, "4.2.1", "the basic code decides over the contradicting enhanced one", R, MESSAGE),
    ("dot", 450, "4.1.8", "Sender address rejected: Domain not found", D, MESSAGE),
]


@pytest.mark.parametrize(
    ("phase", "code", "enhanced", "text", "status", "scope"), TABLE, ids=[f"{r[0]}-{r[1]}-{r[3][:40]}" for r in TABLE]
)
def test_an_answer_means(phase: str, code: int, enhanced: str, text: str, status: Status, scope: Scope) -> None:
    outcome = replies.classify(phase, code, enhanced, text)
    assert (outcome.status, outcome.scope) == (status, scope)
    assert outcome.code == code
    assert outcome.phase == phase


def test_every_row_of_the_table_is_reached_by_a_known_text() -> None:
    reached = set()
    for phase, code, enhanced, text, _, _ in TABLE:
        same_class = enhanced if enhanced[:1] == str(code)[:1] else ""
        if 400 <= code <= 599:
            reached.add(next(row.rule.why for row in reply_rules.TABLE if row.fits(phase, str(code), same_class, text)))
    missing = {rule.why for rule in reply_rules.RULES} - reached
    assert missing == {"over quota before any recipient was named: our own quota"}
    assert replies.classify("mail", 452, "", "over quota").scope is QUOTA


@pytest.mark.parametrize("enhanced", ["4.5.3", "5.5.3", ""])
def test_too_many_recipients_may_go_in_the_next_batch_at_once(enhanced: str) -> None:
    code = 552 if enhanced.startswith("5") else 452
    outcome = replies.classify("rcpt", code, enhanced, "too many recipients")
    assert outcome.enhanced == "4.5.3"
    assert outcome.retry_after_s == 0.0


@given(
    st.sampled_from(["connect", "tls", "greeting", "ehlo", "auth", "mail", "rcpt", "data", "body", "dot"]),
    st.integers(200, 599),
    st.from_regex(r"([245]\.\d{1,3}\.\d{1,3})?", fullmatch=True),
    st.text(max_size=700),
)
def test_any_answer_has_an_outcome_with_clean_text(phase: str, code: int, enhanced: str, text: str) -> None:
    outcome = replies.classify(phase, code, enhanced, text)
    assert len(outcome.text) <= 500
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in outcome.text)
    assert (outcome.status is OK) == (phase == "dot" and 200 <= code < 300)
    assert (outcome.status is U) == (phase == "dot" and 300 <= code < 400)
    if outcome.enhanced:
        assert outcome.enhanced[0] in (str(code)[0], "4")


@pytest.mark.parametrize("phase", ["connect", "tls", "greeting", "ehlo", "auth", "mail", "rcpt", "data", "body"])
def test_a_loss_before_the_final_dot_is_the_nodes_and_certain(phase: str) -> None:
    outcome = replies.fault(phase, "connection lost")
    assert (outcome.status, outcome.scope) == (D, NODE)


def test_a_loss_after_the_final_dot_is_uncertain() -> None:
    assert replies.fault("dot", "connection lost").status is U


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (250, "2.0.0 Ok", ("2.0.0", "Ok")),
        (250, "Ok", ("", "Ok")),
        (550, "5.7.1", ("5.7.1", "")),
        (550, "5.7.26 first\n5.7.26 second\nthird", ("5.7.26", "first second third")),
        (250, "5.1.1 contradiction", ("", "contradiction")),
        (250, "1.2.3.4 is my address", ("", "1.2.3.4 is my address")),
        (250, "", ("", "")),
        (554, "a\x1b[31mb\r\x00c\udcff", ("", "a [31mb c")),
    ],
)
def test_the_enhanced_code_is_taken_off_the_text(code: int, text: str, expected: tuple[str, str]) -> None:
    assert replies.split_enhanced(code, text) == expected


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("2.0.0 Ok: queued as 4XyZ12abc", "4XyZ12abc"),
        ("OK id=1qXyZ-0001ab-CD", "1qXyZ-0001ab-CD"),
        (
            "Ok 0100018c1a2b3c4d-11111111-2222-3333-4444-555555555555-000000",
            "0100018c1a2b3c4d-11111111-2222-3333-4444-555555555555-000000",
        ),
        ("2.0.0 <20240101.abc@mx.example> Queued mail for delivery", ""),
        ("Ok", ""),
        ("OK thank you for flying", ""),
    ],
)
def test_the_upstreams_own_id_is_read_from_its_answer(text: str, id: str) -> None:
    assert replies.delivered(250, text).vendor_id == id


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Greylisted, try again in 5 minutes", 300.0),
        ("please retry after 90 seconds", 90.0),
        ("come back in 2 hours", 7200.0),
        ("wait 30s", 30.0),
        ("try again in 999999 hours", 86400.0),
        ("try again later", None),
        ("in 7 days", None),
        ("1234 messages", None),
    ],
)
def test_a_wait_is_read_from_the_text(text: str, seconds: float | None) -> None:
    assert replies.asked_wait(text) == seconds
