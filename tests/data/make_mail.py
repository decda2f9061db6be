"""Writes the message corpus `tests/data/mail/*.eml`: CRLF octets, the same on every run.

    python tests/data/make_mail.py

Most messages are built with the standard library, as clients would; the odd ones are written out by hand below. Those
named `signed-*` carry a client's DKIM signature made by dkimpy with `client.pem`; `client.txt` is the record that
verifies them.
"""

# ruff: noqa: RUF001
from __future__ import annotations

import base64
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from pathlib import Path
from unittest import mock

import dkim

FOLDER = Path(__file__).parent / "mail"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SUBJECTS = {
    "arabic": ("تأكيد الطلب رقم 1042", "utf-8"),
    "hebrew": ("אישור הזמנה 1042", "utf-8"),
    "persian": ("سفارش شما ارسال شد", "utf-8"),
    "russian": ("Ваш заказ принят", "koi8-r"),
    "greek": ("Η παραγγελία σας", "iso-8859-7"),
    "chinese": ("您的订单已发货", "gb18030"),
    "taiwanese": ("您的訂單已出貨", "big5"),
    "japanese": ("ご注文の確認", "iso-2022-jp"),
    "korean": ("주문이 접수되었습니다", "euc-kr"),
    "hindi": ("आपका ऑर्डर भेज दिया गया है", "utf-8"),
    "thai": ("ยืนยันคำสั่งซื้อ", "utf-8"),
    "german": ("Grüße: Ihre Bestellung über 12,50 €", "utf-8"),
    "polish": ("Zażółć gęślą jaźń", "iso-8859-2"),
    "emoji": ("🎉 It is on its way 📦", "utf-8"),
    "mixed": ("Order 1042 – طلب – 注文", "utf-8"),
}
LOREM = (
    "We have received your order and are getting it ready. You will hear from us again as soon as it leaves the "
    "house; until then nothing has to be done on your side.\n\n"
)


def basis(subject: str = "Order 1042", number: int = 1, **fields: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = Address("Acme Shop", "shop", "acme.example")
    message["To"] = Address("Jane Doe", "jane", "customer.example")
    message["Subject"] = subject
    message["Date"] = "Tue, 14 Nov 2023 22:13:20 +0000"
    message["Message-ID"] = f"<{number}.1700000000@acme.example>"
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def flat(message: EmailMessage) -> bytes:
    for index, part in enumerate(
        p for p in message.walk() if p.is_multipart() and p.get_content_maintype() == "multipart"
    ):
        part.set_boundary(f"=_part_{index}_acme")
    return message.as_bytes()


def built() -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    message = basis()
    message.set_content(LOREM)
    out["plain"] = flat(message)

    for number, (name, (subject, charset)) in enumerate(SUBJECTS.items(), 100):
        message = basis(number=number)
        message.set_content(f"{subject}\n\n" * 3, charset="utf-8", cte="8bit")
        octets = flat(message)
        word = b"=?%s?b?%s?=" % (charset.encode(), base64.b64encode(subject.encode(charset)))
        out[f"subject-{name}"] = octets.replace(b"Subject: Order 1042", b"Subject: " + word)
        message = basis(number=number)
        message.set_content(f"{subject}\n\n" * 3, charset="utf-8", cte="base64" if number % 2 else "quoted-printable")
        out[f"body-{name}"] = flat(message)

    message = basis("Newsletter", 2, List_Unsubscribe="<https://acme.example/u/1>, <mailto:u@acme.example>")
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message["List-Id"] = "Acme news <news.acme.example>"
    message["Precedence"] = "bulk"
    message["X-Relay-Campaign"] = "spring-2024.a"
    message.set_content(LOREM * 4)
    message.add_alternative(f"<html><body><p>{LOREM}</p><p>Grüße</p></body></html>", subtype="html", cte="8bit")
    out["alternative"] = flat(message)

    message = basis("With a picture", 3)
    message.set_content(LOREM)
    message.add_alternative('<p>Look: <img src="cid:dot@acme.example"></p>', subtype="html")
    html = message.get_payload()[1]
    html.add_related(PNG, "image", "png", cid="<dot@acme.example>", filename="dot.png")
    out["inline-image"] = flat(message)

    message = basis("Invoice", 4)
    message.set_content(LOREM)
    message.add_attachment(b"%PDF-1.4\n" + bytes(range(256)) * 40, "application", "pdf", filename="Rechnung Müller.pdf")
    message.add_attachment("a;b;c\n1;2;3\n", subtype="csv", filename="lines.csv")
    out["attachments"] = flat(message)

    message = basis("Invitation", 5)
    message.set_content(LOREM)
    calendar = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nSUMMARY:Grüße\nEND:VEVENT\nEND:VCALENDAR\n"
    message.add_alternative(calendar, subtype="calendar", params={"method": "REQUEST"}, cte="8bit")
    out["calendar"] = flat(message)

    encrypted = basis("SMIME", 6)
    encrypted.set_content(bytes(range(256)) * 8, "application", "pkcs7-mime", filename="smime.p7m")
    out["smime-opaque"] = flat(encrypted)

    forward = basis("Fwd: Order", 7)
    forward.set_content("See below.\n")
    inner = basis("Inner Grüße", 8)
    inner.set_content("Grüße von innen\n", charset="utf-8", cte="8bit")
    forward.add_attachment(inner)
    out["forwarded"] = flat(forward)

    wide = basis("Grüße ohne Kodierung", 9)
    wide.policy = SMTPUTF8
    wide.replace_header("To", "Jürgen Müller <jürgen@bücher.example>")
    wide.set_content("Grüße\n", cte="8bit")
    out["smtputf8"] = flat(wide)

    many = basis("To many", 10)
    many.replace_header("To", ", ".join(f"Person {i} <p{i}@customer.example>" for i in range(120)))
    many.set_content(LOREM)
    out["folded-to"] = flat(many)

    thread = basis("Re: Order", 11, In_Reply_To="<1.1700000000@acme.example>", Sender="robot@acme.example")
    thread["References"] = " ".join(f"<{i}.thread@customer.example>" for i in range(60))
    thread["Reply-To"] = "help@acme.example"
    thread.set_content("> quoted\n" * 30 + "answer\n")
    out["thread"] = flat(thread)
    return out


HEAD = b"From: Acme Shop <shop@acme.example>\nTo: jane@customer.example\nSubject: odd\n"
DATES = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\nMessage-ID: <odd@acme.example>\n"

BY_HAND: dict[str, bytes] = {
    "report": b"From: MAILER-DAEMON@mx.example\nTo: shop@acme.example\nSubject: Undelivered\n"
    b"Auto-Submitted: auto-replied\n" + DATES + b"MIME-Version: 1.0\n"
    b"Content-Type: multipart/report; report-type=delivery-status; boundary=r\n\n--r\n\nIt did not work.\n"
    b"--r\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\n"
    b"Final-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.1.1\n\n"
    b"--r\nContent-Type: text/rfc822-headers\n\nSubject: Order 1042\n\n--r--\n",
    "pgp-signed": HEAD + DATES + b"MIME-Version: 1.0\n"
    b'Content-Type: multipart/signed; protocol="application/pgp-signature"; micalg=pgp-sha256; boundary="s s"\n\n'
    b"--s s\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    + "Grüße, signed\n".encode() + b"--s s\nContent-Type: application/pgp-signature; name=signature.asc\n\n"
    b"-----BEGIN PGP SIGNATURE-----\n\niQEzBAEBCAAdFiEE\n-----END PGP SIGNATURE-----\n--s s--\n",
    "empty": b"",
    "only-blank": b"\n",
    "headers-only": HEAD + DATES,
    "headers-only-blank": HEAD + DATES + b"\n",
    "body-only": b"\nJust text, no header at all.\n",
    "text-as-head": b"Printer tray 2 is empty\nPlease add paper\n\nThank you.\n",
    "no-date-no-id": HEAD + b"\nA device wrote this.\n",
    "no-from": b"To: jane@customer.example\nSubject: who\n" + DATES + b"\nhello\n",
    "two-from": HEAD + b"From: evil@other.example\n" + DATES + b"\nhello\n",
    "two-subjects": HEAD + b"Subject: another\nDate: Tue, 14 Nov 2023 22:13:20 +0000\nDate: x\n\nhello\n",
    "from-list": b"From: a@acme.example, b@acme.example\nSender: a@acme.example\n" + DATES + b"\nhello\n",
    "from-group": b"From: Shop: a@acme.example;\n" + DATES + b"\nhello\n",
    "from-quoted": b'From: "Doe, \\"Jo\\" <x@evil.example>" (the (real) one) <jo@acme.example>\n' + DATES + b"\nhi\n",
    "from-trick": b"From: good@acme.example<bad@other.example>\n" + DATES + b"\nhi\n",
    "from-encoded-address": b"From: =?utf-8?q?good=40acme=2Eexample?= <bad@other.example>\n" + DATES + b"\nhi\n",
    "first-line-blank-begun": b" leading blank\nFrom: a@acme.example\n" + DATES + b"\nhi\n",
    "malformed-lines": HEAD + b"no colon here\nBad Name: x\n: nothing\nGr\xfc\xdfe: y\n" + DATES + b"\nhi\n",
    "mbox-line": b"From shop@acme.example Tue Nov 14 22:13:20 2023\n" + HEAD + DATES + b"\nhi\n",
    "blank-before-colon": b"From : a@acme.example\nSubject\t: x\nX-Zone : mine\n" + DATES + b"\nhi\n",
    "controls": HEAD + b"x-virtual-mta: other\nX-FEEDTYPE: a\nX-Zone:\n folded\n value\nX-ServerID: 1\nX-ServerId: 2\n"
    b"Bcc: secret@customer.example\nBCC: more@customer.example,\n\tthird@customer.example\n"
    b"Return-Path: <x@y.example>\nX-Relay-Campaign: spring\nX-Relay-Rotation: weighted\nX-Relay-Lane: bulk\n"
    b"X-Relay-Idempotency-Key: k-1\n" + DATES + b"\nhi\n",
    "controls-invalid": HEAD + b"X-Relay-Campaign: a b\nX-Relay-Rotation: best\nX-Relay-Lane: \n" + DATES + b"\nhi\n",
    "eight-bit-raw": HEAD + DATES + "\nGrüße ohne MIME\n".encode(),
    "latin1-raw": HEAD + DATES + "\nGrüße in Latin-1\n".encode("latin-1"),
    "latin1-subject": b"From: a@acme.example\nSubject: Gr\xfc\xdfe\n" + DATES + b"\nhi\n",
    "long-line-998": HEAD + DATES + b"\n" + b"x" * 998 + b"\n",
    "long-line-5000": HEAD + DATES + b"\n" + b"word " * 1000 + b"\nend\n",
    "long-header": HEAD + b"X-Long: " + b"word " * 400 + b"end\n" + DATES + b"\nhi\n",
    "dots": HEAD + DATES + b"\n.\n..\n...\n.x\n\n.\n",
    "trailing-blanks": HEAD + DATES + b"\nline with blanks  \t \n\t\n  \n\n\n\n\n",
    "no-final-line-end": HEAD + DATES + b"\nno line end here",
    "unknown-charset": HEAD + b"Subject: =?x-nothing?q?a?= =?hex?b?AA==?= =?utf-8?b?broken\n" + DATES + b"\nhi\n",
    "hidden-line-in-subject": b"From: a@acme.example\nSubject: =?utf-8?q?a=0D=0ABcc:_x=40y?=\n" + DATES + b"\nhi\n",
    "direction-marks": b"From: a@acme.example\nSubject: =?utf-8?b?4oCuZXhlLnBkZg==?=\n" + DATES + b"\nhi\n",
    "nested-comments": b"From: " + b"(" * 600 + b")" * 600 + b" a@acme.example\n" + DATES + b"\nhi\n",
    "boundary-missing": HEAD + DATES + b"MIME-Version: 1.0\nContent-Type: multipart/mixed\n\n--a\n\nx\n--a--\n",
    "boundary-prefix": HEAD + DATES + b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=a\n\n"
    b"--a\nContent-Type: multipart/mixed; boundary=ab\n\n--ab\n\ninner\n--ab--\n--a\n\nouter\n--a--\n",
    "hops": b"".join(b"Received: from a by mx%d.example; Tue, 14 Nov 2023 22:13:20 +0000\n" % i for i in range(25))
    + HEAD + DATES + b"\nhi\n",
    "empty-values": b"From:\nTo:\nSubject:\nDate:\nMessage-ID:\n\nhi\n",
    "message-id-odd": HEAD + b"Message-ID: <[]@@>\nDate: yesterday\n\nhi\n",
}  # fmt: skip

SIGNED = {
    "signed-relaxed": ("plain", b"relaxed", b"relaxed", None),
    "signed-simple": ("alternative", b"simple", b"simple", None),
    "signed-mixed": ("attachments", b"relaxed", b"simple", None),
    "signed-8bit": ("subject-arabic", b"relaxed", b"relaxed", None),
    "signed-trailing": ("trailing-blanks", b"simple", b"relaxed", None),
    "signed-without-date": (
        "no-date-no-id",
        b"relaxed",
        b"relaxed",
        [b"from", b"to", b"subject", b"date", b"message-id"],
    ),
    "signed-covers-ours": ("controls", b"relaxed", b"relaxed", [b"from", b"subject", b"x-zone"]),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    messages = built()
    messages |= {name: octets.replace(b"\n", b"\r\n") for name, octets in BY_HAND.items()}
    key = (FOLDER / "client.pem").read_bytes()
    for name, (origin, header, body, include) in SIGNED.items():
        octets = messages[origin]
        with mock.patch("dkim.time.time", return_value=1_700_000_000):
            signature = dkim.sign(
                octets, b"client", b"acme.example", key, canonicalize=(header, body), include_headers=include
            )
        # One key for two messages would make the second a mistake of its sender; no signature here covers the key.
        messages[name] = signature + octets.replace(b"Idempotency-Key: k-1", b"Idempotency-Key: k-2")
    for name, octets in messages.items():
        (FOLDER / f"{name}.eml").write_bytes(octets)


if __name__ == "__main__":
    main()
