"""Mail of the relay itself: alerts, through a bridge and by the same acceptance as any other.

It carries `Auto-Submitted` (RFC 3834), so that nobody's machine answers it, and nothing in the relay reacts to what
becomes of it: an alert about an alert cannot come of it.
"""

from __future__ import annotations

import base64

from relay.admin.alerts.targets import Told
from relay.admin.alerts.words import Words
from relay.admin.services.compose import Unfit, canonical, compose
from relay.admin.workers import Workers
from relay.control.protocol import ControlError
from relay.envelope import Reply
from relay.listener.body import BodyLimits

_MAX = 256 * 1024


class OwnMail:
    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def __call__(self, bridge: str, sender: str, to: tuple[str, ...], said: Words) -> Told:
        """Hand a mail to acceptance. Taken means stored, as 250 does."""
        try:
            composed = compose(
                {
                    "from": sender,
                    "to": list(to),
                    "subject": said.subject,
                    "text": said.body,
                    "headers": {"Auto-Submitted": "auto-generated"},
                }
            )
        except Unfit as error:
            return Told(False, f"the mail cannot be written: {error.where}: {error.what}")
        limits = BodyLimits(max_size=_MAX, max_header=_MAX, max_received=100, memory_limit=2 * _MAX, normalize=True)
        content = canonical(composed.raw, limits)
        if isinstance(content, Reply):
            return Told(False, str(content))
        message = {
            "sender": composed.sender,
            "recipients": composed.recipients,
            "head": base64.b64encode(content.head).decode(),
            "body": base64.b64encode(content.body).decode(),
            "eight_bit": content.eight_bit,
            "long_lines": content.long_lines,
        }
        try:
            answer = await self._workers.any("submit", peer="127.0.0.1", bridge=bridge, messages=[message])
        except ControlError as error:
            return Told(False, str(error))
        if not answer["bridge"]:
            return Told(False, f"the running relay has no bridge {bridge!r}")
        (result,) = answer["results"]
        return Told(result["code"] < 400, f"{bridge}: {result['code']} {result['enhanced']} {result['text']}")
