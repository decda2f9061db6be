"""Reports of failure need a node that can say the null reverse-path."""

from __future__ import annotations

from relay.config.models import Config
from relay.config.places import Report


def check_reports(config: Config, report: Report) -> None:
    """Warn of pools through which no report could ever leave."""
    if not config.dsn.enabled:
        return
    default = next((pool.name for pool in config.pools if pool.default), None)
    for index, pool in enumerate(config.pools):
        if config.dsn.pool not in (None, pool.name):
            continue
        nodes = [*pool.nodes, *(node for node in config.nodes if (node.pool or default) == pool.name)]
        if nodes and not any(node.carries.null_sender for node in nodes):
            what = "no node of this pool takes the null reverse-path, so reports of failure cannot leave through it"
            report.warn(("pools", index), what, "set dsn.pool to a pool with an SMTP node, or null_sender on a node")
