"""Mail programs of others, each made to send one finished message the way its users would configure it.

Every function takes the door of the relay, the envelope and the message as CRLF octets, and fails when the program
does. Where a program can check the relay's certificate, it does.
"""

from __future__ import annotations

import base64
import json
import os
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interop.gateway import MODES, Door
from tests.interop.programs import NODE_MODULES
from tests.interop.samples import unix

Send = Callable[[Door, str, Sequence[str], bytes, Path], None]
"""(door, sender, recipients, content, folder for files)"""


def run(arguments: Sequence[str | Path], *, stdin: bytes = b"", **environment: str) -> str:
    """The program's output; AssertionError with all it said when it fails."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{arguments[0]} ended with {done.returncode}:\n{said}"
    return said


def swaks(mechanism: str) -> Send:
    def send(door: Door, sender: str, recipients: Sequence[str], content: bytes, folder: Path) -> None:
        (folder / "message").write_bytes(content)
        tls = {"none": [], "starttls": ["--tls"], "implicit": ["--tls-on-connect"]}[door.tls]
        if tls:
            tls += ["--tls-verify", "--tls-ca-path", str(door.ca)]
        arguments = ["swaks", "--server", door.host, "--port", str(door.port), "--ehlo", "client.example", *tls]
        arguments += ["--auth", mechanism, "--auth-user", door.user, "--auth-password", door.password]
        arguments += ["--from", sender, "--to", ",".join(recipients), "--data", f"@{folder / 'message'}"]
        run(arguments)

    return send


def msmtp(mechanism: str) -> Send:
    def send(door: Door, sender: str, recipients: Sequence[str], content: bytes, folder: Path) -> None:
        settings = {
            "host": door.host,
            "port": door.port,
            "auth": mechanism,
            "user": door.user,
            "password": door.password,
            "tls": "off" if door.tls == "none" else "on",
            "tls_starttls": "on" if door.tls == "starttls" else "off",
            "tls_trust_file": door.ca,
        }
        config = folder / "msmtprc"
        config.write_text("account relay\n" + "".join(f"{name} {value}\n" for name, value in settings.items()))
        config.chmod(0o600)
        run(["msmtp", "-C", config, "-a", "relay", "-f", sender, "--", *recipients], stdin=unix(content))

    return send


def curl(mechanism: str) -> Send:
    def send(door: Door, sender: str, recipients: Sequence[str], content: bytes, folder: Path) -> None:
        (folder / "message").write_bytes(content)
        scheme = "smtps" if door.tls == "implicit" else "smtp"
        tls = [] if door.tls == "none" else ["--ssl-reqd", "--cacert", str(door.ca)]
        arguments = ["curl", "-sS", "--url", f"{scheme}://{door.host}:{door.port}/client.example", *tls]
        arguments += ["--noproxy", "*", "--user", f"{door.user}:{door.password}"]
        arguments += ["--login-options", f"AUTH={mechanism}", "--mail-from", sender]
        arguments += [part for recipient in recipients for part in ("--mail-rcpt", recipient)]
        run([*arguments, "--upload-file", folder / "message"])

    return send


def python_smtplib(door: Door, sender: str, recipients: Sequence[str], content: bytes, folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(door.ca))
    if door.tls == "implicit":
        client: smtplib.SMTP = smtplib.SMTP_SSL(door.host, door.port, context=context, timeout=20)
    else:
        client = smtplib.SMTP(door.host, door.port, timeout=20)
    with client:
        if door.tls == "starttls":
            client.starttls(context=context)
        client.login(door.user, door.password)
        client.sendmail(sender, recipients, content, mail_options=["BODY=8BITMIME"])


def nodemailer(door: Door, sender: str, recipients: Sequence[str], content: bytes, folder: Path) -> None:
    (folder / "message").write_bytes(content)
    nodemailer_run(door, {"envelope": {"from": sender, "to": list(recipients)}}, raw=folder / "message")


def nodemailer_run(door: Door, mail: dict[str, object], raw: Path | None = None) -> str:
    transport = {
        "host": door.host,
        "port": door.port,
        "secure": door.tls == "implicit",
        "requireTLS": door.tls == "starttls",
        "auth": {"user": door.user, "pass": door.password},
    }
    task = {"transport": transport, "mail": mail, "ca": str(door.ca), "raw": None if raw is None else str(raw)}
    script = Path(__file__).with_name("node") / "send.js"
    return run(["node", script, json.dumps(task)], NODE_MODULES=str(NODE_MODULES))


@dataclass
class _Dialogue:
    """Octets out, replies in, as a program does that neither pipelines nor forgives."""

    socket: socket.socket

    def __post_init__(self) -> None:
        self.lines = self.socket.makefile("rb")

    def expect(self, code: int) -> bytes:
        text = b""
        while True:
            line = self.lines.readline()
            assert line.startswith(str(code).encode()), (code, line)
            assert line.endswith(b"\r\n"), line
            text += line
            if line[3:4] == b" ":
                return text

    def say(self, line: str, code: int) -> bytes:
        self.socket.sendall(line.encode() + b"\r\n")
        return self.expect(code)


def dotnet(door: Door, sender: str, recipients: Sequence[str], content: bytes, folder: Path) -> None:
    """What System.Net.Mail.SmtpClient writes: `AUTH login` in lower case with the user name in the same line."""
    with socket.create_connection((door.host, door.port), timeout=20) as connection:
        talk = _Dialogue(connection)
        talk.expect(220)
        offers = talk.say("EHLO DESKTOP-7QK2", 250)
        if door.tls == "starttls":
            assert b"STARTTLS\r\n" in offers
            talk.say("STARTTLS", 220)
            context = ssl.create_default_context(cafile=str(door.ca))
            talk = _Dialogue(context.wrap_socket(connection, server_hostname=door.host))
            offers = talk.say("EHLO DESKTOP-7QK2", 250)
        auth = next(line for line in offers.split(b"\r\n") if line[4:9] == b"AUTH ")
        assert b"LOGIN" in auth.split()  # it knows the space-separated form and looks for LOGIN
        talk.say(f"AUTH login {base64.b64encode(door.user.encode()).decode()}", 334)
        talk.say(base64.b64encode(door.password.encode()).decode(), 235)
        talk.say(f"MAIL FROM:<{sender}>", 250)
        for recipient in recipients:
            talk.say(f"RCPT TO:<{recipient}>", 250)
        talk.say("DATA", 354)
        talk.socket.sendall(content.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n")
        talk.expect(250)
        talk.say("QUIT", 221)
        talk.lines.close()
        talk.socket.close()


@dataclass(frozen=True)
class Client:
    """A way to send.

    Attributes:
        program: what it needs; empty for what Python has.
        modes: TLS modes it knows.
        tail: what it adds to the end of every message: a line end of its own before the final dot.
    """

    program: str
    send: Send
    modes: tuple[str, ...] = MODES
    tail: bytes = b""


CLIENTS = {
    "swaks-plain": Client("swaks", swaks("PLAIN"), tail=b"\r\n"),
    "swaks-login": Client("swaks", swaks("LOGIN"), tail=b"\r\n"),
    "msmtp-plain": Client("msmtp", msmtp("plain")),
    "msmtp-login": Client("msmtp", msmtp("login")),
    "curl-plain": Client("curl", curl("PLAIN")),
    "curl-login": Client("curl", curl("LOGIN")),
    "smtplib": Client("", python_smtplib),
    "nodemailer": Client("nodemailer", nodemailer),
    "dotnet": Client("", dotnet, modes=("none", "starttls"), tail=b"\r\n"),
}
