"""Nodes in bulk: out as JSON, YAML or CSV, and in again.

In CSV a column is a key, with dots for what lies deeper (`caps.hour`); a cell is read as JSON where it is some, and as
text otherwise, so `25`, `true` and `["a", "b"]` are what they look like and a password of digits is written in quotes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, Literal

import orjson
import yaml

from relay.admin.refusals import Refused, refusal_of
from relay.admin.security.roles import Caller
from relay.admin.services.changes import read, unmasked
from relay.admin.services.nodes import NODE, Nodes

Format = Literal["json", "yaml", "csv"]
ROWS = 2000

Row = dict[str, Any]


class Exchange:
    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def export(self, form: Format) -> bytes:
        """All nodes as they are written in the files, secrets masked."""
        rows = [{"name": n["name"], "pool": n["pool"], **n["options"]} for n in await self._nodes.list()]
        match form:
            case "json":
                return orjson.dumps({"nodes": rows}, option=orjson.OPT_INDENT_2)
            case "yaml":
                return yaml.safe_dump({"nodes": rows}, sort_keys=False, allow_unicode=True).encode()
            case "csv":
                return to_csv(rows)

    async def take_in(
        self, caller: Caller, content: bytes, form: Format, *, dry_run: bool, update: bool, test: bool, force: bool
    ) -> Row:
        """Add nodes, each by itself; with `update` those that exist are changed. Every row has its own result."""
        rows = parse(content, form)
        if len(rows) > ROWS:
            raise Refused(422, f"more than {ROWS} nodes at once")
        known = {row["name"] for row in await self._nodes.list()}
        results = []
        for number, row in enumerate(rows):
            name = str(row.get("name", f"row {number + 1}"))
            exists = name in known
            try:
                if exists and not update:
                    raise Refused(409, "exists already; say update to change it")
                if dry_run:
                    if not exists:
                        read(NODE, unmasked(row, None))
                elif exists:
                    await self._nodes.update(caller, name, row, partial=False, test=test, force=force)
                else:
                    await self._nodes.create(caller, row, test=test, force=force)
                    known.add(name)
            except Exception as error:
                refused = refusal_of(error)
                if refused is None:
                    raise
                results.append(
                    {
                        "name": name[:100],
                        "status": "failed",
                        "detail": refused.detail,
                        "errors": [dict(each) for each in refused.errors],
                    }
                )
            else:
                results.append({"name": name, "status": "updated" if exists else "added", "detail": "", "errors": []})
        counts = {what: sum(result["status"] == what for result in results) for what in ("added", "updated", "failed")}
        return {"dry_run": dry_run, **counts, "rows": results}


def parse(content: bytes, form: Format) -> list[Row]:
    """The nodes of a file: a list, or a mapping with `nodes`. Raises Refused 400."""
    try:
        text = content.decode("utf-8-sig")
        if form == "csv":
            return from_csv(text)
        document = orjson.loads(text) if form == "json" else yaml.safe_load(text)
    except (UnicodeDecodeError, ValueError, csv.Error, RecursionError, yaml.YAMLError) as error:
        raise Refused(400, f"not readable as {form}: {str(error)[:300]}") from None
    listed = document.get("nodes") if isinstance(document, Mapping) else document
    if not isinstance(listed, list) or not all(isinstance(row, Mapping) for row in listed):
        raise Refused(422, "a list of nodes is expected, or a mapping with the key nodes")
    return [{str(key): value for key, value in row.items()} for row in listed]


def to_csv(rows: list[Row]) -> bytes:
    flat = [dict(_flat(row)) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue().encode()


def from_csv(text: str) -> list[Row]:
    rows = []
    for line in csv.DictReader(io.StringIO(text, newline="")):
        row: Row = {}
        for key, cell in line.items():
            if key is None or cell is None or isinstance(cell, list):
                raise ValueError("a line has more or fewer cells than the first one")
            if cell == "":
                continue
            inner = row
            *path, last = key.strip().split(".")
            for part in path:
                inner = inner.setdefault(part, {})
                if not isinstance(inner, dict):
                    raise ValueError(f"column {key}: {part} has a value of its own")  # noqa: TRY004
            inner[last] = _value(cell)
        rows.append(row)
    return rows


def _value(cell: str) -> Any:
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell


def _flat(row: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in row.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", _cell(value)))
    return found


def _cell(value: Any) -> str:
    if isinstance(value, str):
        # Text that would be read as something else is written as JSON text.
        return value if _value(value) == value else orjson.dumps(value).decode()
    return orjson.dumps(value).decode()
