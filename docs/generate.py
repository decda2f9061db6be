"""Writes docs/reference/ from the code: `make docs`, or `python -m docs.generate`. A test compares."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"

NOTE = "<!-- Written from the code by `make docs`: change the code, not this file. -->\n"


def pages() -> dict[str, str]:
    """File name → text."""
    return {
        "config.md": config(),
        "cli.md": cli(),
        "metrics.md": metrics(),
        "events.md": events(),
        "api.md": api(),
    }


# Configuration


def config() -> str:
    from relay.config.models import Config
    from relay.config.models.traffic import NODE_CLASSES, NodeModel

    out = [
        "# Configuration\n", NOTE,
        ("Every key, its default and what it means. The same as one file that loads as it stands: "
        "[conf/examples/reference.yaml](../../conf/examples/reference.yaml). `relay schema` prints the JSON Schema.\n"),
        ("**required**: the key must be there. `-`: nothing is set. *secret*: never shown; best written as "
        "`${NAME}`, `${file:…}` or sealed.\n"),
        "## Top level\n",
        *_table(Config, ""),
    ]  # fmt: skip
    done: set[type[BaseModel]] = {Config}
    for name, field in Config.model_fields.items():
        for model in _models(field.annotation):
            if not issubclass(model, NodeModel):
                out += _section(model, field.alias or name, done)
    common = set(NodeModel.model_fields)
    out += ["## Nodes of every type\n", *_table(NodeModel, "", skip={"type"})]
    for field in NodeModel.model_fields.values():
        for model in _models(field.annotation):
            out += _section(model, f"node: {field.alias or ''}".rstrip(": "), done)
    for kind in NODE_CLASSES:
        model = NODE_CLASSES[kind]
        own = [name for name in model.model_fields if name not in common]
        out += [f"## `type: {kind}`\n", *(_table(model, "", skip=common) if own else ["Nothing of its own.\n"])]
        for name in own:
            for inner in _models(model.model_fields[name].annotation):
                out += _section(inner, f"{name} of a node", done)
    return "\n".join(out)


def _section(model: type[BaseModel], title: str, done: set[type[BaseModel]]) -> list[str]:
    """A model and those inside it, each once."""
    from relay.config.models.traffic import NodeModel

    if model in done or issubclass(model, NodeModel):
        return []
    done.add(model)
    out = [f"## `{title}`\n", f"{_flat(model.__doc__ or '')}\n", *_table(model, title)]
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            out += _section(inner, f"{title}: {field.alias or name}", done)
    return out


def _table(model: type[BaseModel], _title: str, skip: set[str] | None = None) -> list[str]:
    rows = ["| key | default | |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in (skip or ()):
            rows.append(f"| `{field.alias or name}` | {_default(field)} | {_cell(_about(field))} |")
    return [*rows, ""]


def _about(field: FieldInfo) -> str:
    from relay.config.reference import _choices

    text = _flat(field.description or "")
    choices = _choices(field.annotation)
    if choices and not all(f"`{choice}`" in text for choice in choices):
        text += f" One of: {', '.join(choices)}."
    return f"*secret* {text}" if _is_secret(field.annotation) else text


def _default(field: FieldInfo) -> str:
    from relay.config.reference import _text

    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "-"
    if isinstance(value, BaseModel) or (
        isinstance(value, tuple) and any(isinstance(each, BaseModel) for each in value)
    ):
        return "see there"
    return f"`{_cell(_text(value, field))}`"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


# Command line


def cli() -> str:
    from relay.cli import _COMMANDS
    from relay.cli import cli as main

    out = [
        "# Command line\n", NOTE,
        ("`relay -c FILE COMMAND`; the file is also `$RELAY_CONFIG`, else `conf/relay.yaml`. Exit codes are those of "
        "sysexits.h: 64 wrong arguments, 65 bad data, 69 not available, 73 cannot create, 74 trouble with files, 75 "
        "try again, 77 not permitted, 78 configuration.\n"),
    ]  # fmt: skip
    for name, (module, attribute, _) in _COMMANDS.items():
        out += _command(getattr(importlib.import_module(module), attribute), f"relay {name}")
    out += _command(main.commands["version"], "relay version")
    return "\n".join(out)


def _command(command: click.Command, path: str) -> list[str]:
    if isinstance(command, click.Group):
        out = [f"## `{path}`\n", f"{_help(command)}\n"]
        for name, inner in command.commands.items():
            out += _command(inner, f"{path} {name}")
        return out
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    out = [f"{'##' if path.count(' ') == 1 else '###'} `{path}`\n", f"    {usage}\n", f"{_help(command)}\n"]
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            rows.append(f"| `{_cell(record[0])}` | {_cell(_flat(record[1]))} |")
    return [*out, "| option | |", "|---|---|", *rows, ""] if rows else out


def _help(command: click.Command) -> str:
    text = command.help or command.short_help or ""
    return "\n\n".join(_flat(part) for part in text.split("\n\n"))


# Metrics and events


def metrics() -> str:
    from relay.metrics import DECLARED

    out = [
        "# Metrics\n", NOTE,
        ("At `/metrics` of the admin server, for Prometheus. Base units; labels come from the configuration and closed "
        "sets, never from addresses or words of peers. "
        "[deploy/prometheus/alerts.yml](../../deploy/prometheus/alerts.yml) "
        "and [deploy/grafana/relay.json](../../deploy/grafana/relay.json) use them.\n"),
        "| metric | kind | labels | |", "|---|---|---|---|",
    ]  # fmt: skip
    for each in DECLARED:
        name = f"{each.name}_total" if each.kind == "counter" else each.name
        labels = ", ".join(f"`{label}`" for label in each.labels) or "-"
        out.append(f"| `{name}` | {each.kind} | {labels} | {_cell(each.help)} |")
    return "\n".join([*out, ""])


def events() -> str:
    out = [
        "# Events\n", NOTE,
        ("What the log, `relay explain`, the event stream and webhooks call things. Events of sessions and those of "
        "the control process are in the log alone; `alert.…` also goes to the webhooks that `alerts.targets` name.\n"),
        "## Of the mail path\n",
        "| event | level | data | |", "|---|---|---|---|",
    ]  # fmt: skip
    out += ["| " + " | ".join(row) + " |" for row in _declared_events()]
    out += ["", "## Of the control process and the supervisor\n", "| event | level | data |", "|---|---|---|"]
    out += ["| " + " | ".join(row) + " |" for row in _told_events()]
    return "\n".join([*out, ""])


def _declared_events() -> Iterator[tuple[str, ...]]:
    tree = ast.parse((ROOT / "relay" / "events.py").read_text())
    (events,) = [each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == "Events"]
    for method in events.body:
        if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
            continue
        call = next(
            each for each in ast.walk(method)
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr == "_tell"
        )  # fmt: skip
        first = call.args[0]
        name = first.value if isinstance(first, ast.Constant) else "attempt.STATUS"
        level = "info" if len(call.args) < 2 else ast.unparse(call.args[1]).lower()
        level = re.sub(r"(\w+) if (.+) else (\w+)", r"\1, else \3", level)
        fields = [each.arg for each in method.args.kwonlyargs] + (["…"] if method.args.kwarg else [])
        data = ", ".join(f"`{each}`" if each != "…" else each for each in fields) or "-"
        yield f"`{name}`", level, data, _cell(_flat(ast.get_docstring(method) or ""))


def _told_events() -> Iterator[tuple[str, ...]]:
    """Calls such as `tell("warning", "webhook.failed", {…})`: name, level, data."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in sorted((ROOT / "relay").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or len(call.args) < 2:
                continue
            level, name = call.args[0], call.args[1]
            if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
                continue
            if not re.fullmatch(r"(admin|alert|webhook|supervisor|config)\.[a-z_]+", name.value):
                continue
            if not isinstance(level, ast.IfExp) and getattr(level, "value", "") not in ("info", "warning", "error"):
                continue
            said = level.value if isinstance(level, ast.Constant) else "error, else warning"
            found.setdefault(name.value, {}).setdefault(str(said), set()).update(_keys(call))
    for event, levels in sorted(found.items()):
        keys = sorted(set().union(*levels.values()))
        yield f"`{event}`", " or ".join(sorted(levels)), ", ".join(f"`{key}`" for key in keys) or "…"


def _keys(call: ast.Call) -> Iterator[str]:
    """Names of the data, where they stand in the call itself."""
    for each in [*call.args[2:3], *(keyword.value for keyword in call.keywords if keyword.arg is None)]:
        if isinstance(each, ast.Dict):
            yield from (key.value for key in each.keys if isinstance(key, ast.Constant))
    yield from (keyword.arg for keyword in call.keywords if keyword.arg)


# API


def api() -> str:
    document = openapi()
    out = [
        "# API\n", NOTE,
        ("Every path of the admin server; `GET /openapi.json` there, with a token, has the same with all schemas. "
        "How it is used: [../api.md](../api.md). Any refusal is `application/problem+json`: 401 without a token, 403 "
        "when its role is not enough, 404, 409, 412 and 422 as each path says, 429 and 503 with `Retry-After`.\n"),
    ]  # fmt: skip
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            out_of = by_tag.setdefault(operation.get("tags", ["other"])[0], [])
            out_of += _operation(path, method, operation)
    for tag, lines in by_tag.items():
        out += [f"## {tag}\n", *lines]
    return "\n".join(out)


def openapi() -> dict[str, Any]:
    """As a relay serves it."""
    from relay.admin.app import make_app
    from relay.admin.process import make_context
    from relay.app.settings import Settings
    from relay.config.load import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relay.yaml"
        path.write_text(f"version: 1\nhostname: relay.acme.example\nstore: sqlite:{folder}\n")
        found: dict[str, Any] = make_app(make_context(Settings(path, load(path)), lambda *_: None)).openapi()
    return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]


def _operation(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    text = _flat(operation.get("description") or operation.get("summary", ""))
    out = [f"### `{method.upper()} {path}`\n", f"{text}\n"]
    rows = []
    for parameter in operation.get("parameters", ()):
        where = f"{parameter['in']}{', required' if parameter.get('required') else ''}"
        about = _flat(parameter.get("description", ""))
        rows.append(
            f"| `{parameter['name']}` | {where} | {_cell(_schema(parameter.get('schema', {})))} | {_cell(about)} |"
        )
    if rows:
        out += ["| parameter | in | | |", "|---|---|---|---|", *rows, ""]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        out.append(f"Body: `{kind}`, {_schema(content.get('schema', {}))}.\n")
    codes = []
    for code, answer in operation["responses"].items():
        if not code.startswith("2"):
            continue
        shapes = [_schema(content.get("schema", {})) for content in answer.get("content", {}).values()]
        codes.append(f"{code} {' or '.join(dict.fromkeys(shapes))}".strip())
    return [*out, f"Answer: {'; '.join(codes)}.\n"]


def _schema(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_schema(each) for each in schema[key]))
    if "enum" in schema:
        return ", ".join(f"`{each}`" if each != "" else "empty" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = str(schema.get("type", "any value"))
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    default = schema.get("default")
    known = [f"default {default}"] if default not in (None, "", [], {}) else []
    inner = f" of {_schema(schema['items'])}" if kind == "array" and "items" in schema else ""
    return f"{kind}{inner}" + (f" ({', '.join([*bounds, *known])})" if bounds or known else "")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
