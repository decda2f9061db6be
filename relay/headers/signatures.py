"""What a client's own DKIM-Signature fields cover, as far as our edits must know (RFC 6376 §3.5, §5.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from relay.headers.fields import Field

_H_TAG = re.compile(rb"(?:\A|;)[ \t]*h[ \t]*=([^;]*)")


def covered_names(fields: Iterable[Field]) -> frozenset[bytes]:
    """Lower-case names listed in any h= of the given fields, whether or not such a field exists.

    A name that is listed more often than it occurs forbids adding one, so additions ask here too.
    """
    names: set[bytes] = set()
    for field in fields:
        if field.name == b"dkim-signature" and (match := _H_TAG.search(field.text)):
            names.update(name.strip(b" \t").lower() for name in match[1].split(b":"))
    return frozenset(names - {b""})
