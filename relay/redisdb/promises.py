"""What a server keeps over a crash, and whether it throws things away: looked at once at the start, said plainly.

The contract of a shared store is that what was answered is still there after the server's process, or its machine, has
died: `appendonly yes` with `appendfsync always`, or copies that have it (`min_replicas`), and `maxmemory-policy
noeviction`, so that a full server refuses instead of forgetting. What is weaker is not refused where only an operator
can weigh it; a policy that evicts keys without asking is, for mail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relay.redisdb.link import Link, LinkError

_INFO_LINE = re.compile(r"([a-z0-9_]+):(.*)")


@dataclass(frozen=True, slots=True)
class Weakness:
    """`loses_mail`: a spool must not be kept there at all."""

    text: str
    loses_mail: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How a server keeps things, as far as it says; empty is unknown."""

    appendonly: str = ""
    appendfsync: str = ""
    policy: str = ""
    maxmemory: int = 0
    memory: int = 0
    role: str = ""
    version: str = ""


async def look(link: Link) -> Keeping:
    """Ask the server. Managed servers often refuse CONFIG; INFO tells most of it too.

    Raises:
        LinkError: it is away.
    """
    info: dict[str, str] = {}
    for section in ("persistence", "memory", "replication", "server"):
        info |= _info(await link.command("INFO", section))
    config: Mapping[str, str] = {}
    try:
        config = _words(await link.command("CONFIG", "GET", "append*"))
    except LinkError as error:
        if error.unsure:
            raise
    aof = {"1": "yes", "0": "no"}.get(info.get("aof_enabled", ""), "")
    return Keeping(
        appendonly=config.get("appendonly", aof),
        appendfsync=config.get("appendfsync", ""),
        policy=info.get("maxmemory_policy", ""),
        maxmemory=int(info.get("maxmemory", "0") or 0),
        memory=int(info.get("used_memory", "0") or 0),
        role=info.get("role", ""),
        version=info.get("valkey_version", info.get("redis_version", "")),
    )


def weaknesses(keeping: Keeping, *, spool: bool, min_replicas: int) -> list[Weakness]:
    """What is weaker than the contract, in an operator's words.

    Args:
        spool: mail is kept there too, not only caps and health.
    """
    found = []
    what = "accepted mail" if spool else "counts under caps, pauses and health of nodes"
    if keeping.appendonly == "no":
        found.append(Weakness(f"appendonly is no: when the server restarts, {what} are gone; set appendonly yes"))
    elif keeping.appendonly == "yes" and keeping.appendfsync not in ("always", ""):
        lost = {"everysec": "about the last second of", "no": "up to half a minute of"}.get(keeping.appendfsync, "some")
        if not min_replicas:
            found.append(
                Weakness(
                    f"appendfsync is {keeping.appendfsync}: when its machine fails, {lost} {what} may be lost; set "
                    "appendfsync always, or have copies and the option min_replicas"
                )
            )
    elif not keeping.appendonly or not keeping.appendfsync:
        found.append(Weakness("the server does not say whether it keeps what it is told (CONFIG GET is refused)"))
    if keeping.policy.startswith("allkeys"):
        text = f"maxmemory-policy is {keeping.policy}: when memory runs out, {what} are thrown away; set noeviction"
        found.append(Weakness(text, loses_mail=True))
    elif keeping.policy.startswith("volatile"):
        found.append(
            Weakness(
                f"maxmemory-policy is {keeping.policy}: when memory runs out, counts under caps may be thrown away and "
                "caps be exceeded; set noeviction"
            )
        )
    if spool and not keeping.maxmemory:
        found.append(Weakness("maxmemory is not set: a long queue can use up the memory of the machine"))
    return found


def _info(reply: Any) -> dict[str, str]:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return dict(match.groups() for line in text.splitlines() if (match := _INFO_LINE.fullmatch(line.strip())))  # type: ignore[misc]


def _words(reply: Any) -> dict[str, str]:
    if isinstance(reply, Mapping):
        return {key.decode(): value.decode() for key, value in reply.items()}
    words = [word.decode() for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))
