"""The main job, shown: `make demo`.

A relay with three local SMTP servers as nodes. One has a cap, one is killed halfway and comes back. 300 messages of a
mail corpus go in through three bridges with AUTH; everything that leaves is checked against what was promised. Exit
code 0 only when every message arrived exactly as promised.
"""

from __future__ import annotations

import re
import shutil
import smtplib
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import dkim  # noqa: E402

from relay.signing.keys import dns_record, keygen, load_key  # noqa: E402
from tests.scenario.harness import Relay, base_config, free_port, wait_for  # noqa: E402
from tests.scenario.sink import Sink  # noqa: E402

MESSAGES = 300
CAP = 40
DIES_AFTER = 100
UNVERIFIABLE = {"blank-before-colon", "malformed-lines", "from-trick", "two-from"}
"""Mails the relay passes on, but whose header section dkimpy refuses to read, or whose From fools the check below."""

EXPECTED = {
    "X-Virtual-MTA": "acme-42-mta4-pool-7",
    "X-Feedtype": "transactional",
    "X-Zone": "us-1",
    "X-ServerID": "mta4",
}


@dataclass
class Sent:
    name: str
    bridge: str
    content: bytes
    reply: str = ""


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="relay-demo-"))
    sinks = [Sink(directory, name) for name in ("alpha", "beta", "gamma")]
    port = free_port()
    records = make_keys(directory)
    relay = Relay(directory, configuration(directory, port, sinks), port)
    print("Three SMTP servers: alpha takes at most 40 messages an hour, beta will be killed, gamma stands steady.")
    try:
        for sink in sinks:
            sink.start()
        relay.start()
        print(f"The relay listens on 127.0.0.1:{port}; {MESSAGES} messages go in through 3 bridges with AUTH.\n")
        sent = submit_all(port, sinks[1])
        wait_for(lambda: relay.queued() == 0, seconds=120, what="an empty queue")
        return judge(relay, sinks, sent, records)
    finally:
        relay.close()
        for sink in sinks:
            sink.close()
        shutil.rmtree(directory, ignore_errors=True)


def make_keys(directory: Path) -> dict[bytes, bytes]:
    """Two DKIM keys for acme.example; returns the DNS records a verifier would find."""
    records = {}
    for selector, kind in (("rsa", "rsa"), ("ed", "ed25519")):
        pem, _ = keygen(kind, 2048)
        path = directory / f"{selector}.pem"
        path.write_bytes(pem)
        path.chmod(0o600)
        name, strings = dns_record(load_key(path, domain="acme.example", selector=selector))
        records[name.encode() + b"."] = "".join(strings).encode()
    return records


def configuration(directory: Path, port: int, sinks: list[Sink]) -> dict[str, Any]:
    alpha, beta, gamma = sinks
    nodes = [alpha.node(caps={"hour": CAP}), beta.node(), gamma.node(headers={"X-Node": "gamma"})]
    config = base_config(port, nodes, workers=2)
    config["headers"] = {"X-Relayed-By": "acme"}
    config["dkim"] = [
        {"domain": "acme.example", "selector": selector, "key_file": str(directory / f"{selector}.pem")}
        for selector in ("rsa", "ed")
    ]
    config["bridges"] = [
        {"name": name, "pool": "main", "credentials": [{"username": name, "password": f"{name}-secret"}]}
        for name in ("shop", "billing", "cron")
    ]
    return config


def corpus() -> list[bytes]:
    paths = sorted((ROOT / "tests/data/mail").glob("*.eml"))
    return [path.read_bytes() for path in paths if path.stem not in UNVERIFIABLE]


def submit_all(port: int, victim: Sink) -> list[Sent]:
    """Three clients at once; the victim is killed after a third of the mail and comes back a second later."""
    mails = corpus()
    sent = [
        Sent(f"m{n:03}", ("shop", "billing", "cron")[n % 3], marked(f"m{n:03}", mails[n % len(mails)], n))
        for n in range(MESSAGES)
    ]
    done = threading.Semaphore(0)

    def client(bridge: str) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as session:
            session.login(bridge, f"{bridge}-secret")
            for message in (m for m in sent if m.bridge == bridge):
                session.mail("bounces@acme.example", ["BODY=8BITMIME", "SMTPUTF8"])
                session.rcpt(f"{message.name}@example.net")
                code, said = session.data(message.content)
                message.reply = f"{code} {said.decode()}"
                done.release()
                time.sleep(0.04)

    threads = [threading.Thread(target=client, args=(bridge,)) for bridge in ("shop", "billing", "cron")]
    for thread in threads:
        thread.start()
    for _ in range(DIES_AFTER):
        done.acquire()
    print(f"…{DIES_AFTER} accepted: beta is killed now (kill -9).")
    victim.close()
    time.sleep(1)
    print("…beta is started again.")
    victim.start()
    for thread in threads:
        thread.join()
    return sent


def marked(name: str, content: bytes, number: int) -> bytes:
    """The message with a name to find it by, and a key of its own if it has one: the corpus is sent several times.
    Every third one tries to forge a control header."""
    content = content.replace(b"X-Relay-Idempotency-Key: ", b"X-Relay-Idempotency-Key: " + name.encode() + b"-")
    forged = b"X-Virtual-MTA: forged\r\nx-zone: nowhere\r\n" if number % 3 == 0 else b""
    return b"X-Test-Name: " + name.encode() + b"\r\n" + forged + content


def judge(relay: Relay, sinks: list[Sink], sent: list[Sent], records: dict[bytes, bytes]) -> int:
    """Compare what was promised with what arrived; the exit code."""
    arrived: dict[str, list[tuple[str, bytes]]] = {}
    for sink in sinks:
        for transaction in sink.transactions():
            content = transaction["content"].encode("utf-8", "surrogateescape")
            found = re.search(rb"(?m)^X-Test-Name: (\S+)\r$", content)
            assert found is not None, "a message arrived that nobody sent"
            arrived.setdefault(found[1].decode(), []).append((sink.name, content))
    uncertain = len(relay.events("attempt.uncertain"))
    per_node = Counter(node for copies in arrived.values() for node, _ in copies)
    print("\nWhere they went:")
    for sink in sinks:
        count = per_node[sink.name]
        print(f"  {sink.name:6} {count:4}  {'#' * (count // 3)}{'  (cap 40 an hour)' if sink.name == 'alpha' else ''}")
    print("\nWhat happened to the nodes:")
    for name in ("node.deactivated", "node.recovered"):
        for event in relay.events(name):
            print(f"  {event['event']:17} {event['node']}  {event.get('test_status', '')}")
    faults = [f"{m.name} was not accepted: {m.reply}" for m in sent if not m.reply.startswith("250")]
    faults += [f"{m.name} did not arrive" for m in sent if m.name not in arrived]
    copies = sum(len(found) - 1 for found in arrived.values())
    if copies > uncertain:
        faults.append(f"{copies} second copies, only {uncertain} can be explained by lost answers")
    signed = 0
    for message in sent:
        for _, content in arrived.get(message.name, ()):
            faults += check_headers(message, content)
            signed += check_signature(message, content, records, faults)
    if per_node["alpha"] > CAP:
        faults.append(f"alpha got {per_node['alpha']} messages over its cap of {CAP}")
    if not relay.events("node.deactivated") or not relay.events("node.recovered"):
        faults.append("beta was not taken out and brought back")
    code = relay.stop()
    if code:
        faults.append(f"the relay ended with exit code {code}")
    print(
        f"\n{len(arrived)} of {len(sent)} arrived, {copies} second copies, {signed} with DKIM signatures that verify,"
    )
    print("each with X-Virtual-MTA, X-Feedtype, X-Zone and X-ServerID exactly once, forged ones replaced.")
    example = next(content for _, content in arrived[sent[0].name])
    print("\nOne of them begins:\n" + "\n".join("  " + line for line in top(example)))
    for fault in faults[:20]:
        print(f"FAULT: {fault}")
    print(f"\n{'Every message arrived exactly as promised.' if not faults else f'{len(faults)} faults.'}")
    return 1 if faults else 0


def check_headers(message: Sent, content: bytes) -> list[str]:
    head = content.partition(b"\r\n\r\n")[0]
    faults = []
    for name, value in EXPECTED.items():
        found = re.findall(rb"(?mi)^" + name.encode() + rb":[ \t]*(.*?)\r?$", head)
        if found != [value.encode()]:
            faults.append(f"{message.name}: {name} is {found}, not exactly one {value}")
    return faults


def check_signature(message: Sent, content: bytes, records: dict[bytes, bytes], faults: list[str]) -> int:
    """1 when both of our signatures verify, 0 when the message has no single From to sign for."""
    ours = [
        n
        for n, field in enumerate(re.findall(rb"(?mis)^dkim-signature:.*?\r\n(?![ \t])", content))
        if b"t=" in field and re.search(rb"s=(rsa|ed);", field)
    ]
    if not ours:
        from_lines = re.findall(rb"(?mi)^from:.*@acme\.example", message.content.partition(b"\r\n\r\n")[0])
        if len(from_lines) == 1 and b"," not in from_lines[0] and b":" not in from_lines[0][5:]:
            faults.append(f"{message.name}: no signature although it is from acme.example")
        return 0
    for index in ours:
        try:
            verified = dkim.DKIM(content).verify(idx=index, dnsfunc=lambda name, **_: records.get(name))
        except dkim.DKIMException as error:
            faults.append(f"{message.name}: signature {index}: {error}")
            return 0
        if not verified:
            faults.append(f"{message.name}: signature {index} does not verify")
            return 0
    return 1


def top(content: bytes) -> list[str]:
    lines = content.partition(b"\r\n\r\n")[0].decode("utf-8", "replace").split("\r\n")
    return [line[:110] for line in lines if not line.startswith((" ", "\t"))][:12]


if __name__ == "__main__":
    sys.exit(main())
