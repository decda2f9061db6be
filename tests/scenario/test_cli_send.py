"""`relay send` against every TLS mode of a real relay, and against what goes wrong there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.scenario.conftest import Scene
from tests.scenario.harness import ROOT, Relay, free_port

pytestmark = pytest.mark.scenario


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificate of an authority, a server's certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = ca.issue_cert("127.0.0.1", "localhost")
    server.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in server.cert_chain_pems:
        pem.write_to_path(str(folder / "cert.pem"), append=True)
    return folder


class Ports:
    def __init__(self) -> None:
        self.plain, self.starttls, self.implicit = (f"127.0.0.1:{free_port()}" for _ in range(3))


def with_tls(scene: Scene, authority: Path) -> tuple[Relay, Ports]:
    ports = Ports()
    pair = {"cert": str(authority / "cert.pem"), "key": str(authority / "key.pem")}
    relay = scene.relay([scene.sink("a").node()], start=False)
    relay.port = int(ports.plain.rpartition(":")[2])
    relay.write(
        {
            **relay.config,
            "listeners": [
                {"bind": ports.plain, "tls": "none"},
                {"bind": ports.starttls, "tls": "starttls", "auth_without_tls": False, **pair},
                {"bind": ports.implicit, "tls": "implicit", **pair},
            ],
        }
    )
    return relay.start(), ports


def send(relay: Relay, *args: str, code: int = 0, input: str | None = None, password: str = "app-password") -> str:
    """Standard output, or what was said on standard error when it is to fail."""
    done = subprocess.run(
        [sys.executable, "-m", "relay", "-c", str(relay.config_path), "send", "to@dest.example", *args],
        cwd=relay.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RELAY_PASSWORD": password},
        capture_output=True,
        text=True,
        timeout=90,
        input=input or "",
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert password not in done.stdout + done.stderr
    return done.stderr if code else done.stdout


def test_every_tls_mode_delivers_and_prints_the_id(scene: Scene, authority: Path) -> None:
    relay, ports = with_tls(scene, authority)
    ca = str(authority / "ca.pem")
    user = ("--user", "app")
    for args in (
        (),  # the first listener of the configuration
        ("--server", ports.plain),
        ("--server", ports.starttls, "--tls", "starttls", "--ca", ca),
        ("--server", ports.starttls, "--tls", "starttls", "--no-verify"),
        ("--server", ports.implicit, "--tls", "implicit", "--ca", ca),
        ("--server", ports.implicit, "--tls", "implicit", "--no-verify"),
    ):
        said = send(relay, *user, *args)
        assert "queued as" in said
        assert "done (delivered)" in relay.cli("explain", said.split()[-1]) or relay.wait_empty() is None
    relay.wait_empty()


def test_what_goes_wrong_is_said_with_what_to_do(scene: Scene, authority: Path) -> None:
    relay, ports = with_tls(scene, authority)
    user = ("--user", "app")
    unavailable = os.EX_UNAVAILABLE
    closed = f"127.0.0.1:{free_port()}"
    for args, code, words in (
        (("--server", closed), unavailable, "nobody listens there; start the relay"),
        (("--server", ports.starttls, "--tls", "starttls", *user), unavailable, "--ca FILE"),
        (("--server", ports.implicit, "--tls", "implicit", *user), unavailable, "--ca FILE"),
        (("--server", ports.starttls, *user), unavailable, "--tls starttls"),
        (("--server", ports.plain, "--tls", "starttls", *user), unavailable, "--tls none"),
        (("--server", ports.plain, "--tls", "implicit", *user), unavailable, "really a port for --tls implicit"),
        (("--server", ports.plain), os.EX_NOPERM, "530"),
        (("--server", "nonsense"), os.EX_USAGE, "host:port"),
        (("--server", "127.0.0.1:99999"), os.EX_USAGE, "host:port"),
        (("--server", ports.plain, *user, "--from", "a@b@c"), os.EX_DATAERR, "relay:"),
        (("--server", ports.plain, *user, "--subject", "two\nlines"), os.EX_DATAERR, "cannot be made"),
        (("--server", ports.plain, *user, "--file", "nowhere.eml"), os.EX_USAGE, "nowhere.eml"),
    ):
        said = send(relay, *args, code=code)
        assert words in said, (args, said)
    assert "535" in send(relay, "--user", "app", code=os.EX_NOPERM, password="wrong-password")


def test_a_message_from_standard_input_and_addresses_beyond_ascii(scene: Scene, authority: Path) -> None:
    sink = scene.sink("b")
    relay = scene.relay([sink.node()])
    mail = "From: a@acme.example\nTo: b@dest.example\nSubject: by hand\nX-Test-Name: piped\n\n.a line with a dot\n"
    assert "queued as" in send(relay, "--user", "app", "--file", "-", input=mail)
    assert "queued as" in send(relay, "--user", "app", "--from", "grüße@acme.example", "--subject", "Grüße")
    relay.wait_empty()
    assert sink.names() == ["piped"]
    assert len(sink.transactions()) == 2
