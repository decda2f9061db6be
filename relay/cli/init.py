"""`relay init`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.common import fail
from relay.cli.text import say, wrapped

if TYPE_CHECKING:
    from relay.cli.first_config import FirstNode
    from relay.cli.questions import Question

_TLS_MODES = ["none", "opportunistic", "starttls", "implicit"]


class _NoAnswer(Exception):
    """Standard input has ended, and the answer is needed."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("conf"))
@click.option("--type", "kind", metavar="TYPE", help="Type of the first node: smtp, sandbox, or a vendor's API.")
@click.option("--preset", help="For smtp: a well-known server, for example gmail, outlook or ses-smtp.")
@click.option("--host", help="SMTP server to relay through.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port.")
@click.option("--tls", type=click.Choice(_TLS_MODES), help="How it is reached.")
@click.option("--username", help="Login at the SMTP server; empty for none.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the node; may be repeated.")
@click.option("--node", "name", help="Name of the node; default: its preset or type.")
@click.option("--seal", is_flag=True, help="Seal secrets that are in the environment into the file.")
@click.option("--no-test", is_flag=True, help="Do not connect before writing.")
@click.option("--bridge", default="app", show_default=True, help="Name and login of the first bridge.")
@click.option("--bind", default="127.0.0.1:2525", show_default=True, help="Where to listen.")
@click.option("--cert", help="Certificate of the listener; with it STARTTLS is offered, and on port 465 implicit TLS.")
@click.option("--key", help="Its key.")
def init(
    directory: Path,
    kind: str | None,
    preset: str | None,
    host: str | None,
    port: int | None,
    tls: str | None,
    username: str | None,
    settings: tuple[str, ...],
    name: str | None,
    seal: bool,
    no_test: bool,
    bridge: str,
    bind: str,
    cert: str | None,
    key: str | None,
) -> None:
    """Write a first configuration into DIRECTORY; asks for what is not given. Never overwrites.

    Secrets are asked for (hidden) and sealed into the file, or come from the environment: NODE_KEY, for example
    SMARTHOST_PASSWORD. The node is tested before anything is written.
    """
    path = directory / "relay.yaml"
    if path.exists():
        fail(f"{path} exists and was left alone; name another DIRECTORY, or remove it", os.EX_CANTCREAT)
    if bool(cert) != bool(key):
        raise click.UsageError("--cert and --key go together")
    _check_preset(preset)
    given = {"preset": preset, "host": host, "port": port, "tls": tls, "username": username}
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None} | _pairs(settings)
    try:
        node = _ask_node(kind or ("smtp" if known else None), known, name)
    except (click.Abort, _NoAnswer):
        click.echo(err=True)
        raise click.UsageError(
            "no answer: say --type sandbox, or --type smtp --preset … or --host … --tls … --username …, or --type"
            " VENDOR --set key=value"
        ) from None
    _validate(node)
    if node.kind != "sandbox" and not no_test:
        _test(node)
    mode = "none" if not cert else "implicit" if bind.endswith(":465") else "starttls"
    token = _write(path, node, seal=seal, bridge=bridge, bind=bind, mode=mode, cert=cert, key=key)
    _tell(path, node, bridge, token, _first_admin_token(path, node))


def _check_preset(preset: str | None) -> None:
    from relay.config.faults import did_you_mean
    from relay.upstreams.smtp_presets import PRESETS

    if preset is not None and preset not in PRESETS:
        hint = did_you_mean(preset, PRESETS) or f"there are: {', '.join(PRESETS)}"
        raise click.BadParameter(f"there is no preset {preset!r}; {hint}", param_hint="--preset")


def _first_admin_token(path: Path, node: FirstNode) -> str:
    """A token for who sets the relay up; empty when its folder has some, or cannot be made now (then the relay makes
    one at its first start)."""
    import contextlib
    import sqlite3

    from relay.admin.security.access import Access
    from relay.app.site import site_of
    from relay.config.load import load

    with contextlib.suppress(OSError, sqlite3.Error):
        config = load(path, environment={**dict.fromkeys(node.missing(os.environ), "unset"), **os.environ}).config
        made = Access(site_of(config).directory).first()
        return made[1] if made else ""
    return ""


def _tell(path: Path, node: FirstNode, bridge: str, token: str, admin: str) -> None:
    me, config = _command(), shlex.quote(str(path))
    say(f"Wrote {path} and relay.schema.json beside it. The login of bridge {bridge}, shown only now:")
    say(f"  username  {bridge}\n  password  {token}\n")
    if missing := node.missing(os.environ):
        say("Put the secrets of the node into the environment first:")
        for variable in missing:
            say(f"  export {variable}=…")
    if any(key.startswith("oauth.") for key in node.keys):
        say("Ask for the consent of the mailbox's owner:")
        say(f"  {me} -c {config} oauth login {node.name}")
    say("Start the relay here, because its files go to var/ below this folder:")
    say(f"  {me} -c {config} run")
    if admin:
        say("Its admin server answers at http://127.0.0.1:8025/ to this token, shown only now:")
        say(f"  {admin}")
    say("In another terminal, in this folder, send a message and see where it went:")
    say(f"  {me} -c {config} send you@example.com --user {shlex.quote(bridge)} --password {token}")
    say(f"  {me} -c {config} status")


# Asking


def _pairs(settings: tuple[str, ...]) -> dict[str, Any]:
    from relay.cli.first_config import typed

    found = {}
    for pair in settings:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--set")
        try:
            found[key.strip()] = typed(value)
        except ValueError as error:
            raise click.BadParameter(f"{key}: {error}", param_hint="--set") from None
    return found


def _ask_node(kind: str | None, known: dict[str, Any], name: str | None) -> FirstNode:
    from relay.cli.first_config import FirstNode, typed
    from relay.cli.questions import Question, next_question
    from relay.config.secret_names import secret_names
    from relay.upstreams import KINDS, options_model

    if kind is None:
        kind = _answer(Question(key="type", text="Type of the first node", choices=tuple(KINDS), default="sandbox"))
    if kind not in KINDS:
        raise click.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}", param_hint="--type")
    model = options_model(str(kind))
    hidden = {".".join(path) for path in secret_names(model)}
    if shown := hidden & known.keys():
        raise click.BadParameter(
            f"{min(shown)} is a secret: a command line can be seen by others; give it in the environment",
            param_hint="--set",
        )
    if name is None:
        name = str(known.get("preset") or ("smarthost" if kind == "smtp" else kind))
    answers: dict[str, Any] = dict(known)
    draft = FirstNode(name=name, kind=str(kind), keys={})
    secrets: dict[str, str | None] = {}
    while (question := next_question(str(kind), model, answers)) is not None:
        if question.secret:
            # What the environment holds already need not be asked for.
            in_environment = bool(os.environ.get(draft.variable(question.key)))
            secrets[question.key] = None if in_environment else _secret_answer(question, draft)
            answers[question.key] = ""
            continue
        text = _answer(question)
        answers[question.key] = None if text is None else typed(text) if question.key == "port" else text
        if question.key == "preset":
            answers["preset"] = None if text == "none" else text
            if draft.name == "smarthost" and text != "none":
                draft = FirstNode(name=str(text), kind=str(kind), keys={})
    keys = {k: v for k, v in answers.items() if v is not None and v != "" and k not in secrets and k != "login"}
    kept = {
        k: v for k, v in secrets.items() if v is not None or k not in _optional(str(kind), model) or _is_set(draft, k)
    }
    return FirstNode(name=draft.name, kind=str(kind), keys=keys, secrets=kept)


def _is_set(node: FirstNode, key: str) -> bool:
    return bool(os.environ.get(node.variable(key)))


def _optional(kind: str, model: Any) -> set[str]:
    """Secrets that may be left out for good; the password of a login that was given is not one of them."""
    optional = {name for name, info in model.model_fields.items() if not info.is_required()}
    return (optional - {"password"} if kind == "smtp" else optional) | {"oauth.client_secret"}


def _answer(question: Question) -> str | None:
    """None for an optional question that was left empty."""
    default = "" if question.optional and question.default is None else question.default
    if not question.optional:
        kind = click.Choice(question.choices) if question.choices else _PORT if question.key == "port" else str
        return str(click.prompt(question.text, type=kind, default=default))
    if sys.stdin.isatty():
        text = str(click.prompt(question.text, default=default, show_default=bool(default)))
    else:
        click.echo(f"{question.text}: ", nl=False)
        text = sys.stdin.readline().rstrip("\r\n") or default or ""
    if text and question.choices and text not in question.choices:
        raise click.UsageError(f"{question.key} is one of {', '.join(question.choices)}")
    return text or None


def _secret_answer(question: Question, node: FirstNode) -> str | None:
    later = f"{question.text} (hidden; empty: give it later as {node.variable(question.key)})"
    if sys.stdin.isatty():
        return click.prompt(later, hide_input=True, default="", show_default=False) or None
    click.echo(f"{later}: ", nl=False)
    return sys.stdin.readline().rstrip("\r\n") or None


_PORT = click.IntRange(1, 65535)


# Testing and writing


def _validate(node: FirstNode) -> None:
    """Faults of the node, by its keys: there is no file yet whose lines could be named."""
    from pydantic import ValidationError

    from relay.config.models.traffic import NODE_CLASSES

    facts = node.facts({**dict.fromkeys(node.missing(os.environ), "unset"), **os.environ})
    try:
        NODE_CLASSES[node.kind].model_validate(facts)
    except ValidationError as fault:
        told = [
            f"  {'.'.join(map(str, error['loc'])) or node.name}: {error['msg'].removeprefix('Value error, ')}"
            for error in fault.errors(include_url=False, include_input=False)
        ]
        fail("nothing was written, because the result would not be valid:\n" + "\n".join(told), os.EX_CONFIG)


def _test(node: FirstNode) -> None:
    """Connect; when that fails, ask whether to go on, or end where nobody can be asked."""
    if missing := node.missing(os.environ):
        say(f"Not tested, because {' and '.join(missing)} is not known yet; later: relay node test {node.name}")
        return
    if any(key.startswith("oauth.") for key in node.keys):
        return  # there is no consent yet
    from relay.cli.trial import trial

    say(f"Testing {node.name} …")
    result = trial(node.kind, node.name, node.facts(os.environ))
    say(wrapped(result.answer, indent="     ", first="ok   " if result.ok else "FAIL "))
    if result.ok:
        return
    if result.advice:
        say(wrapped(result.advice, indent="       ", first="     → "))
    for step in result.steps:
        say(wrapped(step, indent=" " * 9, first=" " * 7))
    if not sys.stdin.isatty() or not click.confirm("Write the configuration all the same?", default=False):
        fail("nothing was written; --no-test writes without a test", os.EX_UNAVAILABLE)


def _write(
    path: Path, node: FirstNode, *, seal: bool, bridge: str, bind: str, mode: str, cert: str | None, key: str | None
) -> str:
    """Write the files and validate them; the password of the bridge. Nothing is left behind when they are not valid."""
    import socket

    from relay.bridges.credentials import generate_token
    from relay.cli.first_config import config_text, node_text
    from relay.config.load import load
    from relay.config.schema import config_schema
    from relay.errors import ConfigError

    token, stored = generate_token()
    listener = {"bind": bind, "tls": mode} | ({"cert": cert, "key": key} if cert and key else {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        fail(f"{path} cannot be made: {error.strerror}", os.EX_CANTCREAT)
    made: list[Path] = [path]
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            written, key_file = _secrets(node, path.with_name("secret.key"), made, seal=seal)
            file.write(
                config_text(
                    hostname=socket.getfqdn(),
                    key_file=key_file,
                    listener=listener,
                    bridge=bridge,
                    stored=stored,
                    node=node_text(node, written),
                )
            )
        load(path, environment={**dict.fromkeys(node.missing(os.environ), "unset"), **os.environ})
    except BaseException as error:
        for each in made:
            each.unlink(missing_ok=True)
        if isinstance(error, ConfigError):
            fail(f"nothing was written, because the result would not be valid:\n{error}", os.EX_CONFIG)
        raise
    import orjson

    schema = path.with_name("relay.schema.json")
    if not schema.exists():
        schema.write_bytes(orjson.dumps(config_schema()))
    return token


def _secrets(node: FirstNode, key_file: Path, made: list[Path], *, seal: bool) -> tuple[Mapping[str, str], str]:
    """What to write for each secret, and the key file to name, which is made when something is to be sealed."""
    from relay.config.faults import Place
    from relay.config.key_source import FILE_VARIABLE, KEY_VARIABLE, find_keys, read_key_file
    from relay.config.yaml12 import Mapping as Tree
    from relay.sealing.keyring import new_key

    values = {
        key: value or (os.environ.get(node.variable(key)) if seal else None) for key, value in node.secrets.items()
    }
    named = ""
    keys = None
    if any(values.values()):
        if os.environ.get(KEY_VARIABLE) or os.environ.get(FILE_VARIABLE):
            keys = find_keys(Tree(Place("")), os.environ, Path())
        else:
            named = str(key_file)
            if not key_file.exists():
                handle = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                made.append(key_file)
                with os.fdopen(handle, "w") as file:
                    file.write(f"{new_key()}\n")
            keys = read_key_file(key_file)
        if keys.fault:
            fail(f"nothing was written: {keys.fault}", os.EX_CONFIG)
    written = {
        key: "${" + (keys.keyring.seal(value) if keys and value else node.variable(key)) + "}"
        for key, value in values.items()
    }
    return written, named


def _command() -> str:
    """How this command was called, so that the printed lines can be pasted: `relay` only where the shell finds it."""
    called, found = Path(sys.argv[0]), shutil.which("relay")
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m relay"
    if found is not None and called.exists() and called.samefile(found):
        return "relay"
    return shlex.quote(sys.argv[0])
