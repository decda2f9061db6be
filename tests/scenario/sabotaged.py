"""The relay, killed from inside. Run as `python -m tests.scenario.sabotaged` in place of `python -m relay`.

Files in the folder named by SABOTAGE arm it; a file that is gone does no harm:

    poison          a driver that is handed a message to poison@… ends its process, each time
    <crash point>   the whole relay is killed at that point, once (see `POINTS`)
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("SABOTAGE", "/nonexistent"))

POINTS = (
    "before-store",  # the final dot was read, nothing is written
    "after-store",  # the message is on disk, the client has heard nothing
    "before-deliver",  # the attempt is marked, nothing was said to the node
    "after-deliver",  # the node has answered, nothing of it is written
    "after-report",  # the report to the sender is stored, the failure it tells of is not
    "after-settle",  # the result is on disk
    "after-recover",  # at start: what the last crash left open has been closed
)


def crash(point: str) -> None:
    """Die here, if this point is armed."""
    try:
        (FOLDER / point).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: type, name: str, *, before: str = "", after: str = "") -> None:
    """Put crash points around an async method."""
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            crash(before)
        result = await method(*args, **kwargs)
        if after:
            crash(after)
        return result

    setattr(owner, name, wrapped)


def poison() -> None:
    from relay.upstreams.smtp import SmtpUpstream

    deliver = SmtpUpstream.deliver

    async def poisoned(self: SmtpUpstream, outbound: Any, *, deadline: float) -> Any:
        if any(r.address.startswith("poison@") for r in outbound.recipients) and (FOLDER / "poison").exists():
            os._exit(139)
        return await deliver(self, outbound, deadline=deadline)

    SmtpUpstream.deliver = poisoned  # type: ignore[method-assign]


def main() -> None:
    from relay.cli import main as relay
    from relay.delivery.reports import Reports
    from relay.spool.sqlite import SqliteSpool
    from relay.upstreams.smtp import SmtpUpstream

    poison()
    wrap(SqliteSpool, "store", before="before-store", after="after-store")
    wrap(SmtpUpstream, "deliver", before="before-deliver", after="after-deliver")
    wrap(Reports, "tell", after="after-report")
    wrap(SqliteSpool, "settle", after="after-settle")
    wrap(SqliteSpool, "recover", after="after-recover")
    sys.argv[0] = "relay"
    relay()


if __name__ == "__main__":
    main()
