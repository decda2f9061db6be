"""What this machine gives at best, to tell how far a figure is from what bounds it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from bench.load import Load, Sink, Source
from tests.scenario.harness import free_port


def measure(folder: Path, seconds: float) -> dict[str, float]:
    """Each limit by what it says, in times a second."""
    signing = rsa.generate_private_key(65537, 2048)
    edwards = ed25519.Ed25519PrivateKey.generate()
    octets = os.urandom(32)
    return {
        "smtp-source straight to the sink, 20 sessions, 4 kB": _straight(Load(sessions=20), seconds),
        "own source straight to the sink, 20 sessions, 4 kB": _straight(Load(sessions=20), seconds, own=True),
        "RSA-2048 signatures on one core (OpenSSL)": _rate(
            lambda: signing.sign(octets, padding.PKCS1v15(), SHA256()), seconds
        ),
        "Ed25519 signatures on one core (OpenSSL)": _rate(lambda: edwards.sign(octets), seconds),
        "appends of 4 kB, each with its fsync": _syncs(folder, seconds),
    }


def _straight(load: Load, seconds: float, *, own: bool = False) -> float:
    messages = int(5000 * seconds)
    with Sink(free_port()) as sink:
        sink.wait_ready()
        with Source(load, sink.port, messages, own=own) as source:
            source.finish()
        if not sink.wait(messages):
            raise RuntimeError("the sink lost messages")
        return messages / (sink.changed_at - source.started)


def _rate(action: Callable[[], object], seconds: float) -> float:
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        action()
        done += 1
    return done / (time.perf_counter() - started)


def _syncs(folder: Path, seconds: float) -> float:
    block = os.urandom(4096)
    with (folder / "fsync").open("wb", buffering=0) as file:

        def once() -> None:
            file.write(block)
            os.fsync(file.fileno())

        return _rate(once, seconds)
