"""Clients of every manner: that break off anywhere, talk across each other, close halfway, or bring very large mail."""

from __future__ import annotations

import base64
import quopri
import random
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import RECIPIENT, SENDER, Client, Ledger, Refused, dotted, envelope, message_bytes, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import resident_peak, wait_for
from tests.scenario.sink import name_of

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(90)]

MB = 2**20
CLOSES = 500
MAIL = sorted((Path(__file__).parents[1] / "data" / "mail").glob("*.eml"))


def test_clients_that_break_off_at_random_points_leave_whole_messages_or_none(scene: Scene) -> None:
    """R05: 500 closes, half-closes and resets between the first octet of a body and the 250."""
    sink = scene.sink("one", lean=True)
    relay = scene.relay([sink.node()], workers=2)
    ledger = Ledger()

    def breaker(number: int) -> None:
        rng = random.Random(number)
        for n in range(CLOSES // 8 + 1):
            name = f"x{number}-{n}"
            content = message_bytes(name, size=rng.choice([300, 3_000, 300_000]))
            ledger.sends(name, content, [RECIPIENT])
            _break_off(relay.port, ledger, name, dotted(content), rng)

    threads = [threading.Thread(target=breaker, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, promised=len(ledger.promised), unclear=len(ledger.unclear), arrived=result.arrived)
    assert len(ledger.promised) + len(ledger.unclear) >= CLOSES
    assert ledger.promised
    assert len(ledger.promised) < result.arrived < CLOSES, "the closes all fell on one side of the commit"
    assert not ledger.refused, ledger.refused
    result.check(bound=0)


def _break_off(port: int, ledger: Ledger, name: str, wire: bytes, rng: random.Random) -> None:
    """One transaction that ends in one of the ways a connection can end."""
    client = Client(port)
    client.write(envelope(SENDER, [RECIPIENT]))
    for code in (250, 250, 354):
        client.expect(code)
    # Most cuts fall around the end, where the commit is.
    cut = rng.choice([rng.randrange(len(wire)), len(wire) - rng.randrange(6), len(wire), len(wire)])
    way = rng.choice(["close", "reset", "half-close", "half-close and leave", "late close"])
    ledger.broke(name)
    try:
        client.write(wire[:cut])
        if way == "late close":
            time.sleep(rng.uniform(0, 0.01))
        if way.startswith("half-close"):
            client.socket.shutdown(socket.SHUT_WR)
        if way == "half-close":
            answer = client.reply()
            ledger.unclear.discard(name)
            ledger.answered(name, *answer)
    except OSError:
        pass
    finally:
        if way == "reset":
            client.reset()
        else:
            client.drop()


def test_fifty_sessions_at_once_never_mix(scene: Scene) -> None:
    """R37: RSET, refused recipients, aborted and repeated transactions in random order, in random pieces; what
    arrives has the sender, recipients and body of one transaction."""
    sinks = [scene.sink(name) for name in ("one", "two")]
    relay = scene.relay([sink.node() for sink in sinks], workers=2, limits={"errors": 1000})
    ledger = Ledger()
    senders: dict[str, str] = {}
    errors: list[BaseException] = []

    def session(number: int) -> None:
        try:
            _wander(relay.port, number, ledger, senders)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=session, args=[number]) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors[0]
    relay.wait_empty()
    result = audit(ledger, relay, sinks)
    scene.result(result, promised=len(ledger.promised))
    result.check(bound=0)
    assert len(ledger.promised) == 500
    mixed = []
    for transaction in (t for sink in sinks for t in sink.transactions()):
        name = name_of(transaction["head"])
        if transaction["from"] != senders[name] or sorted(transaction["to"]) != sorted(ledger.recipients[name]):
            mixed.append((name, transaction["from"], transaction["to"]))
    assert not mixed, mixed[:5]


def _wander(port: int, number: int, ledger: Ledger, senders: dict[str, str]) -> None:
    rng = random.Random(number)
    client = Client(port)
    for n in range(10):
        for detour in rng.sample(["rset", "bad rcpt", "abandoned", "no data", "noop"], rng.randrange(4)):
            match detour:
                case "rset":
                    client.command("RSET", 250)
                case "noop":
                    client.command("NOOP", 250)
                case "bad rcpt":
                    client.command(f"MAIL FROM:<wrong{number}@acme.example>", 250)
                    client.command("RCPT TO:<not an address>")
                    client.command("RSET", 250)
                case "abandoned":
                    client.command(f"MAIL FROM:<abandoned{number}@acme.example>", 250)
                    client.command(f"RCPT TO:<abandoned{number}@example.net>", 250)
                    client.command("RSET", 250)
                case "no data":
                    client.command("DATA")
        name = f"i{number}-{n}"
        sender = f"s{number}-{n}@acme.example"
        recipients = [f"r{number}-{n}-{k}@example.net" for k in range(rng.randrange(1, 4))]
        content = message_bytes(name, size=rng.choice([200, 2_000, 20_000]))
        ledger.sends(name, content, recipients)
        senders[name] = sender
        for line in envelope(sender, recipients).splitlines(keepends=True):
            middle = rng.randrange(len(line))
            client.write(line[:middle])
            client.write(line[middle:])
            client.expect(250, 354)
        wire = dotted(content)
        middle = rng.randrange(len(wire))
        client.write(wire[:middle])
        time.sleep(rng.uniform(0, 0.01))
        client.write(wire[middle:])
        ledger.answered(name, *client.reply())
    client.close()


def test_what_leaves_is_what_came(scene: Scene) -> None:
    """R38: the whole corpus; body and every original header field in its order, octet for octet."""
    sink = scene.sink("one")
    relay = scene.relay([sink.node()])
    ledger = Ledger()
    with Client(relay.port) as client:
        for path in MAIL:
            content = path.read_bytes()
            options = " BODY=8BITMIME" + (" SMTPUTF8" if path.stem == "smtputf8" else "")
            client.command(f"MAIL FROM:<{SENDER}>{options}", 250)
            client.command(f"RCPT TO:<{path.stem}@example.net>", 250)
            client.command("DATA", 354)
            client.write(dotted(content))
            ledger.answered(path.stem, *client.reply())
    relay.wait_empty()
    arrived = {
        t["to"][0].partition("@")[0]: t["content"].encode("utf-8", "surrogateescape") for t in sink.transactions()
    }
    faults = [
        fault
        for path in MAIL
        if path.stem in ledger.promised
        for fault in _differences(path.stem, path.read_bytes(), arrived.get(path.stem))
    ]
    scene.result(messages=len(MAIL), refused=ledger.refused, differences=len(faults))
    assert not faults, "\n".join(faults[:20])
    assert not ledger.refused, ledger.refused
    assert len(sink.transactions()) == len(MAIL)


def _no_header(sent: bytes, got: bytes) -> bool:
    """What was no header section, or an empty one, has become the body, untouched."""
    return got.endswith(b"\r\n\r\n" + sent.removeprefix(b"\r\n"))


def _mbox(sent: bytes, got: bytes) -> bool:
    """The line of a mailbox file is gone, the rest is there."""
    return got.endswith(sent.partition(b"\r\n")[2])


def _refolded(sent: bytes, got: bytes) -> bool:
    return b"".join(sent.split()) in b"".join(got.split())


def _encoded(sent: bytes, got: bytes) -> bool:
    body = got.partition(b"\r\n\r\n")[2]
    return quopri.decodestring(body) == sent.partition(b"\r\n\r\n")[2] and len(max(body.split(b"\r\n"), key=len)) <= 998


REPAIRED = {
    "body-only": _no_header,
    "first-line-blank-begun": _no_header,
    "text-as-head": _no_header,
    "mbox-line": _mbox,
    "long-header": _refolded,
    "long-line-5000": _encoded,
}
"""What no server would take as it is; even there nothing may get lost."""

REMOVED = re.compile(
    rb"(?i)(x-virtual-mta|x-feedtype|x-zone|x-serverid|x-relay-[a-z-]+|bcc|resent-bcc|return-path)[ \t]*:"
)
FIELD = re.compile(rb"[^\r\n]+\r\n(?:[ \t][^\r\n]*\r\n)*")


def _differences(name: str, sent: bytes, got: bytes | None) -> list[str]:
    if got is None:
        return [f"{name}: did not arrive"]
    if not sent.endswith(b"\r\n"):
        sent += b"\r\n"
    head, _, body = sent.partition(b"\r\n\r\n")
    got_head, _, got_body = got.partition(b"\r\n\r\n")
    if name in REPAIRED:
        return [] if REPAIRED[name](sent, got) else [f"{name}: more changed than its repair"]
    faults = [] if body == got_body else [f"{name}: body of {len(body)} octets became {len(got_body)}"]
    fields = iter(FIELD.findall(got_head + b"\r\n"))
    for field in FIELD.findall(head + b"\r\n"):
        if not REMOVED.match(field) and not any(field == other for other in fields):
            faults.append(f"{name}: header field changed, moved or gone: {field[:80]!r}")
            break
    return faults


def test_a_client_that_pipes_everything_and_shuts_down_is_heard_out(scene: Scene) -> None:
    """The whole session in one write, then FIN, as `printf … | nc -N` does; in one piece and octet by octet."""
    sink = scene.sink("one")
    relay = scene.relay([sink.node()])
    token = base64.b64encode(b"\0app\0app-password")
    ledger = Ledger()
    answers = {}
    for way in ("at once", "slowly"):
        name = f"piped-{way.replace(' ', '-')}"
        content = message_bytes(name, size=400)
        ledger.sends(name, content, [RECIPIENT])
        wire = b"EHLO pipe\r\nAUTH PLAIN " + token + b"\r\n" + envelope(SENDER, [RECIPIENT]) + dotted(content)
        with socket.create_connection(("127.0.0.1", relay.port), timeout=20) as pipe:
            pipe.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if way == "at once":
                pipe.sendall(wire + b"QUIT\r\n")
            else:
                for octet in wire + b"QUIT\r\n":
                    pipe.send(bytes([octet]))
            pipe.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: pipe.recv(65536), b"")).decode()
        codes = re.findall(r"(?m)^(\d{3}) ", said)
        answers[way] = codes
        queued = re.search(r"(?m)^250 (2\.0\.0 Ok: queued as \S+)\r$", said)
        ledger.answered(name, 250 if queued else 0, queued[1] if queued else said)
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, answers=answers)
    assert set(map(tuple, answers.values())) == {("220", "250", "235", "250", "250", "354", "250", "221")}, answers
    assert len(ledger.promised) == 2
    result.check(bound=0)


def test_very_large_messages_pass_whole_in_little_memory(scene: Scene) -> None:
    """One of 24 MB, then 20 of 5 MB at once: all arrive unchanged, and the worker stays under 300 MB."""
    sink = scene.sink("one", lean=True)
    relay = scene.relay([sink.node(connections=10)])
    (pid,) = relay.workers()
    idle = resident_peak(pid)
    ledger = Ledger()
    send_all(relay.port, ["huge"], ledger=ledger, size=24 * MB)
    wait_for(lambda: sink.names() == ["huge"], what="the huge one")
    send_all(relay.port, [f"l{n}" for n in range(20)], ledger=ledger, sessions=20, size=5 * MB)
    relay.wait_empty()
    peak = resident_peak(pid)
    result = audit(ledger, relay, [sink])
    with Client(relay.port) as client:
        too_large = client.command(f"MAIL FROM:<{SENDER}> SIZE={26 * MB}")
    scene.result(result, idle_mb=idle // MB, peak_mb=peak // MB)
    assert len(ledger.promised) == 21, ledger.refused
    assert sorted(sink.names()) == sorted(ledger.promised)
    assert too_large[0] == 552
    assert peak < 300 * MB
    result.check(bound=0)


def test_a_message_over_the_limit_is_refused_after_it_was_read(scene: Scene) -> None:
    sink = scene.sink("one", lean=True)
    relay = scene.relay([sink.node()], limits={"size": "1MB"})
    with Client(relay.port) as client:
        try:
            code, said = client.send(message_bytes("over", size=2 * MB))
        except Refused as refused:
            code, said = refused.code, refused.said
        again = client.send(message_bytes("under", size=MB // 2))
    relay.wait_empty()
    scene.result(answer=f"{code} {said}")
    assert code == 552
    assert again[0] == 250
    assert sink.names() == ["under"]
