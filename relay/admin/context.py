"""What the services of the control process stand on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.admin.audit import Audit
from relay.admin.security.access import Access
from relay.admin.security.guess import Guesses
from relay.admin.workers import Workers
from relay.app.site import Site, site_of
from relay.config import Config
from relay.config.change import fingerprint
from relay.config.load import Loaded, load
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.admin.alerts.watch import Alerts
    from relay.admin.feed import Feed
    from relay.admin.webhooks.service import Webhooks

Tell = Callable[[str, str, Mapping[str, Any]], None]
"""Level, event, fields: `Log.tell`."""

_Marks = tuple[tuple[str, int, int], ...]


class Current:
    """The configuration as the files have it; the last sound one while they do not validate."""

    def __init__(self, main: Path, loaded: Loaded) -> None:
        self.main = main
        self.loaded = loaded
        self.trouble: ConfigError | None = None
        self._marks = _marks(loaded.files)
        self._turn = asyncio.Lock()

    @property
    def config(self) -> Config:
        return self.loaded.config

    async def look(self) -> Loaded:
        """Read the files again if one of them was touched."""
        async with self._turn:
            await asyncio.to_thread(self._look)
        return self.loaded

    async def etag(self) -> str:
        """Of the files as they are now."""
        return await asyncio.to_thread(fingerprint, self.loaded.files)

    def _look(self) -> None:
        marks = _marks(self.loaded.files)
        if marks == self._marks and self.trouble is None:
            return
        try:
            self.loaded = load(self.main)
            self.trouble = None
        except ConfigError as error:
            self.trouble = error
        self._marks = _marks(self.loaded.files)


def _marks(files: tuple[Path, ...]) -> _Marks:
    """Changes when a file, or a folder that an `include` pattern looks into, does."""
    found = []
    for path in dict.fromkeys([*files, *(file.parent for file in files)]):
        try:
            facts = os.stat(path)
        except OSError:
            found.append((str(path), 0, 0))
        else:
            found.append((str(path), facts.st_mtime_ns, facts.st_size))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    current: Current
    site: Site
    workers: Workers
    access: Access
    audit: Audit
    guesses: Guesses
    feed: Feed
    webhooks: Webhooks
    alerts: Alerts
    tell: Tell


def site_now(current: Current, first: Site) -> Site:
    """Where the relay keeps its files: what a changed `store` says counts from the next start on."""
    try:
        found = site_of(current.config)
    except ConfigError:
        return first
    return found if found.directory == first.directory else first
