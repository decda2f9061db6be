"""Commands on a relay that is stopped: its own files, opened by the real stores, with mail that waits."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from relay.envelope import Content, Facts, Lane, Message, Recipient
from relay.ids import IdSource
from relay.process.run_lock import RunLock
from relay.spool.sqlite import SqliteSpool
from relay.spool.sqlite_claim import Claim
from tests.unit.cli.conftest import Cli


def message(message_id: str, **changes: object) -> Message:
    fields: dict[str, object] = {
        "id": message_id,
        "bridge": "shop",
        "pool": "main",
        "lane": Lane.TRANSACTIONAL,
        "sender": "shop@acme.example",
        "recipients": (Recipient(address="a@dest.example"), Recipient(address="b@dest.example")),
        "received_at": time.time() - 90,
        "size": 1234,
        "facts": Facts(subject="Your \x1b[31morder"),
    }
    return Message(**{**fields, **changes})  # type: ignore[arg-type]


def fill(shard: str, *messages: Message) -> None:
    async def work() -> None:
        spool = SqliteSpool(Path("var"), shard=shard, ballast_bytes=0)
        await spool.start()
        for each in messages:
            await spool.store(each, Content(b"Subject: \x1b[31mhello\r\nX-Tab:\ta\r\n", b"body\r\n"), lease=False)
        await spool.close()

    asyncio.run(work())


@pytest.fixture
def ids(cli: Cli, config: Path) -> list[str]:
    """Two messages, one in the shard of the worker and one in a shard of a worker that there is no more."""
    source = IdSource(time.time)
    found = [source.next(), source.next()]
    fill("0", message(found[0]))
    fill("1", message(found[1], pool="main", sender=""))
    return found


def test_commands_that_look_leave_no_trace_where_a_relay_never_ran(cli: Cli, config: Path) -> None:
    for args in (["status"], ["queue", "list"], ["node", "list"], ["queue", "retry", "--pool", "main"]):
        assert cli(*args).code in (0, os.EX_DATAERR)
    assert cli("explain", "01M81GCFZ5F30000J93GJ9MS6R").code == os.EX_DATAERR
    assert cli("healthcheck").code == os.EX_UNAVAILABLE
    assert not Path("var").exists()


def test_a_pause_is_kept_even_if_the_relay_never_ran(cli: Cli, config: Path) -> None:
    assert cli("node", "pause", "box", "--reason", "not yet", "--for", "2h").code == 0
    (row,) = cli("node", "list", "--json").json
    assert (row["status"], row["pause_reason"]) == ("paused", "not yet")
    assert "not yet" in cli("node", "list").out
    assert cli("node", "resume", "box").out == "box is active.\n"
    assert cli("node", "resume", "box").out == "box was active already.\n"


def test_mail_of_workers_that_there_are_no_more_is_seen_and_reached(cli: Cli, ids: list[str]) -> None:
    assert [row["id"] for row in cli("queue", "list", "--json").json] == ids
    assert [row["id"] for row in cli("queue", "list", "--json", "--limit", "1").json] == ids[:1]
    status = cli("status").out
    assert status.startswith("The relay is stopped")
    assert cli("queue", "hold", ids[1], "--reason", "look").out == "1 message held.\n"
    (row,) = cli("queue", "list", "--standing", "held", "--json").json
    assert row["id"] == ids[1]
    assert row["reason"].endswith(": look")
    assert cli("queue", "retry", ids[1].lower()).out == "1 message will be tried when the relay starts.\n"
    assert cli("queue", "drop", "--yes", "--text", "DEST.example").out == "2 messages dropped.\n"
    assert cli("queue", "list").out == "The queue is empty.\n"
    assert [event["event"] for event in cli("explain", ids[1], "--json").json["story"]] == ["message.dropped"]


def test_explain_of_a_stopped_relay_tells_what_will_happen_and_when_it_is_given_up(cli: Cli, ids: list[str]) -> None:
    said = cli("explain", ids[0]).out
    assert "now: goes when the relay is started" in said
    assert "left: a@dest.example, b@dest.example" in said
    assert "gives up 20" in said
    assert "box eligible" in said
    cli("node", "pause", "box", "--reason", "broken disk")
    said = cli("explain", ids[0]).out
    assert "now: waits until" in said
    assert "box paused" in said
    assert "broken disk" in said
    (row, _) = cli("queue", "list", "--json").json
    assert row["state"] == "waiting"
    assert row["due"] > time.time()


def test_nothing_that_a_client_sent_reaches_the_terminal_as_control_characters(cli: Cli, ids: list[str]) -> None:
    for ended in (cli("queue", "show", ids[0]), cli("queue", "list"), cli("explain", ids[0])):
        assert ended.code == 0
        assert "\x1b" not in ended.out
    said = cli("queue", "show", ids[0]).out
    assert "X-Tab:    a" in said
    assert "received   20" in said
    assert "(1m 3" in said


def test_a_list_says_what_it_leaves_out(cli: Cli, ids: list[str]) -> None:
    assert "The first 1 of 2 in the queue" in cli("queue", "list", "--limit", "1").out
    assert cli("queue", "list", "--text", "nobody").out == "No message matches.\n"
    ended = cli("queue", "retry", "--text", "nobody")
    assert (ended.code, ended.out) == (os.EX_DATAERR, "0 messages will be tried when the relay starts.\n")
    ended = cli("queue", "show", "01M81GCFZ5F30000J93GJ9MS6R")
    assert ended.code == os.EX_DATAERR
    assert "relay explain 01M81GCFZ5F30000J93GJ9MS6R" in ended.err


def test_every_line_of_every_list_fits_into_100_columns(cli: Cli, ids: list[str], config: Path) -> None:
    name = "smtp-relay-7-of-frankfurt-east"
    config.write_text(config.read_text().replace("name: box", f"name: {name}"))
    cli("node", "pause", name, "--reason", "because " * 30)
    for args in (["status"], ["queue", "list"], ["node", "list"], ["pool", "list"], ["bridge", "list"]):
        assert max(map(len, cli(*args).out.splitlines())) <= 100, args
    assert max(map(len, cli("explain", ids[0]).out.splitlines())) <= 100


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.control.client.PATIENCE_S", 0.2)


@pytest.mark.usefixtures("impatient")
def test_a_relay_that_starts_or_stops_is_told_apart_from_a_stopped_one(cli: Cli, ids: list[str]) -> None:
    claim = Claim(Path("var"), "0")
    try:
        ended = cli("queue", "list")
    finally:
        claim.release()
    assert ended.code == os.EX_TEMPFAIL
    assert f"process {os.getpid()} holds var" in ended.err
    assert cli("queue", "list").code == 0


@pytest.mark.usefixtures("impatient")
def test_a_relay_whose_worker_restarts_just_now_is_not_taken_for_stopped(cli: Cli, ids: list[str]) -> None:
    lock = RunLock(Path("var"))
    try:
        ended = cli("status")
        second = cli("run")
    finally:
        lock.release()
    assert ended.code == os.EX_TEMPFAIL
    assert "restarting after a crash" in ended.err
    assert second.code == os.EX_UNAVAILABLE
    assert f"a relay runs on var already, as process {os.getpid()}" in second.err


def test_a_spool_of_a_newer_release_is_left_alone_and_said_so(cli: Cli, ids: list[str]) -> None:
    import sqlite3

    with sqlite3.connect("var/spool-0.db") as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    ended = cli("status")
    assert ended.code == os.EX_UNAVAILABLE
    assert "newer" in ended.err


def test_nodes_are_tested_for_real_without_a_running_relay(cli: Cli, config: Path, unused_tcp_port: int) -> None:
    text = config.read_text().replace("name: box, type: sandbox", "name: box, type: sandbox, directory: boxed")
    extra = f"      - {{name: gone, type: smtp, host: 127.0.0.1, port: {unused_tcp_port}, tls: none}}\n"
    config.write_text(text + extra)
    ended = cli("node", "test", "--all")
    assert ended.code == os.EX_UNAVAILABLE
    assert "ok   box" in ended.out
    assert "FAIL gone: connect:" in ended.out
    assert cli("node", "test", "box").code == 0
    assert [row["ok"] for row in cli("node", "test", "--all", "--json").json] == [True, False]
    ended = cli("node", "test", "nope")
    assert ended.code == os.EX_DATAERR
    assert "there are: box, gone" in ended.err
