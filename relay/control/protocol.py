"""What the command line and a running worker agree on: operations, their time limits, errors, and where they meet.

One JSON object a line in each direction over a Unix socket that only its owner can open. Request:
`{"op": "status", "args": {…}}`. Reply: `{"result": …}` or `{"error": "…", "kind": "…"}`. Light to import: every
command of the command line does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from relay.errors import RelayError

LOOK_S, ACT_S, TEST_S, PREPARE_S, SUBMIT_S = 10.0, 300.0, 150.0, 30.0, 120.0
"""How long an answer is waited for: something is read; a whole queue is changed; nodes are connected to; a worker
reads keys and makes drivers for another configuration; messages are taken, with `delivery: direct` also delivered."""

OPERATIONS = {
    "status": LOOK_S,
    "nodes": LOOK_S,
    "campaigns": LOOK_S,
    "entries": LOOK_S,
    "show": LOOK_S,
    "explain": LOOK_S,
    "trace": LOOK_S,
    "captured": LOOK_S,
    "retry": ACT_S,
    "hold": ACT_S,
    "drop": ACT_S,
    "node_test": TEST_S,
    "node_pause": LOOK_S,
    "node_resume": LOOK_S,
    "reload": ACT_S,
    "drain": ACT_S,
    "metrics": LOOK_S,
    "submit": SUBMIT_S,
    "plan": PREPARE_S,
    "reload_prepare": PREPARE_S,
    "reload_commit": LOOK_S,
    "reload_abort": LOOK_S,
}
"""The public methods of `control.operator.Operator` that may be called, and how long each may take."""

LINE_LIMIT = 4 * 1024 * 1024
"""A request with 100,000 ids is 2.8 MB."""

REPLY_LIMIT = 64 * 1024 * 1024
"""A page of 1,000 messages with 100 recipients each is some 20 MB."""

_PATH_LIMIT = 100
"""Octets of a socket's path that are safe everywhere: sockaddr_un holds 108 on Linux, 104 on BSD and macOS."""


class ControlError(RelayError):
    """The relay cannot be reached, or could not do what was asked; the message is for the operator."""

    kind = "unavailable"


class TryAgain(ControlError):
    """It starts, stops or is stuck: the same command may work in a moment."""

    kind = "try-again"


class NotPermitted(ControlError):
    """The relay belongs to another user."""

    kind = "not-permitted"


class UnknownName(ControlError):
    """The operator named something that is not in the configuration; the message says what exists."""

    kind = "unknown-name"


class Invalid(ControlError):
    """The configuration that was to be taken over does not validate; nothing has changed."""

    kind = "invalid"


KINDS = {error.kind: error for error in (ControlError, TryAgain, NotPermitted, UnknownName, Invalid)}


def socket_path(directory: Path, shard: str) -> Path:
    """Where the worker of a shard listens."""
    return directory / f"control-{shard}.sock"


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name of this socket that fits into a socket address, however long the folder's is.

    Raises OSError like the system when the folder cannot be opened.
    """
    if len(os.fsencode(path)) <= _PATH_LIMIT or not os.path.isdir("/proc/self/fd"):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
