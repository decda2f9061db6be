"""`relay run`: sockets, processes, and what ends them."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from relay.app.settings import Settings
from relay.app.shared import Shared
from relay.app.worker import Worker
from relay.errors import ConfigError, RelayError
from relay.listen_sockets import ListenAddress, bind_all
from relay.logs import configure
from relay.supervisor import Supervisor, WorkerContext


def serve(settings: Settings) -> int:
    """Run the relay until it is told to stop; the exit code."""
    try:
        settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.signer()
        for listener in settings.config.listeners:
            settings.tls_context(listener)
        sockets = bind_all([ListenAddress(*listener.bind) for listener in settings.config.listeners], settings.workers)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"relay: {error}\n")
        return os.EX_CONFIG
    shared = Shared(settings.workers)
    log = configure(settings.log, threaded=False)
    for warning in settings.loaded.warnings:
        log.tell("warning", "config.warning", {"text": str(warning)})

    def work(context: WorkerContext) -> int:
        return run_worker(settings, context, shared)

    def clear(index: int, _status: int) -> None:
        shared.connections.clear(index)

    return Supervisor(work, sockets, drain_s=settings.config.drain, tell=log.tell, on_exit=clear).run()


def run_worker(settings: Settings, context: WorkerContext, shared: Shared) -> int:
    """The body of one worker process."""
    log = configure(settings.log, bound={"worker": context.index} if settings.workers > 1 else None)
    worker = Worker(settings, context, shared, log)
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


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
