"""`relay secret …`: secrets sealed in the YAML files. No command shows one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.common import fail, json_option, load_files, print_json
from relay.cli.text import print_table, say

if TYPE_CHECKING:
    from relay.config.load import Loaded
    from relay.config.secret_fields import SecretField
    from relay.config.yaml_edit import Text
    from relay.sealing.keyring import Keyring

_DEFAULT_KEY = Path("conf/secret.key")


@click.group()
def secret() -> None:
    """Make keys, and seal the secrets in the YAML files with them."""


@secret.command()
@click.option("--out", type=click.Path(path_type=Path), help=f"Key file; default {_DEFAULT_KEY}.")
@click.option("--rotate", is_flag=True, help="Put a new key before those in the file; the old ones still open.")
def keygen(out: Path | None, rotate: bool) -> None:
    """Make a key. Never overwrites, and never prints it."""
    from relay.sealing.keyring import new_key, parse_key

    path = out or _DEFAULT_KEY
    key = new_key()
    if rotate:
        from relay.config.key_source import read_key_file

        there = read_key_file(path)
        if there.fault:
            fail(f"nothing was changed: {there.fault}", os.EX_DATAERR)
        _write(path, f"{key}\n{path.read_text()}")
        say(f"{path} seals with key {parse_key(key).id} from now on, and still opens {', '.join(there.keyring.ids)}.")
        say("Seal everything anew with it, then take the old lines out of the file:\n  relay secret seal --again")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{path} exists and was left alone; --rotate adds a key to it, --out names another", os.EX_CANTCREAT)
    except OSError as error:
        fail(f"{path} cannot be made: {error.strerror}", os.EX_CANTCREAT)
    with os.fdopen(handle, "w") as file:
        file.write(f"{key}\n")
        file.flush()
        os.fsync(file.fileno())
    say(f"Key {parse_key(key).id} written to {path}. Keep a copy where the configuration is not.")
    say("Name it in the configuration, or in the environment as RELAY_SECRET_KEY_FILE:")
    click.echo(f"\nsecrets: {{key_file: {path}}}\n")
    say("Then seal what stands in the files:  relay secret seal")


@secret.command()
@click.pass_obj
def encrypt(config: str) -> None:
    """Read a secret (hidden, or from standard input) and print it sealed, to be pasted into a file."""
    keyring = _keyring(config)
    click.echo("${" + _guarded(lambda: keyring.seal(_ask("Secret"))) + "}")


@secret.command("set")
@click.argument("node")
@click.argument("key", required=False)
@click.pass_obj
def set_(config: str, node: str, key: str | None) -> None:
    """Read a secret (hidden, or from standard input) and write it, sealed, under KEY of NODE.

    KEY may be left out where the node's type has one secret; `oauth.client_secret` reaches inside.
    """
    from relay.config.yaml_edit import CannotEdit, file_where, has, text_of

    loaded = load_files(config)
    keyring = _keyring(config)
    path = _key_of(loaded, node, key)
    found = file_where(loaded.files, lambda text: any(text_of(n, "name") == node for n in _written_nodes(text)))
    if found is None:
        fail(f"node {node} is in none of the files as plain YAML; edit it by hand", os.EX_CONFIG)
    value = _ask(f"{node}.{'.'.join(path)}")
    sealed = "${" + _guarded(lambda: keyring.seal(value)) + "}"

    def change(text: Text) -> None:
        holder: Any = next(n for n in _written_nodes(text) if text_of(n, "name") == node)
        for part in path[:-1]:
            if not has(holder, part) or (holder := text.mapping(part, holder)) is None:
                raise CannotEdit(f"node {node} has no mapping {part}; write it first")
        text.set_text(path[-1], sealed, holder)

    def proof(after: Loaded) -> bool:
        from relay.config import values

        options: Any = values.options_of_nodes(after.config)[node]
        for part in path:
            options = getattr(options, part)
        return bool(options.get_secret_value() == value)

    _edit(config, found, change, proof)
    say(f"{node}.{'.'.join(path)} is sealed with key {keyring.writer.id if keyring.writer else ''} in {found}.")
    say("A running relay takes it over by `relay reload`.")


@secret.command()
@click.option("--again", is_flag=True, help="Also seal anew what an older key sealed.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sealed; exit 1 when there is something.")
@click.pass_obj
def seal(config: str, again: bool, dry_run: bool) -> None:
    """Replace every secret that stands in the YAML files as it is by its sealed form.

    Comments and layout stay; each file is replaced in one step, and only when the configuration says the same as
    before. Hashes, `${NAME}` and `${file:…}` are left alone.
    """
    from relay.config.secret_fields import Form, secret_fields

    loaded = load_files(config)
    fields = secret_fields(Path(config), loaded.config)
    keyring = None if dry_run and not again else _keyring(config)
    newest = keyring.writer.id if keyring and keyring.writer else ""

    def wanted(entry: SecretField) -> bool:
        old = entry.form is Form.SEALED and again and _sealed_with(entry) != newest
        return entry.form is Form.PLAIN or old

    todo = [entry for entry in fields if wanted(entry)]
    if dry_run:
        for entry in todo:
            say(f"{entry.place}: {entry.key}")
        say(f"{len(todo)} to be sealed." if todo else "Nothing is to be sealed.")
        sys.exit(1 if todo else 0)
    assert keyring is not None
    for file in dict.fromkeys(entry.place.file for entry in todo):
        here = [entry for entry in todo if entry.place.file == file]
        _seal_file(config, Path(file), here, keyring, loaded)
        for entry in here:
            say(f"{entry.place}: {entry.key} sealed with key {newest}")
    say(f"{len(todo)} sealed." if todo else "Nothing was to be sealed.")


@secret.command("list")
@json_option
@click.pass_obj
def list_(config: str, as_json: bool) -> None:
    """Where secrets stand and in which form; never what they are."""
    from relay.config.secret_fields import secret_fields

    rows = [
        {"key": entry.key, "place": str(entry.place), "form": str(entry.form), "origin": entry.origin}
        for entry in secret_fields(Path(config), load_files(config).config)
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["secret", "place", "form", "from"],
        [(row["key"], row["place"], row["form"], row["origin"] or "-") for row in rows],
        empty="There is no secret in the configuration.",
    )


def _seal_file(config: str, path: Path, entries: list[SecretField], keyring: Keyring, before: Loaded) -> None:
    def seal_value(value: str) -> str:
        return "${" + _guarded(lambda: keyring.seal(value)) + "}"

    sealed = {(entry.place.line - 1, entry.place.column - 1): seal_value(entry.value) for entry in entries}

    def change(text: Text) -> None:
        text.rewrite(sealed)

    def proof(after: Loaded) -> bool:
        return after.config == before.config

    _edit(config, path, change, proof)


def _sealed_with(entry: SecretField) -> str:
    return entry.origin.removeprefix("${sealed:v1:").partition(":")[0]


def _written_nodes(text: Text) -> list[Any]:
    inside = [node for pool in text.items("pools") for node in text.items("nodes", of=pool)]
    return inside + list(text.items("nodes"))


def _key_of(loaded: Loaded, node: str, key: str | None) -> tuple[str, ...]:
    """The path of a secret key of this node; ends the command when there is none."""
    from relay.config import values
    from relay.config.secret_names import secret_names

    nodes = values.options_of_nodes(loaded.config)
    if node not in nodes:
        fail(f"no node is called {node!r}; there are: {', '.join(sorted(nodes)) or 'none'}", os.EX_DATAERR)
    names = secret_names(type(nodes[node]))
    if key is None:
        plain = [name for name in names if len(name) == 1]
        if len(plain) == 1:
            return plain[0]
    chosen = tuple((key or "").split("."))
    if chosen not in names:
        there = ", ".join(".".join(name) for name in names) or "none"
        fail(f"name the key; secrets of node {node} are: {there}", os.EX_USAGE if key is None else os.EX_DATAERR)
    return chosen


def _keyring(config: str) -> Keyring:
    from relay.config.include import gather
    from relay.config.interpolate import Interpolation
    from relay.config.key_source import find_keys

    root = gather(Path(config), Interpolation(os.environ, Path())).root
    found = find_keys(root, os.environ, Path())
    if found.fault:
        fail(f"{found.fault}; `relay secret keygen` makes a key", os.EX_CONFIG)
    return found.keyring


def _ask(what: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=True, confirmation_prompt=True))
    text = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not text:
        fail("no secret on standard input", os.EX_USAGE)
    return text


def _guarded(work: Callable[[], str]) -> str:
    from relay.sealing.keyring import UnusableSeal

    try:
        return work()
    except UnusableSeal as fault:
        fail(str(fault), os.EX_CONFIG)


def _edit(config: str, path: Path, change: Callable[[Text], None], proof: Callable[[Loaded], bool]) -> None:
    from relay.config.change import edit
    from relay.config.yaml_edit import CannotEdit
    from relay.errors import ConfigError

    try:
        edit(Path(config), path, change, proof)
    except CannotEdit as error:
        fail(f"{path} was not changed: {error}", os.EX_CONFIG)
    except ConfigError as error:
        fail(f"{path} was not changed, because the result would not be valid:\n{error}", os.EX_CONFIG)
    except OSError as error:
        fail(f"{path} was not changed: it cannot be written: {error.strerror or error}", os.EX_CANTCREAT)


def _write(path: Path, text: str) -> None:
    """Beside and rename, for its owner alone."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        facts = path.stat()
        if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(temporary, facts.st_uid, facts.st_gid)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
