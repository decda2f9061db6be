"""Internationalised domains in the one form in which the relay compares them: lower-case A-labels (RFC 5891).

IDNA 2008 as mail uses it (RFC 6531 §3.2), with the mapping of UTS 46 for what people type: `Bücher.example` and
`bücher.example` are one domain, `straße.example` and `strasse.example` are two. Python's own codec is IDNA 2003, which
makes one of the latter. Pure.
"""

from __future__ import annotations

import idna


def a_labels(domain: str) -> str:
    """The domain in lower-case A-labels.

    Raises:
        UnicodeError: it is not ASCII and cannot be an internationalised domain.
    """
    return domain.lower() if domain.isascii() else idna.encode(domain, uts46=True, transitional=False).decode("ascii")


def domain_key(domain: str) -> str:
    """The form in which domains compare; one that has no A-labels stays as it is, lower case."""
    try:
        return a_labels(domain)
    except UnicodeError:
        return domain.lower()
