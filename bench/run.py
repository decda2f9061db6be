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
from pathlib import Path
from typing import Any

from bench import limits
from bench.load import programs
from bench.peers import Keys, Relay
from bench.report import Run, as_json, table
from bench.scenarios import SCENARIOS, Scenario
from bench.turn import Effort, prove, take_turn

FAILURES = (RuntimeError, AssertionError, OSError, subprocess.SubprocessError)
"""One system that cannot be measured does not keep the others from it."""


def main() -> int:
    options = _options()
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:14} {scenario.title}: {', '.join(kind.name for kind in scenario.kinds)}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    effort = Effort(1, 0.25, 2.0) if options.quick else Effort(3, 1.0, 5.0)
    effort = Effort(options.rounds or effort.rounds, effort.part, effort.eased_s)
    chosen = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only.split(",")]
    if not chosen:
        print(f"no such scenario; there are {', '.join(scenario.name for scenario in SCENARIOS)}", file=sys.stderr)
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


def _bench(folder: Path, chosen: list[Scenario], effort: Effort, target: Path | None) -> int:
    keys = Keys.make(folder)
    found = {"machine": _machine(), "limits": limits.measure(folder, 1.0), "scenarios": {}}
    print(_preface(found))
    faults = []
    for scenario in chosen:
        runs, wrong = _rounds(folder, keys, scenario, effort)
        relays = {kind.name for kind in scenario.kinds if kind.make is Relay}
        print(f"\n{scenario.title} ({scenario.name})\n  {scenario.note}")
        print("\n".join([table(runs, relays), *(f"  FAULT: {text}" for text in wrong)]), flush=True)
        found["scenarios"][scenario.name] = {"title": scenario.title, "faults": wrong, **as_json(runs, relays)}
        faults += wrong
        if target is not None:
            target.write_text(json.dumps(found, indent=1))
    return 1 if faults else 0


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
