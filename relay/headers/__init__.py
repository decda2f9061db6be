"""Header edits on raw bytes: at acceptance (`prepare`), for each attempt (`stamp`); the one field walk (`walk`)."""

from relay.headers.addresses import Mailboxes, domain_of, parse_mailboxes
from relay.headers.fields import Field, walk
from relay.headers.prepare import CONTROLS, STAMPED, Prepared, from_domain, prepare
from relay.headers.stamp import check_custom, merge, stamp
from relay.headers.trace import Trace, address_literal, received
from relay.headers.words import clean, encode_mailbox, encode_text, mail_date, readable

__all__ = [
    "CONTROLS",
    "STAMPED",
    "Field",
    "Mailboxes",
    "Prepared",
    "Trace",
    "address_literal",
    "check_custom",
    "clean",
    "domain_of",
    "encode_mailbox",
    "encode_text",
    "from_domain",
    "mail_date",
    "merge",
    "parse_mailboxes",
    "prepare",
    "readable",
    "received",
    "stamp",
    "walk",
]
