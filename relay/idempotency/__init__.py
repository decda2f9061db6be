"""Submitting twice under one key counts once.

A key belongs to a bridge and lives for a day. Its life::

    claim ──► OPEN (a submission is at work) ──► finish: DONE, answers every repetition with the same id
                        └──────────────────────► forget: refused, the client may try again

`finish` is durable before the message may leave, so a crash leaves OPEN only for messages that were never handed to a
node: whoever owned the claim looks at its next start whether the message is in its spool (`resolve`) and finishes or
forgets it. A key therefore never answers for a message that is not kept, and a second copy needs a crash within the
step between store and finish of a message that was also delivered meanwhile.

`sqlite` keeps the keys of one machine, for all its workers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

KEEP_S = 24 * 3600.0


class Known(StrEnum):
    """What a claim finds."""

    NEW = "new"  # ours now: store the message, then `finish` or `forget`
    DONE = "done"  # the same was taken before, as `id`
    OPEN = "open"  # another submission with this key is at work
    OTHER = "other"  # the key was used for something else


@dataclass(frozen=True, slots=True)
class Claim:
    known: Known
    id: str = ""


class Keys(Protocol):
    """Raises StateUnavailable when the store does not work: the message must not be taken then."""

    async def claim(self, bridge: str, key: str, *, digest: bytes, id: str, now: float) -> Claim: ...

    async def finish(self, bridge: str, key: str, *, id: str) -> None:
        """Durable on return."""
        ...

    async def forget(self, bridge: str, key: str, *, id: str) -> None: ...

    async def resolve(self, holds: Callable[[str], Awaitable[bool]], *, except_of: Collection[str] = ()) -> None:
        """Decide about the claims that owners left open when they died, at the start of a worker.

        Args:
            holds: whether the message is in this worker's spool.
            except_of: owners that look after their own.
        """
        ...

    async def close(self) -> None: ...
