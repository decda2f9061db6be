"""`relay run`: sockets, processes, and what ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from relay.app.settings import Settings
from relay.app.shared import Shared
from relay.app.stores import check_stores
from relay.app.worker import Worker as WorkerProcess
from relay.errors import ConfigError, RelayError
from relay.logs.log import LogSettings, configure
from relay.process.listen_sockets import ListenAddress, bind_all, inherited_sockets
from relay.process.run_lock import AlreadyRunning, RunLock
from relay.process.supervisor import Supervisor, Worker, WorkerContext

Companion = Callable[[Settings, LogSettings, WorkerContext], int]
"""Runs a process beside the workers to its end; its exit code."""


def serve(settings: Settings, companions: Mapping[str, Companion] | None = None) -> int:
    """Run the relay until it is told to stop; the exit code."""
    try:
        _make_folders(settings)
        settings.signer()
        check_stores(settings)
        for listener in settings.config.listeners:
            settings.tls_context(listener)
        addresses = [ListenAddress(*listener.bind) for listener in settings.config.listeners]
        sockets = bind_all(addresses, settings.workers, inherited=inherited_sockets())
        log_settings = replace(settings.log, redact_key=_redact_key(settings))
    except AlreadyRunning as error:
        sys.stderr.write(f"relay: {error}\n")
        return os.EX_UNAVAILABLE
    except _NoFolder as error:
        sys.stderr.write(f"relay: {error}\n")
        return os.EX_CANTCREAT
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"relay: {error}\n")
        return os.EX_CONFIG
    shared = Shared(settings.workers)
    log = configure(log_settings, threaded=False)
    for warning in settings.loaded.warnings:
        log.tell("warning", "config.warning", {"text": str(warning)})
    if os.geteuid() == 0:
        text = "the relay runs as root; give it a user of its own, and a port below 1024 by CAP_NET_BIND_SERVICE"
        log.tell("warning", "config.warning", {"text": text})
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # a log rotation that was meant for another program
        signal.signal(number, signal.SIG_IGN)

    def work(context: WorkerContext) -> int:
        return run_worker(settings, log_settings, context, shared)

    def clear(index: int, _status: int) -> None:
        shared.connections.clear(index)

    def beside(companion: Companion) -> Worker:
        return lambda context: companion(settings, log_settings, context)

    return Supervisor(
        work,
        sockets,
        drain_s=settings.config.drain,
        tell=log.tell,
        on_exit=clear,
        companions={name: beside(companion) for name, companion in (companions or {}).items()},
    ).run()


class _NoFolder(RelayError):
    """A folder of the store cannot be used."""


def _make_folders(settings: Settings) -> None:
    """The folders of the store, and the lock that keeps a second relay out. Raises AlreadyRunning, _NoFolder."""
    folder = settings.directory
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        RunLock(folder)
        folder = settings.state_directory
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _NoFolder(
            f"the folder {folder} of `store` cannot be used: {error.strerror or error}; give the user of the relay the "
            "right to write there, or name another folder"
        ) from error


def run_worker(settings: Settings, log_settings: LogSettings, context: WorkerContext, shared: Shared) -> int:
    """The body of one worker process."""
    log = configure(log_settings, bound={"worker": context.index} if settings.workers > 1 else None)
    worker = WorkerProcess(settings, context, shared, log)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(worker.run())
    except ConfigError as error:
        log.tell("error", "relay.fault", {"where": "configuration", "error": str(error)})
        return os.EX_CONFIG
    except RelayError as error:
        log.tell("error", "relay.fault", {"where": "start", "error": str(error)})
        return os.EX_TEMPFAIL
    finally:
        log.close()


def _redact_key(settings: Settings) -> bytes:
    """Key of the hashes that stand for recipients in the log; kept, so that they compare over restarts."""
    if not settings.config.log.redact_recipients:
        return b""
    path = settings.directory / "redact.key"
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(handle, secrets.token_bytes(32))
        os.close(handle)
    return path.read_bytes()


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
