"""A disk that is full (R14) or fails (R03): no false promise, what was accepted leaves, and it recovers by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import Client, Ledger, Load, Refused, message_bytes, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import ControlRefused, Relay, wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]

MB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MB of its own; most of the 64 MB reserve of the spool is in it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    mounted = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=160m", "tmpfs", folder], capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Use up the disk but for `leave` octets; the file to remove again."""
    filler = folder / "filler"
    with filler.open("ab") as file:
        while (free := os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - leave) > 0:
            try:
                file.write(bytes(min(free, 4 * MB)))
                file.flush()
            except OSError:
                break
    return filler


def test_a_full_disk_refuses_new_mail_and_lets_accepted_mail_go(scene: Scene, small_disk: Path) -> None:
    """Not one octet free: 452 at MAIL, 100 accepted messages leave through a capped node, 250 within 10 s of space."""
    scene.excuse("")  # full stores are told as faults
    sink = scene.sink("one")
    relay = scene.relay([sink.node(caps={"hour": 1000})], store=f"sqlite:{small_disk}/var", spool={"min_free": "10MB"})
    (relay.directory / "var").symlink_to(small_disk / "var")
    ledger = Ledger()
    relay.cli("node", "pause", "one", "--reason", "to have a queue")
    wait_for(lambda: relay.node("one")["status"] == "paused", what="the pause")
    send_all(relay.port, [f"d{n}" for n in range(100)], ledger=ledger, sessions=4, size=20_000)
    filler = fill(small_disk, 0)
    time.sleep(1.1)  # the age at which the figure of free space is looked up anew
    with Client(relay.port) as client:
        at_mail = client.command("MAIL FROM:<app@acme.example>")
    wait_for(lambda: _resume(relay), what="room for the word of an operator")
    wait_for(lambda: len(sink.names()) >= 100, what="accepted mail to leave")
    relay.wait_empty()
    filler.unlink()
    began = time.monotonic()
    wait_for(lambda: _accepts(relay.port), seconds=10, what="acceptance after there is space again")
    took_s = time.monotonic() - began
    send_all(relay.port, [f"e{n}" for n in range(20)], ledger=ledger)
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, at_mail=at_mail[0], accepts_again_s=round(took_s, 1))
    assert at_mail[0] == 452, at_mail
    assert len(ledger.promised) == 120
    result.check(bound=0)


def test_a_disk_that_something_else_keeps_full(scene: Scene, small_disk: Path) -> None:
    """Under load a log eats each block that comes free, the reserve too: nothing is lost, no process needs to start
    anew, each second copy is named, and 250 comes within 10 s of space."""
    scene.excuse("")
    sink = scene.sink("one", lean=True)
    relay = scene.relay([sink.node(connections=4)], store=f"sqlite:{small_disk}/var", spool={"min_free": "10MB"})
    (relay.directory / "var").symlink_to(small_disk / "var")
    ledger = Ledger()
    pids = relay.workers()
    with Load(relay.port, (f"w{n}" for n in range(100_000)), ledger=ledger, sessions=4, size=20_000) as load:
        wait_for(lambda: len(ledger.promised) > 50, what="load")
        end = time.monotonic() + 4
        while time.monotonic() < end:
            filler = fill(small_disk, 0)
            time.sleep(0.002)
        filler.unlink()
        began = time.monotonic()
        so_far = len(ledger.promised)
        wait_for(lambda: len(ledger.promised) > so_far + 20, seconds=10, what="promises after there is space again")
        took_s = time.monotonic() - began
        load.stop()
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, promised=len(ledger.promised), refused=len(ledger.refused), accepts_again_s=round(took_s, 1))
    assert {answer[:3] for answer in ledger.refused.values()} <= {"452", "451", "421"}, set(ledger.refused.values())
    assert relay.workers() == pids
    result.check()


def _resume(relay: Relay) -> bool:
    """Without the command line, whose own files are on the full disk as well."""
    try:
        relay.ask("node_resume", name="one", by="test")
    except ControlRefused:
        return False
    return True


def _accepts(port: int) -> bool:
    with Client(port) as client:
        return client.command("MAIL FROM:<app@acme.example>")[0] == 250


def test_a_disk_that_fills_up_in_the_middle_of_a_message(scene: Scene, small_disk: Path) -> None:
    """Room at MAIL, none at the end of 20 MB: 452, no part of it stays, and small mail goes on."""
    scene.excuse("")
    sink = scene.sink("one", lean=True)
    relay = scene.relay([sink.node()], store=f"sqlite:{small_disk}/var", spool={"min_free": "1MB"})
    (relay.directory / "var").symlink_to(small_disk / "var")
    ledger = Ledger()
    fill(small_disk, 8 * MB)
    time.sleep(1.1)
    send_all(relay.port, ["large"], ledger=ledger, size=20 * MB)
    left = [path for folder in ("incoming", "bodies-0") for path in (small_disk / "var" / folder).rglob("*")]
    send_all(relay.port, [f"small{n}" for n in range(10)], ledger=ledger)
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, answer=ledger.refused.get("large"))
    assert ledger.refused["large"].startswith("452"), ledger.refused
    assert not [path for path in left if path.is_file() and path.stat().st_size], left
    assert len(ledger.promised) == 10
    result.check(bound=0)


def test_mail_accepted_before_leaves_while_less_is_free_than_must_stay(scene: Scene) -> None:
    """The same without a disk of its own: `min_free` above what any disk has."""
    sink = scene.sink("one")
    relay = scene.relay([sink.node(caps={"hour": 1})])
    ledger = Ledger()
    send_all(relay.port, [f"m{n}" for n in range(20)], ledger=ledger)
    relay.stop()
    pool = {**relay.config["pools"][0], "nodes": [sink.node()]}
    relay.write({**relay.config, "pools": [pool], "spool": {"min_free": "1000000GB"}})
    relay.start()
    relay.wait_empty()
    with Client(relay.port) as client:
        at_mail = client.command("MAIL FROM:<app@acme.example>")
    result = audit(ledger, relay, [sink])
    scene.result(result, at_mail=at_mail[0])
    assert at_mail[0] == 452
    result.check(bound=0)


@pytest.fixture
def failing_fsync(tmp_path: Path) -> tuple[Path, Path]:
    """A library to preload and the file that makes it fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to make fsync fail with")
    library = tmp_path / "failing_fsync.so"
    source = Path(__file__).with_name("failing_fsync.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library, tmp_path / "fail"


@pytest.mark.parametrize("size", [2_000, 600_000])
def test_no_promise_after_a_failed_fsync(scene: Scene, failing_fsync: tuple[Path, Path], size: int) -> None:
    """fsync fails for two seconds under load: 4xx, never 250 or 5xx; a fresh process goes on when it works again."""
    scene.excuse("")
    library, flag = failing_fsync
    sink = scene.sink("one", lean=True)
    relay = scene.relay([sink.node()], environment={"LD_PRELOAD": str(library), "FAIL_FSYNC": str(flag)}, workers=1)
    ledger = Ledger()
    with Load(relay.port, (f"f{n}" for n in range(100_000)), ledger=ledger, sessions=4, size=size) as load:
        wait_for(lambda: len(ledger.promised) > 20, what="mail before")
        pids = relay.workers()
        flag.touch()
        time.sleep(0.5)  # answers of before have arrived
        before = len(ledger.promised)
        time.sleep(1.5)
        after = len(ledger.promised)
        flag.unlink()
        wait_for(lambda: len(ledger.promised) > after + 20, what="mail afterwards")
        load.stop()
    relay.wait_empty()
    # What was refused after a failed fsync may have been kept all the same: its client sends it again.
    ledger.unclear |= set(ledger.refused)
    result = audit(ledger, relay, [sink])
    scene.result(result, promised=len(ledger.promised), refused=len(ledger.refused), false_250=after - before)
    assert after == before, "promises were made while no fsync succeeded"
    assert {answer[:3] for answer in ledger.refused.values()} <= {"451", "452", "421"}, set(ledger.refused.values())
    assert relay.workers() != pids, "the process that saw an fsync fail still believes its files"
    result.check()


def test_refusals_carry_their_codes(scene: Scene) -> None:
    """A message that is larger than any room is refused, and the session goes on."""
    sink = scene.sink("one", lean=True)
    relay = scene.relay([sink.node()], spool={"max_bytes": "1MB"})
    with Client(relay.port) as client:
        code, said = client.send(message_bytes("big", size=3 * MB))
        assert (code, said[:5]) == (452, "4.3.1"), (code, said)
        try:
            code, said = client.send(message_bytes("fits", size=1000))
        except Refused as refused:
            code, said = refused.code, refused.said
        assert code == 250, said
    relay.wait_empty()
    scene.result()
    assert sink.names() == ["fits"]
