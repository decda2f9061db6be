"""Names of keys. All keys of one relay carry one hash tag, so that a cluster keeps them on one node and a script may
touch them together."""

from __future__ import annotations


def key(name: str, *parts: str) -> str:
    """The key of something that belongs to the relay called `name`: `{relay:<name>}:<part>:<part>…`."""
    return ":".join((f"{{relay:{name}}}", *parts))
