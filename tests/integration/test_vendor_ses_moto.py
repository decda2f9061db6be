"""The SES driver against moto, an implementation of the AWS APIs that is not ours, as a server process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest

from relay.outcome import Outcome, Status
from relay.upstreams import make, options_model
from relay.upstreams.base import Setting
from tests.fakes.vendor_corpus import case
from tests.fakes.vendor_node import joined, letter
from tests.scenario.harness import free_port

KEYS = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret"}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """URL of a moto server with the verified domain acme.example."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 40
        while True:
            try:
                httpx.get(f"{url}/moto-api/data.json", timeout=5, trust_env=False)
                break
            except httpx.HTTPError:
                assert process.poll() is None, "moto ended"
                assert time.monotonic() < end, "moto did not start"
                time.sleep(0.1)
        client = boto3.client("sesv2", region_name="eu-west-1", endpoint_url=url, **KEYS)
        client.create_email_identity(EmailIdentity="acme.example")
        client.close()
        yield url
    finally:
        process.terminate()
        process.wait(10)


async def _send(url: str, octets: bytes, recipients: list[str]) -> list[Outcome]:
    options = {"region": "eu-west-1", "access_key_id": "AKIAEXAMPLE", "secret_access_key": "secret", "base_url": url}
    upstream = make("ses", "ses", options_model("ses").model_validate(options), Setting(ehlo="relay.example"))
    try:
        results = await upstream.deliver(letter(octets, recipients), deadline=asyncio.get_running_loop().time() + 30)
    finally:
        await upstream.close()
    return [result.outcome for result in results]


def _messages(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{url}/moto-api/data.json", trust_env=False).json()["ses"]["RawMessage"]
    return found


async def test_a_raw_message_arrives_with_the_envelope_and_its_id(moto: str) -> None:
    octets = case("attachments").octets
    (outcome, _) = await _send(moto, octets, ["jane@customer.example", "hidden@customer.example"])
    assert outcome.status is Status.DELIVERED, outcome
    (taken,) = [m for m in _messages(moto) if m["id"] == outcome.vendor_id]
    # What follows is moto's own: it adds the addresses of the header section.
    assert taken["destinations"][:2] == ["jane@customer.example", "hidden@customer.example"]
    assert taken["raw_data"].encode("utf-8") == joined(octets)


async def test_a_sender_that_is_not_verified_is_told(moto: str) -> None:
    (outcome,) = await _send(moto, case("from-encoded-address").octets, ["jane@customer.example"])
    assert outcome.status is Status.REFUSED
    assert outcome.enhanced == "5.7.1"
    assert outcome.text == "MessageRejected: Did not have authority to send from email bad@other.example"
