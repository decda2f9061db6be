"""Node health: the record and its transitions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"  # taken out by a fault or a failed test; re-checked until `give_up_at`
    PAUSED = "paused"  # by an operator, until `paused_until` or until resumed


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """What is known of a node.

    Attributes:
        test_status: `ok`, or the exact last error of the upstream (secrets masked, at most 500 characters).
        since: epoch seconds at which `status` began.
        next_check: when an INACTIVE node is tested next; 0 = not at all.
        give_up_at: after this an INACTIVE node stays off until an operator acts; 0 = not inactive.
        cool_until: an ACTIVE node takes nothing before this (quota replies); 0 = free.
        cool_reason: the reply that asked for it.
        pause_reason, paused_by, paused_until: of PAUSED; `paused_until` 0 = no expiry.
        failures: consecutive node faults and failed tests.
    """

    status: NodeStatus = NodeStatus.ACTIVE
    test_status: str = ""
    since: float = 0.0
    next_check: float = 0.0
    give_up_at: float = 0.0
    cool_until: float = 0.0
    cool_reason: str = ""
    pause_reason: str = ""
    paused_by: str = ""
    paused_until: float = 0.0
    failures: int = 0
