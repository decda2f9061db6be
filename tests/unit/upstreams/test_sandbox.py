"""The sandbox: what it keeps, how it fails on request, and that it answers like a server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random

import pytest

from relay.envelope import BodyFile, Content
from relay.errors import UpstreamError
from relay.outcome import Outcome, Scope, Status
from relay.upstreams import sandbox as module
from relay.upstreams.base import Setting
from relay.upstreams.sandbox import Sandbox
from relay.upstreams.sandbox_options import SandboxOptions
from tests.fakes.upstream import BODY, HEAD, Rendered, kinds, outbound

OK = (Status.DELIVERED, Scope.RECIPIENT)
WHOLE = HEAD + b"\r\n" + BODY


def make(*, seed: int = 1, **options: object) -> Sandbox:
    moments = iter(range(1_700_000_000, 1_800_000_000))
    setting = Setting(ehlo="relay.example", clock=lambda: float(next(moments)), random=Random(seed))
    return Sandbox("box", SandboxOptions.model_validate(options), setting)


async def send(box: Sandbox, *recipients: str, within: float = 5.0, **more: object) -> list[Outcome]:
    message = outbound(*recipients, **more)  # type: ignore[arg-type]
    results = await box.deliver(message, deadline=asyncio.get_running_loop().time() + within)
    assert [r.address for r in results] == [r.address for r in message.recipients]
    return [r.outcome for r in results]


async def test_a_message_is_taken_as_rendered_and_answered_like_a_server_does() -> None:
    box = make()
    [outcome] = await send(box)
    assert (outcome.status, outcome.code, outcome.enhanced, outcome.phase) == (Status.DELIVERED, 250, "2.0.0", "dot")
    assert outcome.vendor_id == "01J0000000000000000000TEST"
    [message] = box.captured()
    assert (message.content, message.size, message.sender) == (WHOLE, len(WHOLE), "a@b.example")
    assert message.recipients == ("x@y.example",)
    assert box.taken == 1


async def test_only_the_newest_messages_are_kept() -> None:
    box = make(keep=3)
    for i in range(5):
        await send(box, f"r{i}@y.example")
    assert [m.recipients[0] for m in box.captured()] == ["r2@y.example", "r3@y.example", "r4@y.example"]
    assert box.taken == 5


async def test_memory_is_bounded_by_octets_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 3000)
    monkeypatch.setattr(module, "SHOWN_BYTES", 1000)
    path = tmp_path / "body"
    path.write_bytes(b"0123456\r\n" * 1000)
    box = make()
    for _ in range(5):
        await send(box, body=BodyFile(path, 9000))
    kept = box.captured()
    assert [len(m.content) for m in kept] == [1000] * 3
    assert kept[0].size == len(HEAD) + 2 + 9000
    assert kept[0].content.startswith(HEAD)


async def test_files_hold_the_content_octet_for_octet_beside_the_envelope(tmp_path: Path) -> None:
    box = make(directory=str(tmp_path / "new" / "box"), keep=2)
    for i in range(3):
        await send(box, f"r{i}@y.example", "\u00fc@y.example", sender="")
    files = sorted((tmp_path / "new" / "box").iterdir())
    assert [f.suffix for f in files] == [".eml", ".json"] * 2, "the oldest is gone and no temporary file is left"
    assert files[0].read_bytes() == WHOLE
    note = json.loads(files[1].read_text("utf-8"))
    assert note["recipients"] == ["r1@y.example", "\u00fc@y.example"]
    assert (note["sender"], note["node"], note["uncertain"]) == ("", "box", False)


async def test_a_file_that_cannot_be_written_is_the_nodes_trouble_and_leaves_nothing(tmp_path: Path) -> None:
    box = make(directory=str(tmp_path / "box"))
    (tmp_path / "box").rmdir()
    (tmp_path / "box").write_text("in the way")
    assert kinds(await send(box)) == [(Status.DEFERRED, Scope.NODE)]
    assert box.captured() == ()


def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UpstreamError, match="cannot be made"):
        make(directory=str(tmp_path / "file" / "box"))


@pytest.mark.parametrize(
    ("rule", "expected", "taken"),
    [
        ({"mode": "refuse"}, (Status.REFUSED, Scope.RECIPIENT), 0),
        ({"mode": "refuse", "reply": "554 5.7.1 Relay access denied"}, (Status.REFUSED, Scope.ACCOUNT), 0),
        ({"mode": "defer"}, (Status.DEFERRED, Scope.RECIPIENT), 0),
        ({"mode": "defer", "reply": "450 4.7.1 rate limit exceeded"}, (Status.DEFERRED, Scope.QUOTA), 0),
        ({"mode": "drop-after-dot"}, (Status.UNCERTAIN, Scope.MESSAGE), 1),
        ({"mode": "delay", "delay": "1ms"}, OK, 1),
        ({"mode": "delay", "delay": "1h"}, (Status.UNCERTAIN, Scope.MESSAGE), 1),
        ({"mode": "node-fault"}, (Status.DEFERRED, Scope.NODE), 0),
        ({"mode": "node-fault", "reply": "535 5.7.8 no"}, (Status.REFUSED, Scope.ACCOUNT), 0),
    ],
)
async def test_each_way_to_fail(rule: dict[str, object], expected: tuple[Status, Scope], taken: int) -> None:
    box = make(fail=[rule])
    [outcome] = await send(box, within=0.05)
    assert (outcome.status, outcome.scope) == expected
    assert outcome.attempted == (rule["mode"] != "node-fault")
    assert len(box.captured()) == taken
    assert all(m.uncertain == (expected[0] is Status.UNCERTAIN) for m in box.captured())


async def test_the_first_rule_that_fits_a_recipient_decides_about_it() -> None:
    box = make(fail=[{"mode": "refuse", "recipients": "*@refuse.example"}, {"mode": "defer", "recipients": "b*@*"}])
    outcomes = await send(box, "a@y.example", "b@REFUSE.example", "b@y.example", "c@y.example")
    assert kinds(outcomes) == [OK, (Status.REFUSED, Scope.RECIPIENT), (Status.DEFERRED, Scope.RECIPIENT), OK]
    assert box.captured()[0].recipients == ("a@y.example", "c@y.example")


async def test_a_rate_meets_its_share_and_repeats_with_its_seed() -> None:
    async def refused(seed: int) -> list[bool]:
        box = make(fail=[{"mode": "refuse", "rate": 0.3}], seed=seed + 100)
        box = Sandbox("box", SandboxOptions(fail=box._options.fail, seed=seed), Setting(ehlo="x"))
        return [(await send(box))[0].status is Status.REFUSED for _ in range(300)]

    first = await refused(7)
    assert first == await refused(7)
    assert first != await refused(8)
    assert 60 <= sum(first) <= 120


async def test_a_probe_tells_a_node_fault() -> None:
    assert (await make().probe()).outcome.status is Status.DELIVERED
    probe = await make(fail=[{"mode": "node-fault"}]).probe()
    assert (probe.outcome.status, probe.outcome.scope) == (Status.DEFERRED, Scope.NODE)
    assert (await make(fail=[{"mode": "refuse"}]).probe()).outcome.status is Status.DELIVERED


async def test_nothing_is_rendered_for_a_node_that_is_down() -> None:
    render = Rendered(Content(HEAD, BODY))
    await send(make(fail=[{"mode": "node-fault"}]), render=render)
    assert render.asked == []
