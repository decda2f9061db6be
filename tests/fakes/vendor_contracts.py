"""The table of contracts by type of node."""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes import contracts_json as first
from tests.fakes import contracts_more as more
from tests.fakes import contracts_raw as raw
from tests.fakes.vendor_contract import Contract

CONTRACTS: dict[str, Callable[[], Contract]] = {
    "ses": raw.ses,
    "mailgun": raw.mailgun,
    "sparkpost": raw.sparkpost,
    "mandrill": raw.mandrill,
    "relay": raw.relay,
    "msgraph": raw.msgraph,
    "gmail-api": raw.gmail,
    "sendgrid": first.sendgrid,
    "postmark": first.postmark,
    "elasticemail": first.elasticemail,
    "mailjet": first.mailjet,
    "smtp2go": first.smtp2go,
    "brevo": more.brevo,
    "sendinblue": more.brevo,
    "zeptomail": more.zeptomail,
    "resend": more.resend,
    "mailersend": more.mailersend,
    "mumara-one": more.mumara,
}
RAW = ("ses", "mailgun", "sparkpost", "mandrill", "relay")
FROM_HEADERS = ("msgraph", "gmail-api")
REBUILT = tuple(kind for kind in CONTRACTS if kind not in (*RAW, *FROM_HEADERS))
