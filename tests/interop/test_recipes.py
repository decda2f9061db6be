"""The libraries behind the recipes of docs/recipes.md, each composing and sending a mail of its own.

What is tried here is marked so there. Finished messages are sent by more programs in test_clients.py.
"""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.interop.clients import run
from tests.interop.gateway import Door, Passage
from tests.interop.programs import DEBIAN_PYTHON, needs
from tests.interop.samples import assert_stamped

pytestmark = [pytest.mark.interop, pytest.mark.scenario]

APPS = Path(__file__).with_name("apps")


def asked(door: Door, to: str) -> str:
    return json.dumps(
        {"host": door.host, "port": door.port, "user": door.user, "password": door.password, "tls": door.tls,
         "ca": str(door.ca), "to": to}
    )  # fmt: skip


def phpmailer(door: Door, to: str, folder: Path) -> None:
    run(["php", "-d", "include_path=.:/usr/share/php", APPS / "phpmailer.php", asked(door, to)])


def mail_gem(door: Door, to: str, folder: Path) -> None:
    run(["ruby", APPS / "mail_gem.rb", asked(door, to)])


def net_smtp(door: Door, to: str, folder: Path) -> None:
    environment = {"SSL_CERT_FILE": str(door.ca), "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GO111MODULE": "off"}
    run(["go", "run", APPS / "net_smtp.go", asked(door, to)], **environment)


def django(door: Door, to: str, folder: Path) -> None:
    run([DEBIAN_PYTHON, "-W", "ignore", APPS / "django_mail.py", asked(door, to)], SSL_CERT_FILE=str(door.ca))


def cron(door: Door, to: str, folder: Path) -> None:
    """What cron does with the output of a job: a message on the standard input of `sendmail -t`, which msmtp is."""
    settings = folder / "msmtprc"
    lines = [
        f"account default\nhost {door.host}\nport {door.port}\nauth on\nuser {door.user}\npassword {door.password}",
        f"tls on\ntls_trust_file {door.ca}\ntls_starttls {'on' if door.tls == 'starttls' else 'off'}",
        "from shop@acme.example\nset_from_header auto",
    ]
    settings.write_text("\n".join(lines) + "\n")
    settings.chmod(0o600)
    message = (
        f"To: {to}\nSubject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe_=E2=84=961?=\n"
        "Content-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: 8bit\n\nGrüße\n"
    )
    run(["msmtp", "-C", settings, "-t"], stdin=message.encode())


CASES = [
    pytest.param(phpmailer, mode, id=f"phpmailer-{mode}", marks=needs("phpmailer")) for mode in ("starttls", "implicit")
] + [
    pytest.param(mail_gem, "starttls", id="mail-gem-starttls", marks=needs("mail gem")),
    pytest.param(net_smtp, "starttls", id="go-net-smtp-starttls", marks=needs("go")),
    pytest.param(django, "starttls", id="django-starttls", marks=needs("django")),
    pytest.param(django, "implicit", id="django-implicit", marks=needs("django")),
    pytest.param(cron, "starttls", id="cron-msmtp-starttls", marks=needs("msmtp")),
]


@pytest.mark.parametrize(("send", "mode"), CASES)
def test_a_library_sends_as_its_users_configure_it(
    passage: Passage, tmp_path: Path, send: Callable[[Door, str, Path], None], mode: str
) -> None:
    to = f"{send.__name__}.{mode}@customer.example"
    send(passage.gateway.doors[mode], to, tmp_path)
    arrived = passage.arrived(to)
    assert arrived.sender == "shop@acme.example"
    assert_stamped(arrived.content)
    parsed = email.message_from_bytes(arrived.content, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert parsed["Subject"] == "Grüße №1"
    body = parsed.get_body(("plain",))
    assert body is not None
    assert body.get_content().strip() == "Grüße"
