"""The mail that sandbox nodes took: from their folders, and from the workers' memory where a node has no folder."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from relay.admin.context import Context
from relay.admin.refusals import not_found
from relay.admin.services.mail_view import MailView, look_at
from relay.admin.services.nodes import homes
from relay.config.models.traffic import node_type
from relay.upstreams.sandbox import SHOWN_BYTES

LISTED = 100
HEAD_OCTETS = 16 * 1024

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,140}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """A message that a sandbox took. `key` names it below its node; `taken_at`: epoch seconds."""

    key: str
    node: str
    id: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    taken_at: float
    uncertain: bool
    view: MailView


class Inbox:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def nodes(self) -> list[str]:
        """Names of the sandbox nodes."""
        return list(await self._folders())

    async def list(self, *, node: str = "", text: str = "") -> list[Caught]:
        """The newest first. `text`: part of subject, sender or a recipient."""
        folders = await self._folders()
        wanted = {name: folder for name, folder in folders.items() if node in ("", name)}
        found = await asyncio.to_thread(_listed, wanted)
        if any(folder is None for folder in wanted.values()):
            found += [each for each in await self._remembered() if wanted.get(each.node, Path()) is None]
        found.sort(key=lambda each: each.taken_at, reverse=True)
        return [each for each in found if _fits(each, text.lower())][:LISTED]

    async def show(self, node: str, key: str) -> Caught:
        """One message. Raises Refused 404."""
        folders = await self._folders()
        if node in folders and _KEY.fullmatch(key):
            folder = folders[node]
            if folder is None:
                found = [each for each in await self._remembered(key) if each.node == node]
            else:
                found = await asyncio.to_thread(_read, folder, [key], {node}, SHOWN_BYTES)
            if found:
                return found[0]
        raise not_found("captured message", key)

    async def _folders(self) -> Mapping[str, Path | None]:
        """Sandbox nodes with their folders; None for memory only."""
        config = (await self._context.current.look()).config
        found: dict[str, Path | None] = {}
        for _, node in homes(config):
            if node_type(node) == "sandbox":
                directory = getattr(node, "directory", None)
                found[node.name] = Path(directory) if directory else None
        return found

    async def _remembered(self, key: str = "") -> Sequence[Caught]:
        answers = await self._context.workers.each("captured", key=key, limit=LISTED)
        return [
            _caught(row, row["key"], base64.b64decode(row["content"]), row["size"])
            for answer in answers
            if not answer.error
            for row in answer.value
        ]


def _fits(caught: Caught, text: str) -> bool:
    return not text or any(text in each.lower() for each in (caught.view.subject, caught.sender, *caught.recipients))


def _listed(folders: Mapping[str, Path | None]) -> list[Caught]:
    """The newest of each folder. Blocking."""
    found = []
    for folder in {folder for folder in folders.values() if folder is not None}:
        names = {name for name, own in folders.items() if own == folder}
        keys = sorted((path.stem for path in folder.glob("*.eml") if not path.name.startswith(".")), reverse=True)
        found += _read(folder, keys[:LISTED], names, HEAD_OCTETS)
    return found


def _read(folder: Path, keys: Sequence[str], nodes: set[str], octets: int) -> list[Caught]:
    """Messages with their notes; what is damaged, gone or another node's is passed over. Blocking."""
    found = []
    for key in keys:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = orjson.loads((folder / f"{key}.json").read_bytes())
            if note["node"] not in nodes:
                continue
            path = folder / f"{key}.eml"
            with path.open("rb") as file:
                content = file.read(octets)
            found.append(_caught(note, key, content, path.stat().st_size))
    return found


def _caught(note: Mapping[str, object], key: str, content: bytes, size: int) -> Caught:
    recipients = note["recipients"]
    return Caught(
        key=key,
        node=str(note["node"]),
        id=str(note["id"]),
        sender=str(note["sender"]),
        recipients=tuple(str(each) for each in recipients) if isinstance(recipients, list) else (),
        size=size,
        taken_at=float(str(note["taken_at"])),
        uncertain=bool(note["uncertain"]),
        view=look_at(content),
    )
