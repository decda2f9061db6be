"""The parent of the worker processes: binds, forks, watches, restarts, stops.

One process, no threads, no event loop, nothing heavy imported: what little it does must go on working when a worker
cannot. It works as PID 1 of a container, reaping whatever ends up with it.

- Each worker has its own SO_REUSEPORT socket for each listener, so that the kernel spreads connections. The parent
  binds them before the first fork and keeps them open: connections that wait for a worker that crashed are served by
  its successor instead of being reset. Sockets handed over by the service manager (LISTEN_FDS) are shared by all.
- A worker that ends unasked is started again after 1 s. One that does not get as far as `ready()` waits twice as long
  each time, up to 30 s, counted afresh once it lived for 60 s: starting again does not help it. One that was ready has
  work to go on with, and what killed it may be one message. Exit code 78 (EX_CONFIG) ends everything.
- SIGTERM or SIGINT: workers get one SIGTERM and `drain_s` + 5 s, then SIGKILL; a second signal kills at once.
  SIGHUP is passed on to one worker that is ready; reloading is a matter of all workers, and one of them leads.
- Workers do not outlive the parent: Linux sends them SIGTERM (PR_SET_PDEATHSIG), and elsewhere the pipe
  `WorkerContext.parent_fd` reads end-of-file.

What a worker must do: call `ready()` once it accepts; drain and return on SIGTERM; take a repeated SIGTERM as the same
request, because service managers signal the whole group beside the parent; let SIGINT be.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from relay.process.listen_sockets import close_all
from relay.process.notify import notify, watchdog_interval_s

EX_SOFTWARE, EX_CONFIG = 70, 78

GRACE_S = 5.0
"""Beyond `drain_s`, for a worker to write down what it must."""

FIRST_DELAY_S, MAX_DELAY_S, SETTLED_S = 1.0, 30.0, 60.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Tell = Callable[[str, str, Mapping[str, Any]], None]
"""Level, event, fields: `Log.tell` of a log made without threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """What a worker gets.

    Attributes:
        sockets: its listening sockets, non-blocking, in the order of the listeners.
        parent_fd: reads end-of-file when the parent is gone; nothing is ever written to it.
    """

    index: int
    sockets: Sequence[socket.socket]
    ready: Callable[[], None]
    parent_fd: int


Worker = Callable[[WorkerContext], int]
"""Runs one worker to its end; returns its exit code."""


def next_delay(previous_s: float, lived_s: float) -> float:
    """Seconds until a crashed worker starts again. `previous_s`: what this answered for its last crash, 0 at first."""
    if previous_s <= 0 or lived_s >= SETTLED_S:
        return FIRST_DELAY_S
    return min(previous_s * 2, MAX_DELAY_S)


@dataclass(slots=True)
class _Slot:
    """One process's place: at most one at a time.

    Attributes:
        name: of a companion; empty for a worker.
    """

    index: int
    sockets: Sequence[socket.socket]
    run: Worker
    name: str = ""
    pid: int = 0
    ready_fd: int = -1
    is_ready: bool = False
    started_at: float = 0.0
    delay_s: float = 0.0
    start_at: float | None = 0.0  # monotonic; None while it runs or shall not run again


@dataclass(slots=True)
class _Asked:
    """Signals that arrived and are not yet acted on."""

    stop: int = 0
    hangup: bool = False
    seen: list[str] = field(default_factory=list)


class Supervisor:
    """Runs `worker` in one process for each entry of `sockets`.

    Args:
        sockets: listening sockets by worker, from `listen_sockets.bind_all`; closed when `run` ends.
        drain_s: seconds a worker may take to finish its transactions.
        tell: where the few log lines go.
        on_ready: called once when all workers said they are ready.
        on_exit: called with index and exit status (as of `subprocess`: negative for a signal) of each ended worker
            before it may start again, for example to clear its shared counters.
        companions: processes beside the workers, by name. They are started again when they crash and told to stop
            with the rest; readiness, exit code and the workers never depend on them. One that ends with 0 is done.
    """

    def __init__(
        self,
        worker: Worker,
        sockets: Sequence[Sequence[socket.socket]],
        *,
        drain_s: float,
        tell: Tell,
        on_ready: Callable[[], None] = lambda: None,
        on_exit: Callable[[int, int], None] = lambda _index, _status: None,
        companions: Mapping[str, Worker] | None = None,
    ) -> None:
        self._slots = [_Slot(index, own, worker) for index, own in enumerate(sockets)]
        self._slots += [_Slot(-1, (), run, name) for name, run in (companions or {}).items()]
        self._drain_s = drain_s
        self._tell = tell
        self._on_ready = on_ready
        self._on_exit = on_exit
        self._asked = _Asked()
        self._was_ready = False
        self._exit_code = 0
        self._kill_at: float | None = None  # set once stopping
        self._parent_r, self._parent_w = os.pipe()
        self._wake_r, self._wake_w = os.pipe()
        for fd in (self._wake_r, self._wake_w):
            os.set_blocking(fd, False)

    def run(self) -> int:
        """Supervise until told to stop. Main thread only.

        Returns:
            0 after a clean stop; 78 when a worker refused the configuration; 1 when a worker had to be killed or
            failed while stopping.
        """
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        wakeup_before = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        watchdog_s = watchdog_interval_s()
        beat_at = 0.0
        try:
            while True:
                self._reap()
                self._act_on_signals()
                if self._kill_at is not None and not any(slot.pid for slot in self._slots):
                    return self._exit_code
                now = time.monotonic()
                if self._kill_at is not None and now >= self._kill_at:
                    self._kill("took too long to stop")
                self._start_due(now)
                if watchdog_s is not None and now >= beat_at:
                    notify("WATCHDOG=1")
                    beat_at = now + watchdog_s
                self._wait(beat_at if watchdog_s is not None else None)
        finally:
            self._kill_leftovers()
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            for fd in (self._parent_r, self._parent_w, self._wake_r, self._wake_w):
                os.close(fd)
            close_all(slot.sockets for slot in self._slots)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        match number:
            case signal.SIGTERM | signal.SIGINT:
                self._asked.stop += 1
                self._asked.seen.append(signal.Signals(number).name)
            case signal.SIGHUP:
                self._asked.hangup = True

    def _act_on_signals(self) -> None:
        stops, self._asked.stop = self._asked.stop, 0
        seen, self._asked.seen = self._asked.seen, []
        if stops and self._kill_at is None:
            self._stop(seen[0])
            stops -= 1
        if stops:
            self._kill("second signal")
        if self._asked.hangup and self._kill_at is None:
            self._hang_up()

    def _hang_up(self) -> None:
        """Tell one worker, which leads the others; while none is ready, the first that will be."""
        leader = next((slot for slot in self._slots if slot.pid and slot.is_ready and not slot.name), None)
        if leader is None:
            return
        self._asked.hangup = False
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader.pid, signal.SIGHUP)
        self._tell("info", "supervisor.reload", {"worker": leader.index})
        if self._was_ready:
            notify("READY=1")

    # Starting

    def _start_due(self, now: float) -> None:
        if self._kill_at is not None:
            return
        for slot in self._slots:
            if slot.start_at is not None and slot.start_at <= now:
                self._fork(slot)

    def _fork(self, slot: _Slot) -> None:
        ready_r, ready_w = os.pipe()
        parent_pid = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()  # or the child would write it a second time
        # A signal that reached the child while it still had our handlers would be written into our wake-up pipe.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(slot, ready_r, ready_w, parent_pid)
        except OSError as error:  # no memory or process for it now: as good as a crash
            os.close(ready_r)
            os.close(ready_w)
            slot.delay_s = next_delay(slot.delay_s, 0.0)
            slot.start_at = time.monotonic() + slot.delay_s
            self._tell("error", "supervisor.fork_failed", {**_named(slot), "error": str(error)})
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(ready_w)
        slot.pid, slot.ready_fd, slot.is_ready = pid, ready_r, False
        slot.started_at, slot.start_at = time.monotonic(), None
        self._tell("info", "supervisor.worker_started", {**_named(slot), "pid": pid})

    def _become_worker(self, slot: _Slot, ready_r: int, ready_w: int, parent_pid: int) -> None:
        """Never returns."""
        code = EX_SOFTWARE
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # ^C reaches the whole foreground group; the parent turns it into one SIGTERM. A hang-up that comes before
            # the worker listens for it is no loss: it reads its configuration after this.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _die_with_parent(parent_pid)
            for fd in (ready_r, self._parent_w, self._wake_r, self._wake_w):
                os.close(fd)
            for other in self._slots:
                if other is not slot:
                    if other.ready_fd >= 0:
                        os.close(other.ready_fd)
                    close_all([[sock for sock in other.sockets if not any(sock is own for own in slot.sockets)]])
            said = False

            def ready() -> None:
                nonlocal said
                if not said:
                    said = True
                    with contextlib.suppress(BrokenPipeError):
                        os.write(ready_w, b"1")
                    os.close(ready_w)

            context = WorkerContext(index=slot.index, sockets=slot.sockets, ready=ready, parent_fd=self._parent_r)
            code = slot.run(context)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:  # the child must not unwind into the parent's stack, whatever happened
            with contextlib.suppress(Exception):
                traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code & 0xFF if isinstance(code, int) else EX_SOFTWARE)

    # Watching

    def _wait(self, wake_at: float | None) -> None:
        """Until a signal, a worker's word, or the next thing to do."""
        times = [slot.start_at for slot in self._slots if slot.start_at is not None and self._kill_at is None]
        times += [at for at in (self._kill_at, wake_at) if at is not None and at != math.inf]
        timeout_ms = max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        waiting = {slot.ready_fd: slot for slot in self._slots if slot.ready_fd >= 0}
        for fd in waiting:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(timeout_ms):
            if fd == self._wake_r:
                with contextlib.suppress(BlockingIOError):
                    while os.read(fd, 512):
                        pass
            else:
                self._hear(waiting[fd])

    def _hear(self, slot: _Slot) -> None:
        if os.read(slot.ready_fd, 1):
            slot.is_ready = True
        os.close(slot.ready_fd)
        slot.ready_fd = -1
        workers = [each for each in self._slots if not each.name]
        if slot.is_ready and not self._was_ready and all(each.is_ready for each in workers):
            self._was_ready = True
            self._tell("info", "supervisor.ready", {"workers": len(workers)})
            notify("READY=1", f"STATUS={len(workers)} workers")
            self._on_ready()

    def _reap(self) -> None:
        """Collect every ended child, ours or, as PID 1, anybody's."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = next((slot for slot in self._slots if slot.pid == pid), None)
            if slot is not None:
                self._ended(slot, os.waitstatus_to_exitcode(wait_status))

    def _ended(self, slot: _Slot, status: int) -> None:
        lived_s = time.monotonic() - slot.started_at
        was_ready = slot.is_ready
        pid, slot.pid, slot.is_ready = slot.pid, 0, False
        if slot.ready_fd >= 0:
            os.set_blocking(slot.ready_fd, False)
            with contextlib.suppress(BlockingIOError):
                was_ready = bool(os.read(slot.ready_fd, 1))  # it said so and died before we listened
            os.close(slot.ready_fd)
            slot.ready_fd = -1
        if not slot.name:
            self._on_exit(slot.index, status)
        fields = {**_named(slot), "pid": pid, "status": status, "lived_s": round(lived_s, 3)}
        if self._kill_at is not None:
            # A worker that had no time to install its handler dies of the very SIGTERM it was sent.
            clean = status in (0, -signal.SIGTERM)
            self._tell("info" if clean else "error", "supervisor.worker_stopped", fields)
            if not clean and self._exit_code == 0 and not slot.name:
                self._exit_code = 1
            return
        if slot.name and status == 0:
            self._tell("info", "supervisor.worker_stopped", fields)
            return
        if status == EX_CONFIG and not slot.name:
            self._tell("error", "supervisor.config_refused", fields)
            self._exit_code = EX_CONFIG
            self._stop("worker refused the configuration")
            return
        slot.delay_s = next_delay(0.0 if was_ready else slot.delay_s, lived_s)
        slot.start_at = time.monotonic() + slot.delay_s
        self._tell("error", "supervisor.worker_crashed", {**fields, "restart_in_s": slot.delay_s})

    # Stopping

    def _stop(self, why: str) -> None:
        self._kill_at = time.monotonic() + self._drain_s + GRACE_S
        notify("STOPPING=1")
        self._signal_workers(signal.SIGTERM)
        # Ours must go as well, or connections would queue on a socket nobody accepts from.
        close_all(slot.sockets for slot in self._slots)
        self._tell("info", "supervisor.stopping", {"why": why})

    def _kill(self, why: str) -> None:
        if any(slot.pid for slot in self._slots):
            self._tell("error", "supervisor.killing", {"why": why})
        self._signal_workers(signal.SIGKILL)
        self._kill_at = math.inf  # done; what is left is reaping

    def _signal_workers(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(slot.pid, number)

    def _kill_leftovers(self) -> None:
        """After a fault of the parent itself: leave no worker behind."""
        self._signal_workers(signal.SIGKILL)
        for slot in self._slots:
            if slot.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(slot.pid, 0)


def _named(slot: _Slot) -> dict[str, Any]:
    """Which process it is, for the log."""
    return {"companion": slot.name} if slot.name else {"worker": slot.index}


def _die_with_parent(parent_pid: int) -> None:
    """Ask Linux for SIGTERM when the parent ends."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before we asked
        os._exit(0)
