"""What a system under test costs, read from /proc, and the arithmetic of repeated runs.

Processor time is that of a whole family of processes: for every living member its own time and that of the children
it has waited for, so a process that came and went between two readings is counted by its parent. Memory is the sum of
proportional set sizes (PSS): pages shared by many processes count once, which is fair to systems of many processes.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat. `ticks`: user + system time, of itself and of children that ended and were reaped."""

    pid: int
    parent: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several runs, and their ends."""

    median: float
    low: float
    high: float


def parse_stat(text: str) -> Process:
    """One /proc/PID/stat; the name in it may hold blanks and brackets (proc(5))."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(int(head.split(" ", 1)[0]), int(fields[1]), sum(int(ticks) for ticks in fields[11:15]))


def family(processes: Iterable[Process], roots: Iterable[int]) -> list[Process]:
    """The roots and all that descend from them."""
    children: dict[int, list[Process]] = {}
    known: dict[int, Process] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
        known[process.pid] = process
    found: dict[int, Process] = {}
    waiting = [known[pid] for pid in roots if pid in known]
    while waiting:
        process = waiting.pop()
        if process.pid not in found:
            found[process.pid] = process
            waiting.extend(children.get(process.pid, ()))
    return list(found.values())


def parse_pss(text: str) -> int:
    """Octets of `Pss:` in /proc/PID/smaps_rollup; 0 for a kernel thread or an ended process."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def last_count(text: bytes) -> int | None:
    """Messages in the newest whole line `sess=… quit=… mesg=…` of smtp-sink's running counter."""
    end = text.rfind(b"\r")
    start = text.rfind(b"mesg=", 0, max(end, 0))
    return None if start < 0 else int(text[start + 5 : text.index(b"\r", start)])


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` (0 < part ≤ 1) of all values do not exceed; NaN when there are none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


# Reading


def processes() -> list[Process]:
    found = []
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found.append(parse_stat(Path(entry.path, "stat").read_text(errors="replace")))
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """Processor time of the families so far, user and system."""
    return sum(process.ticks for process in family(processes(), roots)) * TICK_S


def busy_seconds() -> float:
    """Processor time that the whole machine has spent working, whoever worked."""
    fields = [int(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) * TICK_S


def memory(roots: Iterable[int]) -> int:
    """PSS of the families in octets; where PSS may not be read, resident pages."""
    total = 0
    for process in family(processes(), roots):
        folder = PROC / str(process.pid)
        try:
            total += parse_pss((folder / "smaps_rollup").read_text())
        except PermissionError:
            total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # it ended meanwhile
            continue
    return total


class MemoryPeak:
    """Highest memory of some families while the block runs, sampled."""

    def __init__(self, roots: Sequence[int], every_s: float = 0.25) -> None:
        self._roots = roots
        self._every_s = every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.octets = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.octets = max(self.octets, memory(self._roots))
            if self._done.wait(self._every_s):
                return
