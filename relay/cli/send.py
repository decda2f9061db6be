"""`relay send`: a test message by SMTP, as any client would send it."""

from __future__ import annotations

import contextlib
import os
import smtplib
import ssl
import sys
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

import click

from relay.cli.common import fail
from relay.cli.text import say

DEFAULT_SERVER = "127.0.0.1:2525"
TIMEOUT_S = 60.0


@click.command()
@click.argument("recipients", nargs=-1, required=True, metavar="RECIPIENT…")
@click.option("--server", help=f"host:port; default: the first listener of the configuration, else {DEFAULT_SERVER}.")
@click.option("--tls", type=click.Choice(["none", "starttls", "implicit"]), help="Default: as that listener has it.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Trust this certificate or authority (PEM).")
@click.option("--no-verify", is_flag=True, help="Do not verify the server's certificate.")
@click.option("--user", help="Login of a bridge.")
@click.option("--password", envvar="RELAY_PASSWORD", help="Its password; better given as $RELAY_PASSWORD.")
@click.option("--from", "sender", default="test@example.com", show_default=True, help="Envelope sender and From.")
@click.option("--subject", default="Test message", show_default=True)
@click.option("--campaign", help="Campaign tag.")
@click.option("--file", "file", type=click.File("rb"), help="Send this message (.eml) instead; - is standard input.")
@click.pass_obj
def send(
    config: str,
    recipients: tuple[str, ...],
    server: str | None,
    tls: str | None,
    ca: str | None,
    no_verify: bool,
    user: str | None,
    password: str | None,
    sender: str,
    subject: str,
    campaign: str | None,
    file: BinaryIO | None,
) -> None:
    """Send a test message through a running relay and print its answer, which holds the message's id.

    Exit 69: not reachable; 75: refused for now; 77: login refused; 65: refused for good.
    """
    if server is None:
        server, mode = _listener(config)
        tls = tls or mode
    host, _, port = server.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter("write host:port, for example 127.0.0.1:2525 or [::1]:2525", param_hint="--server")
    if user and password is None:
        if not sys.stdin.isatty() or file is not None:
            raise click.UsageError("--user needs a password: set $RELAY_PASSWORD, or say --password")
        password = click.prompt("Password", hide_input=True)
    try:
        content = file.read() if file else _compose(sender, recipients, subject, campaign)
        context = ssl.create_default_context(cafile=ca)
    except (ValueError, ssl.SSLError) as error:
        fail(f"the message cannot be made: {error}", os.EX_DATAERR)
    if no_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        with _connect(host, int(port), tls or "none", context) as client:
            if user:
                client.login(user, password or "")
            said = _submit(client, sender, recipients, content)
    except (smtplib.SMTPException, OSError, UnicodeError) as error:
        _give_up(error, server, tls or "none")
    say(said)


def _listener(config: str) -> tuple[str, str]:
    """Where the first listener is reached from this machine, and its TLS mode."""
    from relay.config.load import load
    from relay.errors import ConfigError

    with contextlib.suppress(ConfigError):
        for listener in load(Path(config)).config.listeners:
            host, port = listener.bind
            host = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1", "": "127.0.0.1"}.get(host, host)
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}", listener.tls
    return DEFAULT_SERVER, "none"


def _connect(host: str, port: int, tls: str, context: ssl.SSLContext) -> smtplib.SMTP:
    if tls == "implicit":
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
    client = smtplib.SMTP(host, port, timeout=TIMEOUT_S)
    if tls == "starttls":
        try:
            client.starttls(context=context)
        except BaseException:
            client.close()
            raise
    return client


def _compose(sender: str, recipients: tuple[str, ...], subject: str, campaign: str | None) -> bytes:
    wide = not all(address.isascii() for address in (sender, *recipients))
    message = EmailMessage(policy=SMTPUTF8 if wide else SMTP)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = subject
    message["Date"] = formatdate()
    if campaign:
        message["X-Relay-Campaign"] = campaign
    message.set_content("This is a test message.\n")
    return message.as_bytes()


def _submit(client: smtplib.SMTP, sender: str, recipients: tuple[str, ...], content: bytes) -> str:
    """Like `sendmail`, but keeps the final reply, which holds the id."""
    client.ehlo_or_helo_if_needed()
    options = []
    if not all(address.isascii() for address in (sender, *recipients)):
        if not client.has_extn("smtputf8"):
            raise smtplib.SMTPNotSupportedError("the server does not take addresses beyond ASCII (SMTPUTF8)")
        options.append("SMTPUTF8")
        client.command_encoding = "utf-8"
    code, said = client.mail(sender, options)
    if code != 250:
        raise smtplib.SMTPResponseException(code, said)
    for recipient in recipients:
        code, said = client.rcpt(recipient)
        if code not in (250, 251):
            raise smtplib.SMTPResponseException(code, f"{recipient}: ".encode() + said)
    code, said = client.data(content)
    if code != 250:
        raise smtplib.SMTPResponseException(code, said)
    return f"{code} {said.decode('ascii', 'replace')}"


def _give_up(error: Exception, server: str, tls: str) -> None:
    """The server's words, what they mean here, and an exit code."""
    code = os.EX_UNAVAILABLE
    said, hint = str(error) or type(error).__name__, ""
    match error:
        case smtplib.SMTPResponseException():
            text = error.smtp_error
            text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
            said = f"{error.smtp_code} {' '.join(text.split())}"
            if error.smtp_code in (530, 534, 535, 538):
                code = os.EX_NOPERM
                if error.smtp_code == 530:
                    hint = "log in with --user, or use --tls starttls where the server wants it"
            else:
                code = os.EX_TEMPFAIL if 400 <= error.smtp_code < 500 else os.EX_DATAERR
        case smtplib.SMTPNotSupportedError():
            if "AUTH" in said.upper():
                hint = "logins may only be allowed over TLS there: --tls starttls"
            elif "STARTTLS" in said.upper():
                hint = "try --tls none, or --tls implicit"
        case ssl.SSLCertVerificationError():
            said = f"the certificate is not trusted: {error.verify_message}"
            hint = "name its authority with --ca FILE, or pass --no-verify for a test"
        case ssl.SSLError():
            hint = f"is it really a port for --tls {tls}?"
        case smtplib.SMTPServerDisconnected():
            hint = "a port with implicit TLS? try --tls implicit" if tls != "implicit" else ""
        case ConnectionRefusedError():
            said, hint = "nobody listens there", "start the relay with `relay run`, or name another --server"
        case TimeoutError():
            said = f"no answer within {TIMEOUT_S:.0f} s"
            hint = "a port with implicit TLS? try --tls implicit" if tls != "implicit" else ""
        case UnicodeError():
            said, code = "login and password must be ASCII", os.EX_DATAERR
    fail(f"{server}: {said}{f'; {hint}' if hint else ''}", code)
