"""A relay with its admin server, and a client with a token for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.scenario.harness import Relay, base_config, free_port, wait_for


class AdminRig:
    """One relay process with workers and control process. `admin` and the others are clients by role."""

    def __init__(self, directory: Path, nodes: list[dict[str, Any]], *, text: str = "", **config: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        smtp = free_port()
        admin = {"bind": f"127.0.0.1:{self.port}", **config.pop("admin", {})}
        self.relay = Relay(directory, base_config(smtp, nodes, admin=admin, **config), smtp)
        if text:
            self.relay.config_path.write_text(text.format(admin=self.port, smtp=smtp))
        self._clients: list[httpx.Client] = []
        self._tokens: dict[str, str] = {}

    def start(self) -> AdminRig:
        self.relay.start()
        self.wait_up()
        return self

    def wait_up(self) -> None:
        wait_for(self.is_up, what="the admin server")

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/livez", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def token(self, role: str) -> str:
        if role not in self._tokens:
            self._tokens[role] = self.relay.json("token", "add", f"{role}-test", "--role", role)["token"]
        return self._tokens[role]

    def client(self, role: str = "") -> httpx.Client:
        """Without a role: nobody's."""
        headers = {"Authorization": f"Bearer {self.token(role)}"} if role else {}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=30)
        self._clients.append(client)
        return client

    def sender(self, username: str = "app", password: str = "app-password") -> httpx.Client:
        client = httpx.Client(base_url=self.url, auth=(username, password), timeout=30)
        self._clients.append(client)
        return client

    def admin_pid(self) -> int:
        events = self.relay.events("supervisor.worker_started")
        return next(event["pid"] for event in reversed(events) if event.get("companion") == "admin")

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.relay.close()


CONFIG = """\
# a relay for tests
version: 1
hostname: relay.example.com
store: sqlite:var
workers: 1
drain: 5s
admin: {{bind: "127.0.0.1:{admin}"}}
listeners:
  - {{bind: "127.0.0.1:{smtp}", tls: none, auth_without_tls: true}}
retry: {{schedule: [1s, 2s], max_age: 1h}}
mtas: [{{id: mta4, zone: us-1}}]

bridges:
  # the first app
  - name: app
    pool: main
    credentials:
      - {{username: app, password: "${{APP_PASSWORD:-app-password}}"}}  # from the environment

pools:
  - name: main
    id: 7
    default: true
    nodes:
      # the good one
      - name: a   # keep
        type: sandbox
        directory: box
        caps:
          day: 100000   # by contract
      - {{name: b, type: sandbox, directory: box}}
  # kept for later
  - name: spare
    id: 9
    nodes: [{{name: s, type: sandbox, directory: box}}]
"""
"""As a person would write it."""
