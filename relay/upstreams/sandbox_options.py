"""Options of a node of type `sandbox`: it takes mail without sending it, and fails on request. Pure: no I/O."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from relay.fields import Count, FilePath, Integer, Options, Period, Ratio, Text

_REPLY = re.compile(r"[2-5][0-9]{2}([ -].*)?")


def _reply(text: str) -> str:
    if text and not _REPLY.fullmatch(text):
        raise ValueError("a reply begins with its code; write for example `550 5.1.1 no such mailbox`")
    return text


class SandboxRule(Options):
    """One way to fail, and for whom. The first rule that fits a recipient decides."""

    mode: Literal["refuse", "defer", "drop-after-dot", "delay", "node-fault"]
    """`refuse` (5xx), `defer` (4xx), `drop-after-dot` (no answer after the content: uncertain), `delay` (answers late,
    then takes the message), `node-fault` (the node itself is unwell)."""
    rate: Ratio = 1.0
    """Share of the messages the rule meets, from 0 to 1."""
    recipients: Annotated[str, StringConstraints(min_length=1, max_length=320)] = "*"
    """Recipients the rule meets, as a shell pattern such as `*@refuse.example`."""
    delay: Period | None = None
    """Wait before the answer; `delay` needs it, for the other modes it is optional."""
    reply: Annotated[Text, AfterValidator(_reply)] = ""
    """Reply of the pretended server, code first; empty for the usual one of the mode."""

    @model_validator(mode="after")
    def _delay_has_a_length(self) -> SandboxRule:
        if self.mode == "delay" and self.delay is None:
            raise ValueError("mode delay needs `delay`, for example 2s")
        return self


class SandboxOptions(Options):
    """A node that needs no server: for trying out, tests and demonstrations."""

    directory: FilePath | None = None
    """Folder in which each message is kept as `.eml`; left out, messages are only counted."""
    keep: Count = 1000
    """Messages kept, the newest; older files are removed."""
    fail: tuple[SandboxRule, ...] = ()
    """Rules of failing, tried in order; none: everything is taken."""
    seed: Annotated[Integer, Field(ge=0)] | None = None
    """Seed of the draws for `rate`, for runs that repeat exactly."""
