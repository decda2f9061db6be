"""The table of drivers: every line of it works, and nothing is imported before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from relay.fields import Options
from relay.upstreams import KINDS, make, options_model
from relay.upstreams.base import Setting


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_options_model(kind: str) -> None:
    assert issubclass(options_model(kind), Options)


async def test_drivers_are_made_from_their_options() -> None:
    options = {"smtp": {"host": "127.0.0.1"}, "sandbox": {}}
    for kind, given in options.items():
        upstream = make(kind, "n1", options_model(kind).model_validate(given), Setting(ehlo="relay.example"))
        await upstream.close()


def test_an_unknown_kind_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        options_model("carrier-pigeon")


def test_reading_options_loads_no_driver() -> None:
    program = (
        "import sys; from relay.upstreams import KINDS, options_model; [options_model(kind) for kind in KINDS];"
        "heavy = ('aiosmtplib', 'httpx', 'botocore', 'relay.upstreams.smtp', 'relay.upstreams.sandbox',"
        "         'relay.upstreams.http_api');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
