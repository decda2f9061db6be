"""The kinds of upstream: what a node's `type` may be, and the options model that belongs to each.

A new kind is one line here and one file beside it. Option models are pure, so reading a configuration imports no
driver; drivers are looked up by whoever builds them.
"""

from __future__ import annotations

from relay.fields import Options
from relay.upstreams.sandbox_options import SandboxOptions
from relay.upstreams.smtp_options import SmtpOptions

OPTIONS: dict[str, type[Options]] = {
    "smtp": SmtpOptions,
    "sandbox": SandboxOptions,
}
"""Node `type` → model of the keys it takes beside those every node has."""
