"""The HTTP edge: one form out, one answer in. Knows nothing of what they mean."""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import parsedate_to_datetime

import httpx

from relay.oauth.requests import Answer, Form, NoAnswer

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
LIMIT = 256 * 1024
"""Octets of an answer that are read; those of a token are a few thousand."""


class Endpoint:
    """Posts forms. Proxies of the environment are honoured, certificates checked, redirects never followed: the form
    holds secrets that were meant for one server."""

    def __init__(self, timeout: httpx.Timeout = TIMEOUT) -> None:
        self._timeout = timeout
        self._client: httpx.AsyncClient | None = None

    async def post(self, form: Form) -> Answer:
        """Raises NoAnswer."""
        if self._client is None:
            # In a thread: reading the system's authorities takes 22 ms.
            made = await asyncio.to_thread(httpx.AsyncClient, timeout=self._timeout, follow_redirects=False)
            if self._client is None:
                self._client = made
            else:
                await made.aclose()
        headers = {"Accept": "application/json", "User-Agent": "relay", **form.headers}
        try:
            async with (
                asyncio.timeout(2 * (self._timeout.read or 30.0)),
                self._client.stream("POST", form.url, data=dict(form.fields), headers=headers) as response,
            ):
                body = b""
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > LIMIT:
                        raise NoAnswer(f"the answer is larger than {LIMIT} octets")
                wait = _retry_after(response.headers.get("retry-after", ""), time.time())
                return Answer(status=response.status_code, body=body, retry_after_s=wait)
        except (httpx.TimeoutException, TimeoutError):
            raise NoAnswer(f"{_host(form.url)} gave no answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoAnswer(f"{_host(form.url)}: {str(error) or type(error).__name__}") from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _host(url: str) -> str:
    return httpx.URL(url).host


def _retry_after(text: str, now: float) -> float | None:
    """Seconds or a date (RFC 9110 §10.2.3)."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        wait = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return wait if 0.0 < wait < math.inf else None
