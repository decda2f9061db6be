"""Presets for nodes of type `smtp`: what is known of well-known servers, as data. Pure: no I/O.

A preset fills what the configuration leaves out; whatever is written there wins. Limits are those that the vendor
states for everybody; an account may be allowed more or less, and `caps` says so then. A size is left out where the
server announces its own (SIZE), which the driver heeds anyway.

Hosts, ports and fixed user names are from the vendors' pages on their SMTP endpoint. `docs/smtp-providers.md` tells
what each needs to be set up, and how sure each row is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

MB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What is known of one server.

    Attributes:
        title: as in lists for people.
        host: may hold `{region}`, which the key `region` fills in.
        regions: region → what stands in `{region}`, the first is the default; empty with `{region}` in the host says
            that the region is put in as it is written, and must be given.
        username: fixed login, or empty when it is the account's own. `@` says that it is the password again.
        oauth: name of the provider in `oauth_providers` that gives tokens for this server, or empty.
        caps: window → recipients.
        max_size: octets of a message; 0 = not known.
        max_recipients: of one transaction; 0 = not known.
        connections: at once; 0 = not known.
        hint: what to put into `password`, or what else a first user stumbles over.
    """

    title: str
    host: str
    port: int = 587
    tls: Literal["starttls", "implicit"] = "starttls"
    regions: Mapping[str, str] = field(default_factory=dict)
    username: str = ""
    oauth: str = ""
    caps: Mapping[str, int] = field(default_factory=dict)
    max_size: int = 0
    max_recipients: int = 0
    connections: int = 0
    hint: str = ""


_APP_PASSWORD = "an app password (the account's own password is refused), or `oauth`"  # noqa: S105 - no password

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "gmail": Preset(
            title="Gmail (personal account)",
            host="smtp.gmail.com",
            oauth="google",
            caps={"day": 500},
            max_size=25 * MB,
            max_recipients=100,
            hint=_APP_PASSWORD,
        ),
        "gmail-workspace": Preset(
            title="Google Workspace mailbox",
            host="smtp.gmail.com",
            oauth="google",
            caps={"day": 2000},
            max_size=25 * MB,
            max_recipients=100,
            hint=_APP_PASSWORD,
        ),
        "gmail-relay": Preset(
            title="Google Workspace SMTP relay service",
            host="smtp-relay.gmail.com",
            oauth="google",
            max_size=25 * MB,
            max_recipients=100,
            hint="an app password, `oauth`, or nothing at all where the relay service lets this machine's address in",
        ),
        "outlook": Preset(
            title="Microsoft 365 (Exchange Online)",
            host="smtp.office365.com",
            oauth="microsoft",
            caps={"minute": 30, "day": 10000},
            connections=3,
            hint="`oauth`; passwords are switched off for most tenants (535 5.7.139)",
        ),
        "outlook-com": Preset(
            title="Outlook.com and Hotmail (personal account)",
            host="smtp-mail.outlook.com",
            oauth="microsoft-personal",
            connections=3,
            hint="`oauth`; passwords are no longer taken",
        ),
        "yahoo": Preset(
            title="Yahoo Mail",
            host="smtp.mail.yahoo.com",
            port=465,
            tls="implicit",
            oauth="yahoo",
            caps={"day": 500},
            max_size=25 * MB,
            hint=_APP_PASSWORD,
        ),
        "aol": Preset(
            title="AOL Mail",
            host="smtp.aol.com",
            port=465,
            tls="implicit",
            oauth="aol",
            caps={"day": 500},
            max_size=25 * MB,
            hint=_APP_PASSWORD,
        ),
        "ses-smtp": Preset(
            title="Amazon SES, SMTP endpoint",
            host="email-smtp.{region}.amazonaws.com",
            max_size=40 * MB,
            max_recipients=50,
            hint="the SMTP credentials of SES, which are not the access key of IAM",
        ),
        "sendgrid-smtp": Preset(
            title="SendGrid, SMTP endpoint",
            host="smtp.sendgrid.net",
            username="apikey",
            max_size=30 * MB,
            hint="an API key with the right Mail Send",
        ),
        "mailgun-smtp": Preset(
            title="Mailgun, SMTP endpoint",
            host="smtp{region}.mailgun.org",
            regions={"us": "", "eu": ".eu"},
            max_size=25 * MB,
            hint="the SMTP credentials of the domain (postmaster@…), not the API key",
        ),
        "sparkpost-smtp": Preset(
            title="SparkPost, SMTP endpoint",
            host="smtp{region}.sparkpostmail.com",
            regions={"us": "", "eu": ".eu"},
            username="SMTP_Injection",
            max_size=20 * MB,
            hint="an API key with the right Send via SMTP",
        ),
        "elasticemail-smtp": Preset(
            title="Elastic Email, SMTP endpoint",
            host="smtp.elasticemail.com",
            port=2525,
            max_size=20 * MB,
            hint="the SMTP credentials of the account",
        ),
        "mailjet-smtp": Preset(
            title="Mailjet, SMTP endpoint",
            host="in-v3.mailjet.com",
            max_size=15 * MB,
            max_recipients=50,
            hint="the API key as user name, the secret key as password",
        ),
        "smtp2go-smtp": Preset(
            title="SMTP2GO, SMTP endpoint",
            host="mail.smtp2go.com",
            port=2525,
            max_size=50 * MB,
            hint="an SMTP user of the account",
        ),
        "mandrill-smtp": Preset(
            title="Mandrill (Mailchimp Transactional), SMTP endpoint",
            host="smtp.mandrillapp.com",
            max_size=25 * MB,
            hint="an API key; any user name will do",
        ),
        "brevo-smtp": Preset(
            title="Brevo (formerly Sendinblue), SMTP endpoint",
            host="smtp-relay.brevo.com",
            max_size=20 * MB,
            max_recipients=99,
            hint="the SMTP key, which is not the API key",
        ),
        "zeptomail-smtp": Preset(
            title="ZeptoMail, SMTP endpoint",
            host="smtp.zeptomail.{region}",
            regions={"com": "com", "eu": "eu", "in": "in"},
            username="emailapikey",
            max_size=15 * MB,
            hint="the send-mail token of the mail agent",
        ),
        "postmark-smtp": Preset(
            title="Postmark, SMTP endpoint",
            host="smtp.postmarkapp.com",
            username="@",
            max_size=10 * MB,
            max_recipients=50,
            hint="the server API token; it is the user name too",
        ),
        "resend-smtp": Preset(
            title="Resend, SMTP endpoint",
            host="smtp.resend.com",
            port=465,
            tls="implicit",
            username="resend",
            max_size=40 * MB,
            max_recipients=50,
            hint="an API key",
        ),
        "mailersend-smtp": Preset(
            title="MailerSend, SMTP endpoint",
            host="smtp.mailersend.net",
            max_size=25 * MB,
            max_recipients=50,
            hint="an SMTP user of the domain (MS_…@…)",
        ),
        "mumara-one-smtp": Preset(
            title="Mumara ONE, SMTP endpoint",
            host="smtp.mumara.com",
            hint="the credentials of the bridge; `host` where the account has a host of its own",
        ),
    }
)


def place(preset: Preset, region: str) -> str | None:
    """The host of a preset in a region; None when the region must be given, or is none of those there are."""
    if "{region}" not in preset.host:
        return preset.host
    if preset.regions:
        chosen = region or next(iter(preset.regions))
        part = preset.regions.get(chosen)
        return None if part is None else preset.host.replace("{region}", part)
    return preset.host.replace("{region}", region) if region else None
