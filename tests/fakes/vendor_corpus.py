"""Messages for the vendors' drivers: the corpus of `tests/data/mail`, and what only matters to them, made here."""

# ruff: noqa: E501, RUF001 - messages as they are on the wire
from __future__ import annotations

import base64
import quopri
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "mail"
JANE = "jane@customer.example"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


@dataclass(frozen=True)
class Case:
    """One message with its envelope."""

    name: str
    octets: bytes
    recipients: tuple[str, ...]


@cache
def corpus() -> tuple[Case, ...]:
    """All cases, in a fixed order."""
    cases = [Case(file.stem, file.read_bytes(), _envelope(file.read_bytes())) for file in sorted(FOLDER.glob("*.eml"))]
    return tuple(cases + list(_made()))


def case(name: str) -> Case:
    return next(found for found in corpus() if found.name == name)


def _envelope(octets: bytes) -> tuple[str, ...]:
    """Those in To, at most forty of them; Jane where it names nobody."""
    head = octets.partition(b"\r\n\r\n")[0]
    to = re.search(rb"(?im)^to:((?:[^\r]|\r\n[ \t])*)", head)
    found = re.findall(r"[^\s<>,;:\"()]+@[^\s<>,;:\"()]+", to[1].decode("utf-8", "replace")) if to else []
    return tuple(found[:40]) or (JANE,)


def _base(to: str | None = f"Jane Doe <{JANE}>", subject: str = "Order 1042", **fields: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "Acme Shop <shop@acme.example>"
    if to is not None:
        message["To"] = to
    message["Subject"] = subject
    message["Date"] = "Tue, 14 Nov 2023 22:13:20 +0000"
    message["Message-ID"] = "<v.1700000000@acme.example>"
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def _flat(message: EmailMessage) -> bytes:
    for index, part in enumerate(p for p in message.walk() if p.get_content_maintype() == "multipart"):
        part.set_boundary(f"=_v{index}_acme")
    return message.as_bytes()


def _by_hand(head: str, body: bytes, *, to: str = JANE) -> bytes:
    first = (
        f"From: Acme Shop <shop@acme.example>\nTo: {to}\nSubject: Order 1042\nDate: Tue, 14 Nov 2023 22:13:20 +0000\n"
        f"Message-ID: <h.1@acme.example>\nMIME-Version: 1.0\n{head}\n"
    )
    return first.encode().replace(b"\n", b"\r\n") + b"\r\n" + body


TEXTS = {
    "iso-2022-jp": "ご注文ありがとうございます。\r\n",
    "shift_jis": "ご注文ありがとうございます。①\r\n",
    "gb2312": "您的订单已发货,谢谢。\r\n",
    "big5": "您的訂單已出貨。\r\n",
    "euc-kr": "주문이 접수되었습니다.\r\n",
    "koi8-r": "Ваш заказ принят.\r\n",
    "windows-1256": "تم استلام طلبك رقم 1042.\r\n",
    "windows-1255": "ההזמנה שלך התקבלה.\r\n",
    "iso-8859-9": "Siparişiniz alındı: İğne, ığdır.\r\n",
    "utf-16": "Grüße in UTF-16 📦\r\n",
}


def _made() -> Iterator[Case]:
    for charset, text in TEXTS.items():
        codec = {"gb2312": "gb18030", "shift_jis": "cp932"}.get(charset, charset)
        octets = text.encode(codec)
        base = base64.encodebytes(octets).replace(b"\n", b"\r\n")
        yield Case(
            f"charset-{charset}",
            _by_hand(f"Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: base64", base),
            (JANE,),
        )
    quoted = quopri.encodestring("<p>Größe: 5 €</p>".encode("cp1252")).replace(b"\n", b"\r\n")
    yield Case(
        "html-only-windows-1252",
        _by_hand("Content-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable", quoted),
        (JANE,),
    )
    yield from _addressed()
    yield from _structured()
    yield from _headed()


def _addressed() -> Iterator[Case]:
    def text(message: EmailMessage) -> bytes:
        message.set_content("Hello\n")
        return _flat(message)

    yield Case("bcc-only-one", text(_base(None)), ("hidden@customer.example",))
    yield Case("bcc-only-three", text(_base(None)), tuple(f"hidden{n}@customer.example" for n in range(3)))
    yield Case("undisclosed", text(_base("undisclosed-recipients:;")), ("a@customer.example", "b@customer.example"))
    yield Case("bcc-beside-to", text(_base()), (JANE, "hidden@customer.example"))
    yield Case("cc-only", text(_base(None, Cc="Joe <joe@customer.example>, <ann@customer.example>")), (
        "joe@customer.example", "ann@customer.example",
    ))  # fmt: skip
    yield Case("to-and-cc", text(_base(Cc="joe@customer.example")), (JANE, "joe@customer.example"))
    yield Case("partly-delivered", text(_base("a@customer.example, b@customer.example", Cc="c@customer.example")), (
        "b@customer.example",
    ))  # fmt: skip
    yield Case("mailing-list", text(_base("Team <team@lists.acme.example>")), ("subscriber@customer.example",))
    yield Case("same-in-other-case", text(_base("JANE@Customer.Example")), (JANE,))
    yield Case("twice-in-to", text(_base(f"{JANE}, Jane <{JANE}>")), (JANE,))
    yield Case("forty-in-to", text(_base(", ".join(f"P{n} <p{n}@customer.example>" for n in range(40)))), tuple(
        f"p{n}@customer.example" for n in range(40)
    ))  # fmt: skip
    yield Case(
        "odd-names",
        text(
            _base(
                '"Doe, Jane; \\"JD\\"" <jane@customer.example>, 🎉 Party <party@customer.example>, محمد <m@customer.example>'
            )
        ),
        (JANE, "party@customer.example", "m@customer.example"),
    )
    yield Case("reply-to-two", text(_base(Reply_To="Help <help@acme.example>, desk@acme.example")), (JANE,))
    yield Case("reply-to-name", text(_base(Reply_To="Hilfe für Sie <help@acme.example>")), (JANE,))


def _structured() -> Iterator[Case]:
    message = _base(subject="Pictures and a file")
    message.set_content("Look at them.\n")
    message.add_alternative('<p><img src="cid:one@acme"><img src="cid:two%40acme"></p>', subtype="html")
    html = message.get_payload()[1]
    html.add_related(PNG, "image", "png", cid="<one@acme>", filename="one.png", disposition="inline")
    html.add_related(GIF, "image", "gif", cid="<two@acme>")
    message.add_attachment(b"%PDF-1.4 \0\xff", "application", "pdf", filename="报告 תקציר.pdf")
    yield Case("pictures-and-file", _flat(message), (JANE,))

    message = _base(subject="A picture outside the related part")
    message.set_content('<img src="cid:far@acme">', subtype="html")
    message.add_attachment(PNG, "image", "png", cid="<far@acme>", filename="far.png")
    yield Case("picture-in-mixed", _flat(message), (JANE,))

    message = _base(subject="Five megabytes")
    message.set_content("See the file.\n")
    blob = random.Random(5).randbytes(5 * 2**20)
    message.add_attachment(blob, "application", "zip", filename="five.zip")
    yield Case("five-megabytes", _flat(message), (JANE,))

    message = _base(subject="Notes")
    message.set_content("First text.\n")
    message.add_attachment("second,text\n", subtype="csv", filename="t.csv")
    message.add_attachment("A footer of a list\n", disposition="inline", filename=None)
    yield Case("two-texts", _flat(message), (JANE,))

    body = b"\r\n".join(
        [
            b"--d",
            b"",
            b"Subject: one\r\n\r\nFirst message\r\nFrom here on",
            b"--d",
            b"",
            b"Subject: two\r\n\r\nSecond",
            b"--d--",
            b"",
        ]
    )
    yield Case("digest", _by_hand('Content-Type: multipart/digest; boundary="d"', body), (JANE,))

    part = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    body = (
        b"--b\r\n\r\ntext\r\n--b\r\n"
        + part
        + bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"")
        + b"\r\n--b--\r\n"
    )
    yield Case("binary-part", _by_hand("Content-Type: multipart/mixed; boundary=b", body), (JANE,))

    body = b"--b\r\n\r\ntext\r\n--b\r\nContent-Transfer-Encoding: x-uuencode\r\nContent-Type: image/gif\r\n\r\nbegin 644 a\r\n--b--\r\n"
    yield Case("unknown-encoding", _by_hand("Content-Type: multipart/mixed; boundary=b", body), (JANE,))

    body = b"--b\r\nContent-Type: text/plain\r\n\r\nplain\r\n--b\r\nContent-Type: text/x-amp-html\r\n\r\n<html amp4email>\r\n--b\r\nContent-Type: text/html\r\n\r\n<b>html</b>\r\n--b--\r\n"
    yield Case("amp", _by_hand("Content-Type: multipart/alternative; boundary=b", body), (JANE,))

    body = b"--b\r\n\r\nplain\r\n--b\r\nContent-Type: application/x-secret-view\r\n\r\n1\r\n--b--\r\n"
    yield Case("odd-alternative", _by_hand("Content-Type: multipart/alternative; boundary=b", body), (JANE,))

    body = b"--b\r\nContent-Type: message/partial; id=x; number=1\r\n\r\n1\r\n--b--\r\n"
    yield Case("partial", _by_hand("Content-Type: multipart/mixed; boundary=b", body), (JANE,))

    body = b"--b\r\n\r\nSee the invitation.\r\n--b\r\nContent-Type: text/calendar\r\nContent-Disposition: attachment; filename=i.ics\r\n\r\nBEGIN:VCALENDAR\r\n--b--\r\n"
    yield Case("calendar-as-file", _by_hand("Content-Type: multipart/mixed; boundary=b", body), (JANE,))

    body = b"preamble\r\n--b\r\nContent-Type: text/plain;\r\n charset=utf-8\r\n\r\none\r\n--b--\r\nepilogue --b--\r\n"
    yield Case("preamble", _by_hand("Content-Type: multipart/mixed; boundary=b", body), (JANE,))


def _headed() -> Iterator[Case]:
    def text(message: EmailMessage) -> bytes:
        message.set_content("Hello\n")
        return _flat(message)

    yield Case("subject-900", text(_base(subject="ご注文の確認" * 150)), (JANE,))
    yield Case("subject-200", text(_base(subject="تأكيد الطلب " * 16 + "end")), (JANE,))
    yield Case("subject-braces", text(_base(subject="Hello {{ name }}")), (JANE,))
    controls = {"X_SES_CONFIGURATION_SET": "theirs", "X_MC_Tags": "theirs", "X_Mailgun_Tag": "theirs"}
    yield Case("vendor-controls", text(_base(**controls, X_MSYS_API="{}", X_SMTPAPI="{}")), (JANE,))
    stamped = {"X_Virtual_MTA": "acme-42-mta4-pool-7", "X_Feedtype": "transactional", "X_Zone": "us-1"}
    yield Case("stamped", text(_base(**stamped, X_ServerID="mta4", X_Mailer="Acme 1", Auto_Submitted="auto-generated")), (
        JANE,
    ))  # fmt: skip
    octets = text(_base())
    yield Case("header-twice", octets.replace(b"Subject:", b"X-Tag: one\r\nX-Tag: two\r\nSubject:"), (JANE,))
    yield Case("header-twice-alike", octets.replace(b"Subject:", b"X-Tag: one\r\nX-Tag: one\r\nSubject:"), (JANE,))
    yield Case("header-8bit", octets.replace(b"Subject:", "X-Place: Köln\r\nSubject:".encode()), (JANE,))
    resent = b"Resent-To: other@customer.example\r\nResent-From: shop@acme.example\r\nSubject:"
    yield Case("resent", octets.replace(b"Subject:", resent, 1), (JANE,))
