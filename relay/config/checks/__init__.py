"""What can only be seen over several keys, or outside the files: references, exposure, keys on disk.

Each check takes the configuration and a report; all of them run, so one run tells everything.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from relay.config.checks.alerts import check_alerts
from relay.config.checks.exposure import check_exposure
from relay.config.checks.keys import check_keys
from relay.config.checks.limits import check_limits
from relay.config.checks.references import check_references
from relay.config.checks.reports import check_reports
from relay.config.models import Config
from relay.config.places import Report

__all__ = ["check"]


def check(config: Config, report: Report, *, complete: bool, now: datetime, base: Path) -> list[Path]:
    """Run every check; returns the key and certificate files that were read.

    Args:
        complete: the tree holds every file; else a missing name is not reported, it may be in a file with faults.
        now: for the validity of certificates, aware.
        base: folder that relative paths of key files start from.
    """
    files: list[Path] = []
    steps: tuple[Callable[[], object], ...] = (
        lambda: check_references(config, report, complete=complete),
        lambda: check_exposure(config, report),
        lambda: check_limits(config, report),
        lambda: check_reports(config, report),
        lambda: check_alerts(config, report, complete=complete),
        lambda: files.extend(check_keys(config, report, now=now, base=base)),
    )
    for step in steps:
        step()
    return files
