"""What ends soon is found in real files."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from relay.admin.alerts.expiry import expiring
from relay.app.site import Site
from relay.config.models import Config
from relay.oauth.store import FileTokenStore, Stored

ENDS = datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)


async def test_certificates_and_consents(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = trustme.CA().issue_cert("relay.example.com", not_after=ENDS.replace(tzinfo=None))
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    os.chmod(key, 0o600)
    tls = {"tls": "starttls", "cert": str(cert), "key": str(key)}
    listeners = [
        {"bind": "127.0.0.1:2525", **tls},
        {"bind": "127.0.0.1:2526", **tls},
        {"bind": "127.0.0.1:2527", "tls": "starttls", "cert": str(tmp_path / "gone.pem"), "key": str(key)},
    ]
    node = {
        "name": "box", "type": "smtp", "preset": "gmail", "username": "a@acme.example",
        "oauth": {"client_id": "app.apps.googleusercontent.com"},
    }  # fmt: skip
    config = Config.model_validate(
        {"version": 1, "listeners": listeners, "pools": [{"name": "p", "id": 1, "nodes": [node]}]}
    )
    store = FileTokenStore(tmp_path / "oauth")
    assert await store.save("box", Stored(version=1, refresh_expires_at=77.0), seen=0)
    found = await expiring(config, Site(directory=tmp_path, state_directory=tmp_path, shards=()))
    assert [(each.id, each.ends, each.node, each.pool) for each in found] == [
        (str(cert), ENDS.timestamp(), "", ""),
        ("oauth:box", 77.0, "box", "p"),
    ]
