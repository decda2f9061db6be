"""What the commands share: loading the configuration, reaching the relay, errors and exit codes.

Imports nothing of the relay until it is needed, so that `--help` of any command is quick.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from relay.cli.text import say

if TYPE_CHECKING:
    from relay.app.settings import Settings
    from relay.config.load import Loaded
    from relay.control.client import RemoteShard, Shard

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_EXIT = {"try-again": os.EX_TEMPFAIL, "not-permitted": os.EX_NOPERM, "unknown-name": os.EX_DATAERR, "invalid": 78}
"""Exit code by kind of `ControlError`; all others are EX_UNAVAILABLE."""


def fail(text: str, code: int) -> NoReturn:
    """One error, on stderr, and the end."""
    say(f"relay: {text}", error=True)
    sys.exit(code)


def load_files(path: str) -> Loaded:
    """The configuration, or all its faults on stderr and exit 78."""
    from relay.config.load import load
    from relay.errors import ConfigError

    try:
        return load(Path(path))
    except ConfigError as error:
        say(str(error), error=True)
        sys.exit(os.EX_CONFIG)


def load_config(path: str) -> Settings:
    """Like `load_files`, with everything derived from it. Imports most of the relay."""
    from relay.app.settings import Settings

    return Settings(Path(path), load_files(path))


@asynccontextmanager
async def shards(path: str, *, lasting: bool = False) -> AsyncIterator[Sequence[Shard]]:
    """The shards of the relay of this configuration, running or not; see `app.offline.open_relay`.

    A configuration that does not validate ends the command with its faults, unless the relay runs: then it is reached
    all the same, with a word on stderr.
    """
    from relay.app.offline import open_relay
    from relay.config.load import load
    from relay.errors import ConfigError

    async with AsyncExitStack() as stack:
        try:
            opened = open_relay(Path(path), load(Path(path)), lasting=lasting)
        except ConfigError as error:
            yield await _in_spite_of(error, path, stack)
        else:
            yield await stack.enter_async_context(opened)


@asynccontextmanager
async def workers(path: str) -> AsyncIterator[Sequence[RemoteShard]]:
    """Only the running workers; opens no file of the relay. Like `shards` when the configuration does not validate."""
    from relay.app.offline import running_workers
    from relay.app.site import site_of
    from relay.config.load import load
    from relay.errors import ConfigError

    async with AsyncExitStack() as stack:
        try:
            opened = running_workers(site_of(load(Path(path)).config))
        except ConfigError as error:
            yield await _in_spite_of(error, path, stack)
        else:
            yield await stack.enter_async_context(opened)


async def _in_spite_of(error: Exception, path: str, stack: AsyncExitStack) -> list[RemoteShard]:
    from relay.app.offline import running_workers
    from relay.app.site import guess_site

    site = guess_site(Path(path))
    found = await stack.enter_async_context(running_workers(site)) if site else []
    if not found:
        say(str(error), error=True)
        sys.exit(os.EX_CONFIG)
    say(
        f"warning: {path} is not usable as it is now; `relay check` tells why. The relay runs on what it had read.",
        error=True,
    )
    return found


def any_of(found: Sequence[Shard]) -> Shard:
    """A shard to ask about what all share; a running one if there is any."""
    return next((shard for shard in found if shard.running), found[0])


async def ask_all(found: Sequence[Shard], operation: str, **args: Any) -> list[Any]:
    """The answers of all shards, in their order."""
    import asyncio

    return await asyncio.gather(*(shard.call(operation, **args) for shard in found))


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's coroutine; expected errors become one line and an exit code."""
    import asyncio

    from relay.control.protocol import ControlError
    from relay.errors import ConfigError, RelayError

    try:
        return asyncio.run(work())  # type: ignore[arg-type]
    except ControlError as error:
        fail(str(error), _EXIT.get(error.kind, os.EX_UNAVAILABLE))
    except RelayError as error:
        fail(str(error), os.EX_UNAVAILABLE)
    except ConfigError as error:
        fail(str(error), os.EX_CONFIG)


def print_json(value: Any) -> None:
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def operator_name() -> str:
    """Who gives the order, for the record: the login behind sudo, else the user, else the user's number."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user without a name
        return f"uid {os.getuid()}"
