"""Where a relay keeps its files and how many processes it has: all that a command needs to reach a running one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from relay.config import values
from relay.config.models import Config
from relay.config.models.server import StoreModel
from relay.errors import ConfigError
from relay.redisdb.address import is_shared

MAX_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Site:
    """`directory`: of the spool. `shards`: one for each worker, the first worker's first. `shared_spool`: messages are
    elsewhere, one queue for all shards."""

    directory: Path
    state_directory: Path
    shards: tuple[str, ...]
    shared_spool: bool = False


def site_of(config: Config) -> Site:
    """Raises ConfigError for a kind of store this version does not have."""
    directory = _folder(values.spool_place(config), "store.spool", Path(config.store.folder))
    return Site(
        directory=directory,
        state_directory=_folder(values.state_place(config), "store.state", directory),
        shards=tuple(str(n) for n in range(workers_of(config))),
        shared_spool=values.spool_place(config).kind == "redis",
    )


def guess_site(path: Path) -> Site | None:
    """Where the relay of a configuration that does not validate keeps its files, as far as the main file says it
    plainly; None otherwise.

    A file that is being edited, or a secret that only the relay's own environment has, is no reason not to see what a
    running relay does.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_bytes())
        store = document.get("store", StoreModel().spool)
        parts = store if isinstance(store, dict) else {"spool": store}
        kind, _, folder = str(parts.get("spool", StoreModel().spool)).partition(":")
        if is_shared(f"{kind}:"):
            kind, folder = "sqlite", str(parts.get("folder", StoreModel().folder))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return None
    if kind != "sqlite" or not folder or "$" in folder:
        return None
    return Site(directory=Path(folder), state_directory=Path(folder), shards=())


def workers_of(config: Config) -> int:
    """Processes to run."""
    if config.workers == "auto":
        return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, MAX_WORKERS)
    return int(config.workers)


def _folder(place: values.StorePlace, key: str, shared: Path) -> Path:
    """`shared`: where the files lie that a relay with a store elsewhere still has."""
    if place.kind == "memory":
        raise ConfigError(f"{key}: {place.kind} stores are not available in this version; use sqlite:FOLDER")
    return shared if place.kind == "redis" else place.path
