"""`relay send`: a test message by SMTP, as any client would send it."""

from __future__ import annotations

import os
import smtplib
import ssl
import sys
from email.message import EmailMessage
from email.utils import formatdate
from typing import BinaryIO

import click


@click.command()
@click.argument("recipients", nargs=-1, required=True, metavar="RECIPIENT…")
@click.option("--server", default="127.0.0.1:2525", show_default=True, help="Where the relay listens.")
@click.option("--tls", type=click.Choice(["none", "starttls", "implicit"]), default="none", show_default=True)
@click.option("--no-verify", is_flag=True, help="Do not verify the server's certificate.")
@click.option("--user", help="Login of a bridge.")
@click.option("--password", envvar="RELAY_PASSWORD", help="Its password; better given as $RELAY_PASSWORD.")
@click.option("--from", "sender", default="test@example.com", show_default=True, help="Envelope sender and From.")
@click.option("--subject", default="Test message", show_default=True)
@click.option("--campaign", help="Campaign tag.")
@click.option("--file", "file", type=click.File("rb"), help="Send this message (.eml) instead; - is standard input.")
def send(
    recipients: tuple[str, ...],
    server: str,
    tls: str,
    no_verify: bool,
    user: str | None,
    password: str | None,
    sender: str,
    subject: str,
    campaign: str | None,
    file: BinaryIO | None,
) -> None:
    """Send a test message through a running relay and print its answer."""
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter("write host:port, for example 127.0.0.1:2525", param_hint="--server")
    content = file.read() if file else _compose(sender, recipients, subject, campaign)
    context = ssl.create_default_context()
    if no_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        client = (
            smtplib.SMTP_SSL(host, int(port), timeout=60, context=context)
            if tls == "implicit"
            else smtplib.SMTP(host, int(port), timeout=60)
        )
        with client:
            if tls == "starttls":
                client.starttls(context=context)
            if user:
                client.login(user, password or "")
            click.echo(_submit(client, sender, recipients, content))
    except (smtplib.SMTPException, OSError) as error:
        click.echo(f"relay: {server}: {_said(error)}", err=True)
        sys.exit(os.EX_UNAVAILABLE)


def _compose(sender: str, recipients: tuple[str, ...], subject: str, campaign: str | None) -> bytes:
    message = EmailMessage()
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
    code, said = client.mail(sender)
    if code != 250:
        raise smtplib.SMTPResponseException(code, said)
    for recipient in recipients:
        code, said = client.rcpt(recipient)
        if code not in (250, 251):
            raise smtplib.SMTPResponseException(code, said)
    code, said = client.data(content)
    if code != 250:
        raise smtplib.SMTPResponseException(code, said)
    return f"{code} {said.decode('ascii', 'replace')}"


def _said(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode('ascii', 'replace') if isinstance(text, bytes) else text}"
    return str(error)
