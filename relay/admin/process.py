"""The control process: what it is made of, how it starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from relay.admin.alerts.notify import Notifier
from relay.admin.alerts.store import Store as AlertStore
from relay.admin.alerts.targets import Targets
from relay.admin.alerts.watch import Alerts
from relay.admin.app import guarded, make_app
from relay.admin.audit import Audit
from relay.admin.context import Context, Current, Tell, site_now
from relay.admin.feed import Feed
from relay.admin.security.access import Access
from relay.admin.security.guess import Guesses
from relay.admin.services.own_mail import OwnMail
from relay.admin.webhooks.service import Webhooks
from relay.admin.webhooks.store import Store
from relay.admin.workers import Workers
from relay.app.settings import Settings
from relay.config import Config
from relay.config.models.admin import AdminModel
from relay.errors import ConfigError
from relay.logs.log import Log, LogSettings, configure
from relay.process.listen_sockets import ListenAddress, bind_all
from relay.process.supervisor import WorkerContext

STOP_S = 2
"""What requests have to end in when the process is told to stop; streams never end by themselves."""

NICE = 5
"""Where there are fewer cores than work, mail goes first."""

FIRST_TOKEN = "first-admin-token"  # noqa: S105 - the name of a file


def run_admin(settings: Settings, log_settings: LogSettings, process: WorkerContext) -> int:
    """The body of the control process; its exit code. 0: nothing to do, it is not started again."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    log = configure(log_settings, bound={"process": "admin"})
    try:
        admin = settings.config.admin
        sock = None
        if admin is not None:
            try:
                sock = bind_all([ListenAddress(*admin.bind)], 1)[0][0]
            except ConfigError as error:
                # Nobody asked for it on this very port: a second relay of this machine does without.
                chosen = "admin" in settings.config.model_fields_set
                log.tell("error" if chosen else "warning", "admin.unavailable", {"error": str(error)})
                if chosen:
                    return os.EX_TEMPFAIL
        if sock is None and not settings.config.webhooks and not settings.config.alerts.targets:
            return 0
        return asyncio.run(_serve(settings, log, process, admin, sock))
    finally:
        log.close()


async def _serve(
    settings: Settings, log: Log, process: WorkerContext, admin: AdminModel | None, sock: socket.socket | None
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(process.parent_fd, stop.set)
    context = make_context(settings, log.tell)
    async with asyncio.TaskGroup() as tasks:
        background = [
            tasks.create_task(context.webhooks.run(), name="webhooks"),
            tasks.create_task(context.alerts.run(), name="alerts"),
        ]
        if sock is not None and admin is not None:
            address = ListenAddress(*sock.getsockname()[:2])
            at = f"http{'s' if admin.cert else ''}://{address}/"
            await asyncio.to_thread(_first_token, context.access, settings.directory, log.tell, at)
            app = make_app(context)
            background.append(tasks.create_task(app.state.services.rates.run(), name="rates"))
            server = _Server(_config(context, admin, app))
            background.append(tasks.create_task(server.serve(sockets=[sock]), name="http"))
            log.tell("info", "admin.started", {"at": at})
        else:
            server = None
        process.ready()
        await stop.wait()
        if server is not None:
            server.should_exit = True
            await asyncio.wait([background.pop()], timeout=STOP_S + 1)
        for task in background:
            task.cancel()
    context.access.database.close()
    return 0


def make_context(settings: Settings, tell: Tell) -> Context:
    """Everything the services stand on. Opens nothing."""
    directory = settings.directory
    current = Current(settings.path, settings.loaded)
    access = Access(directory)
    feed = Feed(directory)
    webhooks = Webhooks(Store(directory), feed, settings.config, tell=tell)

    async def take_over() -> None:
        await webhooks.take_over((await current.look()).config)

    webhooks.on_reload = take_over
    workers = Workers(lambda: site_now(current, settings.site))
    audit = Audit(access.database)
    alert_store = AlertStore(directory)

    async def look() -> Config:
        return (await current.look()).config

    alerts = Alerts(
        alert_store,
        feed,
        workers,
        audit,
        Notifier(alert_store, Targets(OwnMail(workers), webhooks.post), lambda: current.config, tell),
        look=look,
        site=lambda: site_now(current, settings.site),
        tell=tell,
    )
    return Context(
        current=current,
        site=settings.site,
        workers=workers,
        access=access,
        audit=audit,
        guesses=Guesses(),
        feed=feed,
        webhooks=webhooks,
        alerts=alerts,
        tell=tell,
    )


class _Server(uvicorn.Server):
    """Signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def _config(context: Context, admin: AdminModel, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        guarded(app, context),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        lifespan="off",
        ws="none",
        http="h11",
        h11_max_incomplete_event_size=32 * 1024,
        limit_concurrency=500,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=STOP_S,
        proxy_headers=bool(admin.proxies),
        forwarded_allow_ips=[str(network) for network in admin.proxies] or "",
        ssl_certfile=admin.cert,
        ssl_keyfile=admin.key,
    )


def _first_token(access: Access, directory: Path, tell: Tell, at: str) -> None:
    """Who has no token yet gets one: on the terminal, or in a file that only the relay's user can read."""
    made = access.first()
    if made is None:
        return
    _, secret = made
    if sys.stderr.isatty():
        sys.stderr.write(
            f"\nrelay: the dashboard is at {at}\nrelay: log in with this admin token, shown only now: {secret}\n\n"
        )
        sys.stderr.flush()
        return
    path = directory / FIRST_TOKEN
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secret + "\n")
    tell("info", "admin.first_token", {"file": str(path), "hint": "read it, then remove the file"})
