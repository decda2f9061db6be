"""One call to a service by Apprise, as a program of its own: JSON in on standard input, JSON out.

A process of its own because Apprise waits, logs what it likes and reads the environment: it can be ended when it takes
too long, its words are masked before anybody sees them, and every address it would connect to is judged at the moment
of connecting, as for webhooks (`relay.admin.webhooks.reach`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import socket
import sys
from typing import Any
from urllib.parse import unquote

from relay.admin.webhooks.reach import Forbidden, judged

MASK = "***"


def masked(text: str, url: str) -> str:
    """`text` without any part of the URL that may be secret: all but its scheme."""
    rest = url.partition("://")[2]
    parts = {url, rest, *re.split(r"[/?&=:@#]", rest)}
    parts |= {unquote(part) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= 3:
            text = text.replace(part, MASK)
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def guard(*, allow_private: bool) -> list[str]:
    """From now on names resolve to judged addresses only. Returns the list of what was refused, filled later."""
    resolve = socket.getaddrinfo
    refused: list[str] = []

    def judging(host: Any, *args: Any, **kwargs: Any) -> Any:
        answers = resolve(host, *args, **kwargs)
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
        try:
            judged(name, [str(answer[4][0]) for answer in answers], allow_private=allow_private)
        except Forbidden as error:
            refused.append(str(error))
            raise OSError(str(error)) from error
        return answers

    socket.getaddrinfo = judging
    return refused


def main() -> None:
    asked = json.load(sys.stdin)
    url = str(asked["url"])
    refused = guard(allow_private=bool(asked["allow_private"]))
    words = io.StringIO()
    logging.getLogger("apprise").addHandler(logging.StreamHandler(words))
    is_told, answer = False, ""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import apprise

        asset = apprise.AppriseAsset(app_id="relay", app_desc="relay", secure_logging=True, async_mode=False)
        service = apprise.Apprise(asset=asset)
        try:
            if not service.add(url):
                answer = "Apprise does not understand this URL"
            else:
                is_told = bool(service.notify(title=asked["title"], body=asked["body"], body_format="text"))
        except Exception as error:  # a plug-in's defect must be told as well, masked
            answer = f"{type(error).__name__}: {error}"
    answer = "; ".join(part for part in (*refused[:1], answer, words.getvalue()) if part)
    text = "taken" if is_told else masked(answer, url) or "not taken; the service gave no reason"
    sys.stdout.write(json.dumps({"taken": is_told, "answer": text[:400]}))


if __name__ == "__main__":
    main()
