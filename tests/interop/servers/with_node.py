"""A server written with `smtp-server` from npm."""

from __future__ import annotations

import json
from pathlib import Path

from tests.interop.programs import NODE_MODULES
from tests.interop.servers.base import DOMAIN, PASSWORD, SMALL, USER, Server


class SmtpServer(Server):
    OFFERS = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "PIPELINING"})
    MECHANISMS = ("plain", "login", "cram-md5")

    def start(self) -> None:
        (self.folder / "mailbox" / "new").mkdir(parents=True)
        task = {
            "folder": str(self.folder / "mailbox"),
            "cert": str(self.certificates.chain),
            "key": str(self.certificates.key),
            "ports": self.ports,
            "user": USER,
            "password": PASSWORD,
            "domains": [DOMAIN, "acme.example"],
            "small": SMALL,
        }
        script = Path(__file__).parents[1] / "node" / "serve.js"
        self.launch(["node", script, json.dumps(task)], NODE_MODULES=str(NODE_MODULES))
