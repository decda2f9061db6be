"""A configuration comes back from memory as the very values it was."""

from __future__ import annotations

from pathlib import Path

from relay.app.frozen import freeze, thaw
from relay.config.load import load

TEXT = """
version: 1
bridges:
  - {name: b, networks: [192.0.2.0/24, "2001:db8::/32"], credentials: [{username: u, password: "s3cret-word"}]}
pools:
  - name: main
    id: 1
    default: true
    nodes:
      - {name: one, type: smtp, host: mx.example, username: u, password: other, caps: {hour: 5}, verify: {hostname: x}}
      - {name: two, type: sandbox, fail: [{mode: delay, delay: 2s}]}
"""


def test_thawed_is_what_was_frozen(tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(TEXT)
    loaded = load(path)
    back = thaw(freeze(loaded))
    assert back == loaded
    assert [type(node) for node in back.config.pools[0].nodes] == [type(node) for node in loaded.config.pools[0].nodes]
    assert back.config.bridges[0].credentials[0].password.get_secret_value() == "s3cret-word"
