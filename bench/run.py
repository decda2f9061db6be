"""The relay beside Postfix and Postfix with OpenDKIM: `make bench`.

    python -m bench.run [--quick] [--only sessions-20,dkim] [--rounds 3] [--json FILE] [--list]

Systems take turns (A B C A B C …), so that a slow minute of the machine hits all of them. In each turn a system is
started afresh, warmed up, loaded as fast as it takes, then loaded with 80 % of what it could keep up; a probe times
replies in both. See README.md beside this file for what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import backlog, flat, idle, large, limits, starting
from bench.load import programs
from bench.measure import busy_seconds, cpu_seconds
from bench.peers import Keys
from bench.report import COLUMNS, Run, as_json, summarize, table
from bench.scenarios import SCENARIOS, Scenario
from bench.study import Figures, Study
from bench.study import summarize as summarize_study
from bench.study import table as study_table
from bench.targets import verdicts
from bench.turn import Effort, prove, take_turn

STUDIES = (backlog.STUDY, large.STUDY, idle.STUDY, starting.STUDY)

Told = tuple[list[str], list[str], dict[str, Any]]
"""Lines to print, faults, figures for the JSON file."""

FAILURES = (RuntimeError, AssertionError, OSError, subprocess.SubprocessError)
"""One system that cannot be measured does not keep the others from it."""


def main() -> int:
    options = _options()
    everything = (*SCENARIOS, *flat.scenarios(quick=options.quick), *STUDIES)
    if options.list:
        for part in everything:
            of = part.rows if isinstance(part, Study) else [kind.name for kind in part.kinds]
            print(f"{part.name:17} {part.title}: {'; '.join(of)}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    effort = Effort(1, 0.25, 2.0, quick=True) if options.quick else Effort(3, 1.0, 5.0)
    effort = replace(effort, rounds=options.rounds or effort.rounds)
    names = options.only.split(",") if options.only else [part.name for part in everything]
    chosen = [part for part in everything if part.name in names]
    if not chosen:
        print(f"no such scenario; there are {', '.join(part.name for part in everything)}", file=sys.stderr)
        return os.EX_USAGE
    # Not below a home folder: Postfix's own users must reach it. Not /tmp: often memory, where fsync costs nothing.
    folder = Path(tempfile.mkdtemp(prefix="relay-bench-", dir=options.dir))
    folder.chmod(0o711)
    try:
        return _bench(folder, chosen, effort, options.json)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, fewer messages")
    parser.add_argument("--only", default="", help="names of scenarios, separated by commas")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--dir", default="/var/tmp", help="a folder on the disk to measure")
    parser.add_argument("--list", action="store_true", help="the scenarios")
    return parser.parse_args()


def _bench(folder: Path, chosen: list[Scenario | Study], effort: Effort, target: Path | None) -> int:
    keys = Keys.make(folder)
    found = {"machine": _machine(), "limits": limits.measure(folder, 1.0), "scenarios": {}}
    print(_preface(found))
    faults = []
    for part in chosen:
        take = _study if isinstance(part, Study) else _scenario
        lines, wrong, figures = take(folder, keys, part, effort)  # type: ignore[operator]
        print(f"\n{part.title} ({part.name})\n  {part.note}")
        print("\n".join([*lines, *(f"  FAULT: {text}" for text in wrong)]), flush=True)
        found["scenarios"][part.name] = {"title": part.title, "faults": wrong, **figures}
        faults += wrong
        if target is not None:
            target.write_text(json.dumps(found, indent=1))
    return 1 if faults else 0


def _scenario(folder: Path, keys: Keys, scenario: Scenario, effort: Effort) -> Told:
    runs, wrong = _rounds(folder, keys, scenario, effort)
    figures = {name: summarize(done) for name, done in runs.items()}
    lines = [table(runs, scenario.relays), *verdicts(scenario.targets, figures, COLUMNS)]
    return lines, wrong, as_json(runs, scenario.relays)


def _study(folder: Path, keys: Keys, study: Study, effort: Effort) -> Told:
    found: dict[str, list[Figures]] = {}
    faults: list[str] = []
    for number in range(effort.rounds):
        busy, ours, began = busy_seconds(), cpu_seconds([os.getpid()]), time.perf_counter()
        try:
            for row, figures in study.measure(folder, keys, effort.quick):
                found.setdefault(row, []).append(figures)
                shown = ", ".join(f"{column} {value:.1f}" for column, value in figures.items())
                _progress(f"{study.name} {number + 1}/{effort.rounds} {row}: {shown}")
        except FAILURES as error:
            faults.append(str(error))
        others = busy_seconds() - busy - (cpu_seconds([os.getpid()]) - ours)
        _progress(f"others used {others / (time.perf_counter() - began) / (os.cpu_count() or 1):.0%}")
    summary = summarize_study(found)
    lines = [study_table(summary, study.columns), *verdicts(study.targets, summary, {})]
    return lines, faults, {"rows": {row: {k: asdict(v) for k, v in cells.items()} for row, cells in summary.items()}}


def _rounds(folder: Path, keys: Keys, scenario: Scenario, effort: Effort) -> tuple[dict[str, list[Run]], list[str]]:
    """The runs of every system that is here and does its work, and what went wrong."""
    runs: dict[str, list[Run]] = {}
    faults: list[str] = []
    kinds = []
    for kind in scenario.kinds:
        if missing := kind.missing(scenario.door):
            print(f"\n{scenario.name} goes without {kind.name}: {missing} is missing.")
            continue
        try:
            prove(folder, keys, scenario, kind)
            kinds.append(kind)
        except FAILURES as error:
            faults.append(f"{kind.name}: {error}")
    for number in range(effort.rounds):
        for kind in kinds:
            try:
                run = take_turn(folder, keys, scenario, kind, effort)
            except FAILURES as error:
                faults.append(f"{kind.name}: {error}")
                continue
            runs.setdefault(kind.name, []).append(run)
            if not run.whole:
                faults.append(f"{kind.name}: what arrived is not what was accepted")
            _progress(
                f"{scenario.name} {number + 1}/{effort.rounds} {kind.name}: {run.delivered:.0f}/s {run.cpu_us:.0f} us"
            )
    return runs, faults


def _machine() -> dict[str, Any]:
    models = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _preface(found: dict[str, Any]) -> str:
    machine = found["machine"]
    lines = [f"{machine['cores']} x {machine['processor']}, Linux {machine['kernel']}, Python {machine['python']}"]
    if programs().source is None or programs().sink is None:
        lines.append(
            "smtp-source and smtp-sink are missing (root on Debian: make interop). Source and sink are in Python"
        )
        lines.append("instead and share the cores: they may be what bounds a figure.")
    lines.append("\nWhat this machine gives at best, a second:")
    lines += [f"  {value:10.0f}  {name}" for name, value in found["limits"].items()]
    lines.append(
        "\nRates in messages, replies from the final dot to the reply, memory as PSS. Medians, ± half of the span"
    )
    lines.append("between the runs; lines 'over' divide the relay's figure by the peer's.")
    return "\n".join(lines)


def _progress(text: str) -> None:
    print(f"  [{text}]", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
