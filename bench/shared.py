"""The relay with shared stores: a Valkey server of its own on loopback, everything on disk before it answers.

The server counts as part of the system, so its processor time is in the figures; what it takes alone is printed when it
ends.
"""

from __future__ import annotations

import re
import socket
import sys
from typing import Any

from bench.peers import STAMPS, Door, Keys, Kind, Relay
from tests.fakes.redis_server import RedisServer, find_server


class _Shared(Relay):
    """`store:` of subclasses; the server is made before the relay and ended after it."""

    def __init__(self, folder: Any, keys: Keys, sink_port: int, door: Door, sign: str = "", **more: Any) -> None:
        (folder / "server").mkdir()
        self.server = RedisServer(folder / "server").start()
        try:
            super().__init__(folder, keys, sink_port, door, sign, **more)
        except BaseException:
            self.server.close()
            raise
        assert self.server.process is not None
        self.roots.append(self.server.process.pid)

    @staticmethod
    def lacks() -> str:
        return "" if find_server() else "valkey-server or redis-server"

    def close(self) -> None:
        try:
            print(f"  {type(self).__name__}: {_cost(self.server)}", file=sys.stderr)
            super().close()
        finally:
            self.server.close()


class SharedState(_Shared):
    def _store(self, local: Any) -> Any:
        return {"spool": local, "state": self.server.url}


class SharedSpool(_Shared):
    def _store(self, local: Any) -> Any:
        return {"spool": self.server.url, "state": self.server.url, "folder": str(local).partition(":")[2]}


RELAY_STATE = Kind("relay, state on Valkey", SharedState, STAMPS)
RELAY_SHARED = Kind("relay, all on Valkey", SharedSpool, STAMPS)


def _cost(server: RedisServer) -> str:
    facts = dict(re.findall(r"([a-z_]+):([0-9.]+)", _info(server.port)))
    cpu_s = sum(float(facts[name]) for name in ("used_cpu_sys", "used_cpu_user"))
    sizes = facts.get("aof_current_size", "?"), facts.get("used_memory_peak", "?")
    return (
        f"server {cpu_s:.2f} s of processor time, {facts['total_commands_processed']} commands, "
        f"log {sizes[0]} octets, memory at most {sizes[1]} octets"
    )


def _info(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"INFO\r\nQUIT\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
