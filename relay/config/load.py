"""`load(path)`: files → a validated `Config`, or every fault at once.

Nothing of the configuration is applied here. What changes between two loads is only what the files, the environment and
the clock say, so a reload can be tried while the running configuration goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from relay.config.checks import check
from relay.config.faults import InvalidConfig, Notice
from relay.config.include import gather, read_bytes
from relay.config.interpolate import Interpolation
from relay.config.models import Config
from relay.config.places import Report
from relay.config.shape import shape, sort_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration fit to run.

    Attributes:
        warnings: what an operator should look at, in the order of files and lines.
        files: everything that was read: configuration, secret, certificate and key files. A change in any of them is a
            reason to load again.
    """

    config: Config
    warnings: tuple[Notice, ...]
    files: tuple[Path, ...]


def load(
    path: Path | str,
    *,
    environment: Mapping[str, str] | None = None,
    now: datetime | None = None,
    base: Path | None = None,
    read: Callable[[Path], bytes] = read_bytes,
) -> Loaded:
    """Read, join, validate and check a configuration.

    Args:
        path: the main file; includes are relative to the file that names them.
        environment: for `${NAME}`; the process's own when left out.
        now: for the validity of certificates; the clock when left out.
        base: folder that relative paths of keys, certificates and `${file:…}` start from; the working directory when
            left out.
        read: content of a configuration file; another one tries out files that are not written yet.

    Raises:
        InvalidConfig: (a `ConfigError`) with all faults and warnings.
    """
    main = Path(path)
    folder = Path() if base is None else base
    interpolation = Interpolation(os.environ if environment is None else environment, folder)
    gathered = gather(main, interpolation, read)
    order = sort_key([str(file) for file in gathered.files])
    if not gathered.root.keys and gathered.faults:
        raise InvalidConfig(sorted(gathered.faults, key=order), gathered.warnings)
    shaped = shape(gathered.root)
    report = Report(gathered.root, shaped.kept)
    report.faults += gathered.faults + shaped.faults
    report.warnings += gathered.warnings
    key_files: list[Path] = []
    if shaped.config is not None:
        moment = datetime.now(UTC) if now is None else now
        key_files = check(shaped.config, report, complete=gathered.complete, now=moment, base=folder)
    warnings = sorted(dict.fromkeys(report.warnings), key=order)
    if report.faults or shaped.config is None:
        raise InvalidConfig(sorted(report.faults, key=order), warnings)
    files = dict.fromkeys([*gathered.files, *interpolation.files, *key_files])
    return Loaded(config=shaped.config, warnings=tuple(warnings), files=tuple(files))
