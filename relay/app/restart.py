"""What of a new configuration a running relay cannot take over. Pure."""

from __future__ import annotations

from relay.app.settings import Settings
from relay.app.site import workers_of

LIVE = frozenset(
    {
        *("version", "include", "hostname", "account", "mtas", "listeners", "limits", "line_endings"),
        *("accept_deadline", "headers", "dkim", "health", "retry", "uncertain", "dsn", "spool", "history"),
        *("log", "reload", "bridges", "pools", "nodes", "webhooks", "alerts"),
    }
)
"""Keys that a running relay takes over; of `listeners` and `log` see `needs_restart`."""


def needs_restart(started: Settings, fresh: Settings) -> list[str]:
    """Keys whose new values a running relay cannot take over, apart from `listeners`."""
    old, new = started.config, fresh.config
    names = [name for name in type(old).model_fields if name not in LIVE and name != "workers"]
    found = [name for name in names if getattr(old, name) != getattr(new, name)]
    if workers_of(old) != workers_of(new):
        found.append("workers")
    found += [
        f"log.{name}"
        for name in ("format", "target", "redact_recipients")
        if getattr(old.log, name) != getattr(new.log, name)
    ]
    return sorted(found)
