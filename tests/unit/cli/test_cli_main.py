"""What all commands share: quick help, exit codes of sysexits, one line instead of a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from relay.cli import _COMMANDS
from relay.cli import cli as group
from tests.unit.cli.conftest import Cli

HEAVY = ("pydantic", "asyncio", "sqlite3", "relay.config", "relay.app", "relay.control", "relay.delivery", "structlog")


def commands() -> list[list[str]]:
    """Every command with its subcommands."""
    found = [[]]
    with click.Context(group) as context:
        for name in group.list_commands(context):
            found.append([name])
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                found += [[name, sub] for sub in command.list_commands(context)]
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_help_of_every_command_says_what_it_does(cli: Cli, path: list[str]) -> None:
    ended = cli(*path, "--help")
    assert ended.code == 0
    assert ended.out.startswith("Usage: relay")
    assert len(ended.out.splitlines()) > 4


def test_every_command_has_the_summary_that_the_list_gives_it(cli: Cli) -> None:
    listed = cli("--help").out
    with click.Context(group) as context:
        for name, (_, _, text) in _COMMANDS.items():
            assert text in listed
            assert group.get_command(context, name) is not None


@pytest.mark.parametrize("args", [["--help"], ["version"], ["status", "--help"], ["queue", "list", "--help"]])
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    script = (
        "import sys\nfrom relay.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("HEAVY []\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["stauts"], "Did you mean 'status'?"),
        (["quite-wrong"], "No such command"),
        (["queue", "list", "--limit", "none"], "--limit"),
        (["queue", "list", "--limit", "0"], "--limit"),
        (["queue", "retry"], "name messages by id"),
        (["queue", "drop", "01J"], "--yes"),
        (["node", "test"], "--all"),
        (["node", "test", "a", "--all"], "--all"),
        (["node", "pause", "a"], "--reason"),
        (["node", "pause", "a", "--reason", "x", "--for", "soon"], "not a duration"),
        (["explain"], "MESSAGE_ID"),
        (["send"], "RECIPIENT"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_arguments_are_64_and_tell_what_is_right(cli: Cli, args: list[str], said: str) -> None:
    ended = cli(*args)
    assert ended.code == os.EX_USAGE
    assert said in ended.err
    assert not ended.out


@pytest.mark.parametrize("args", [["status"], ["queue", "list"], ["bridge", "list"], ["run"], ["check"]])
def test_a_configuration_that_is_not_there_is_78_and_says_how_to_get_one(cli: Cli, args: list[str]) -> None:
    ended = cli("-c", "nowhere.yaml", *args)
    assert ended.code == os.EX_CONFIG
    assert "nowhere.yaml does not exist" in ended.err
    assert "relay init" in ended.err


def test_the_configuration_is_named_by_the_option_else_by_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_CONFIG", "by-environment.yaml")
    assert "by-environment.yaml" in cli("check").err
    assert "by-option.yaml" in cli("-c", "by-option.yaml", "check").err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (RuntimeError("a bug"), os.EX_SOFTWARE, "RELAY_DEBUG=1"),
        (PermissionError(13, "Permission denied", "/var/x"), os.EX_NOPERM, "/var/x: Permission denied"),
        (OSError(28, "No space left on device", "/var/x"), os.EX_IOERR, "/var/x: No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_whatever_happens_is_one_line_and_a_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str
) -> None:
    def fail(_: object) -> None:
        raise raised

    monkeypatch.delenv("RELAY_DEBUG", raising=False)
    monkeypatch.setattr("relay.cli.config.print_json", fail)
    ended = cli("schema")
    assert ended.code == code
    assert said in ended.err


def test_a_reader_that_has_seen_enough_is_no_error(config: Path) -> None:
    """`relay schema | head -1`."""
    command = f"{sys.executable} -m relay schema | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "{"
