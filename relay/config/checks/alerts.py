"""Targets of alerts: names that are unique, and that lead somewhere."""

from __future__ import annotations

from relay.config.faults import did_you_mean
from relay.config.models import Config
from relay.config.places import Report


def check_alerts(config: Config, report: Report, *, complete: bool) -> None:
    """
    Args:
        complete: the configuration holds every file; else a missing name is not reported.
    """
    bridges = {bridge.name: bridge.pool for bridge in config.bridges}
    hooks = {hook.name for hook in config.webhooks if hook.name}
    seen: set[str] = set()
    for index, target in enumerate(config.alerts.targets):
        path = ("alerts", "targets", index)
        if target.name in seen:
            report.fault((*path, "name"), f'the target "{target.name}" is there twice', "choose another name")
        seen.add(target.name)
        if not complete:
            continue
        if target.webhook is not None and target.webhook not in hooks:
            hint = did_you_mean(target.webhook, hooks) or "webhooks that alerts use need a `name`"
            report.fault((*path, "webhook"), f'there is no webhook "{target.webhook}"', hint)
        for number, name in enumerate(target.bridges):
            if name not in bridges:
                report.fault((*path, "bridges", number), f'there is no bridge "{name}"', did_you_mean(name, bridges))
        pools = {bridges[name] for name in target.bridges if name in bridges}
        if target.email and len(pools) == 1 and len(config.pools) > 1:
            report.warn(
                (*path, "bridges"),
                "all bridges of this target lead into one pool: of trouble in that pool it hears nothing by mail",
                "name a bridge of another pool too",
            )
