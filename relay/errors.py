"""The exceptions of the relay.

Expected delivery results are values (`relay.outcome`); an exception means a bug, a broken store, or "cannot even
begin". A class of its own exists only where the caller acts differently on it.

`ConfigError` stands apart from `RelayError` so that nothing that shields the mail flow ever swallows it.
"""

from __future__ import annotations

from relay.envelope import Reply


class RelayError(Exception):
    """Base of everything the mail flow may raise on purpose."""


class AcceptanceError(RelayError):
    """A client's command or message is refused; `reply` is what the client hears."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class SpoolError(RelayError):
    """The spool could not do what was asked; nothing was accepted. Answered 451 4.3.0."""


class SpoolFull(SpoolError):
    """No room for the message (ENOSPC, quota, configured bounds). Answered 452 4.3.1."""


class SpoolUnhealthy(SpoolError):
    """The store answered an error that makes further promises unsafe, for example a failed fsync. Answered 421."""


class StateUnavailable(RelayError):
    """The shared state cannot be read or written; callers hold rather than send uncapped."""


class UpstreamError(RelayError):
    """A driver cannot work at all with what it was given (not an outcome of an attempt)."""


class ConfigError(Exception):
    """A configuration, key file or driver option is unusable; the process must not start on it."""
