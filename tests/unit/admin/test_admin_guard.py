"""Bodies at the door: counted while they come, given up when they stop, and never too many large ones at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from relay.admin.security import guard as door
from relay.admin.security.access import Access
from relay.admin.security.guard import BODY_LIMIT, LARGE_AT_ONCE, Guard

MB = b" " * BODY_LIMIT


def scope(**headers: str) -> dict[str, Any]:
    raw = [(b"host", b"localhost"), *((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())]
    return {"type": "http", "method": "POST", "path": "/api/v1/messages", "headers": raw, "client": ("127.0.0.1", 1)}


class App:
    """Reads the whole body, then waits until it may end."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.outcomes: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
        except HTTPException as error:
            self.outcomes.append(error.status_code)
            return
        self.outcomes.append(200)
        await self.may_end.wait()


def guard(app: App, tmp_path: Path) -> Guard:
    return Guard(app, access=Access(tmp_path), hosts=set, limit_of=lambda _: 3 * BODY_LIMIT)


def body(*pieces: bytes) -> Any:
    left = [{"type": "http.request", "body": piece, "more_body": n + 1 < len(pieces)} for n, piece in enumerate(pieces)]

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


async def send(_: Any) -> None:
    pass


async def test_a_body_is_counted_whatever_its_length_was_said_to_be(tmp_path: Path) -> None:
    app = App()
    await guard(app, tmp_path)(scope(content_length="5"), body(MB, MB, MB, b"x"), send)
    assert app.outcomes == [413]


async def test_large_bodies_wait_for_their_turn_elsewhere(tmp_path: Path) -> None:
    app = App()
    at = guard(app, tmp_path)
    tasks = [asyncio.ensure_future(at(scope(), body(MB, b"x"), send)) for _ in range(LARGE_AT_ONCE + 2)]
    await asyncio.wait(tasks, timeout=0.2)
    assert sorted(app.outcomes) == [200] * LARGE_AT_ONCE + [503] * 2
    app.may_end.set()
    await asyncio.gather(*tasks)
    await at(scope(), body(MB, b"x"), send)
    assert app.outcomes[-1] == 200


async def test_a_body_that_stops_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "BODY_PAUSE_S", 0.05)
    app = App()
    left = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive() -> Any:
        return left.pop() if left else await asyncio.Event().wait()

    await guard(app, tmp_path)(scope(), receive, send)
    assert app.outcomes == [408]
