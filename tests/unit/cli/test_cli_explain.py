"""The last line of `relay explain` about a message that is done."""

from __future__ import annotations

from typing import Any

import pytest

from relay.cli.explain import _ended


def event(name: str, *recipients: str, **more: Any) -> dict[str, Any]:
    return {"event": name, "recipients": list(recipients), **more}


DELIVERED, REFUSED = event("attempt.delivered", "a@x"), event("attempt.refused", "b@x")


@pytest.mark.parametrize(
    ("story", "ended"),
    [
        pytest.param([DELIVERED], "delivered", id="delivered"),
        pytest.param([DELIVERED, event("dsn.created", "a@x", action="relayed")], "delivered", id="success told"),
        pytest.param([DELIVERED, event("dsn.suppressed")], "delivered", id="nothing to tell"),
        pytest.param(
            [event("attempt.deferred", "a@x"), event("dsn.created", "a@x", action="delayed"), DELIVERED],
            "delivered",
            id="after a delay that was told",
        ),
        pytest.param(
            [REFUSED, event("dsn.created", "b@x", action="failed")], "refused, and the sender is told", id="refused"
        ),
        pytest.param([REFUSED, event("dsn.suppressed")], "refused", id="refused, nobody to tell"),
        pytest.param(
            [event("message.expired", "a@x"), event("dsn.created", "a@x", action="failed")],
            "given up, and the sender is told",
            id="too old",
        ),
        pytest.param(
            [event("attempt.delivered", "a@x", "c@x"), REFUSED, event("dsn.created", "b@x", action="failed")],
            "delivered for 2 recipients, refused for 1 recipient, and the sender is told",
            id="each its own",
        ),
        pytest.param([event("message.dropped")], "removed by an operator", id="dropped"),
        pytest.param(
            [DELIVERED, event("message.dropped")], "delivered, the rest removed by an operator", id="part dropped"
        ),
        pytest.param([event("message.accepted", "a@x")], "", id="no end in the story"),
    ],
)
def test_the_end_of_a_message_in_words(story: list[dict[str, Any]], ended: str) -> None:
    assert _ended(story) == ended
