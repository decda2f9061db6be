"""Numbers that contradict one another."""

from __future__ import annotations

from relay.config.models import Config
from relay.config.places import Report
from relay.redisdb.address import is_shared


def check_limits(config: Config, report: Report) -> None:
    """Schedules, times, sizes and stores."""
    _check_retry(config, report)
    if config.health.recheck_for < config.health.recheck_every:
        what = "must not be shorter than recheck_every: the node would never be tested"
        report.fault(("health", "recheck_for"), what)
    for index, bridge in enumerate(config.bridges):
        if bridge.limits.size is not None and bridge.limits.size > config.limits.size:
            what = "larger than limits.size, which the listener announces and enforces first"
            report.warn(("bridges", index, "limits", "size"), what, "raise limits.size")
    _check_store(config, report)


def _check_retry(config: Config, report: Report) -> None:
    schedule = config.retry.schedule
    for index in range(1, len(schedule)):
        if schedule[index] < schedule[index - 1]:
            report.fault(("retry", "schedule", index), "shorter than the wait before it", "sort the schedule")
    if schedule[0] > config.retry.max_age:
        what = "shorter than the first wait of the schedule: no message would ever be tried again"
        report.fault(
            ("retry", "max_age") if "max_age" in config.retry.model_fields_set else ("retry", "schedule", 0), what
        )


def _check_store(config: Config, report: Report) -> None:
    spool, state = config.store.spool, config.store.state
    if is_shared(spool) and not is_shared(state):
        what = "messages are shared but caps and health are not: caps would be exceeded by every replica"
        report.fault(("store",), what, "give `state` a redis:// URL too")
    if "memory:" in (spool, state):
        report.warn(("store",), "memory: forgets everything at a restart; accepted mail is lost", "for trying out only")
