"""The supervisor with real processes: each test runs a small relay of its own in a child process."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.process.listen_sockets import ListenAddress, _why_not, bind_all, close_all
from relay.process.notify import notify, watchdog_interval_s
from relay.process.supervisor import next_delay

PROGRAM = """
import json, os, select, signal, sys, time
from relay.process.listen_sockets import ListenAddress, bind_all, inherited_sockets
from relay.process.supervisor import Supervisor

options = json.loads(sys.argv[1])

def tell(level, event, fields):
    sys.stdout.write(json.dumps({"level": level, "event": event, **fields}) + "\\n")
    sys.stdout.flush()

def worker(context):
    '''Answers each connection with its index and pid; drains for `drain` seconds on SIGTERM.'''
    state = {"stop": False, "hangups": 0}
    terms = []
    def on_term(*_):
        terms.append(1)
        state["stop"] = True
    def on_hup(*_):
        state["hangups"] += 1
        tell("info", "worker.hangup", {"worker": context.index})
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    signal.set_wakeup_fd(wake_w)
    if not options.get("deaf"):
        signal.signal(signal.SIGTERM, on_term)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, on_hup)
    if options.get("exit_at_start") is not None and context.index == options.get("who", 0):
        return options["exit_at_start"]
    if options.get("raise_at_start"):
        raise RuntimeError("broken on purpose")
    poll = select.poll()
    for sock in context.sockets:
        poll.register(sock, select.POLLIN)
    poll.register(wake_r, select.POLLIN)
    poll.register(context.parent_fd, select.POLLIN)
    by_fd = {sock.fileno(): sock for sock in context.sockets}
    context.ready()
    context.ready()  # saying it twice is harmless
    while not state["stop"] or options.get("deaf"):
        for fd, _ in poll.poll():
            if fd == wake_r:
                os.read(wake_r, 100)
            elif fd == context.parent_fd:
                tell("info", "worker.orphaned", {"worker": context.index})
                return 0
            else:
                try:
                    client, _ = by_fd[fd].accept()
                except BlockingIOError:
                    continue
                client.setblocking(True)
                client.sendall(b"%d %d\\n" % (context.index, os.getpid()))
                client.close()
    for sock in context.sockets:
        sock.close()
    tell("info", "worker.draining", {"worker": context.index})
    time.sleep(options.get("drain", 0))
    tell("info", "worker.drained", {"worker": context.index, "terms": len(terms)})
    return options.get("exit_code", 0)

workers = options.get("workers", 2)
inherited = inherited_sockets()
if inherited:
    addresses = [ListenAddress(*sock.getsockname()[:2]) for sock in inherited]
else:
    addresses = [ListenAddress("127.0.0.1", 0)]
sockets = bind_all(addresses, workers, inherited=inherited)
tell("info", "test.bound", {"port": sockets[0][0].getsockname()[1]})
supervisor = Supervisor(
    worker, sockets, drain_s=options.get("drain_s", 5.0), tell=tell,
    on_ready=lambda: tell("info", "test.on_ready", {}),
    on_exit=lambda index, status: tell("info", "test.on_exit", {"worker": index, "status": status}),
)
sys.exit(supervisor.run())
"""


class Relay:
    """A supervised test relay and the lines it wrote."""

    def __init__(self, env: dict[str, str] | None = None, pass_fds: tuple[int, ...] = (), **options: object) -> None:
        command = [sys.executable, "-c", PROGRAM, json.dumps(options)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            pass_fds=pass_fds,
        )
        self.events: list[dict] = []
        self._rest = b""
        self.port = self.wait_for("test.bound")["port"]

    def wait_for(self, event: str, timeout_s: float = 15.0, **fields: object) -> dict:
        """The next event of that name with these fields."""
        until = time.monotonic() + timeout_s
        seen = 0
        while True:
            while seen < len(self.events):
                entry = self.events[seen]
                seen += 1
                if entry["event"] == event and not entry.get("_taken") and fields.items() <= entry.items():
                    entry["_taken"] = True
                    return entry
            assert self.process.stdout is not None
            left = until - time.monotonic()
            assert left > 0, f"no {event} in {self.events}"
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"ended without {event}: {self.events} {self.process.stderr.read().decode()}"
                *lines, self._rest = (self._rest + data).split(b"\n")
                self.events += [json.loads(line) for line in lines]

    def ask(self, timeout_s: float = 10.0) -> tuple[int, int]:
        """Index and pid of the worker that answers a new connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as sock:
            index, pid = sock.makefile("rb").readline().split()
            return int(index), int(pid)

    def pids(self) -> dict[int, int]:
        """Pid by worker, as last started."""
        return {e["worker"]: e["pid"] for e in self.events if e["event"] == "supervisor.worker_started"}

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout_s: float = 10.0) -> int:
        """Exit code; waits for it."""
        out, err = self.process.communicate(timeout=timeout_s)
        self.events += [json.loads(line) for line in (self._rest + out).split(b"\n") if line]
        self._rest = b""
        self.stderr = err.decode()
        return self.process.returncode

    def count(self, event: str) -> int:
        return sum(entry["event"] == event for entry in self.events)


@pytest.fixture
def start():
    relays: list[Relay] = []

    def make(**options: object) -> Relay:
        relays.append(Relay(**options))
        return relays[-1]

    yield make
    for relay in relays:
        if relay.process.poll() is None:
            relay.process.kill()
            relay.process.wait()
        for stream in (relay.process.stdout, relay.process.stderr):
            stream.close()


def wait_gone(pid: int, timeout_s: float = 5.0) -> None:
    """Until no such process runs (a zombie of another parent counts as gone)."""
    fd = -1
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
    if fd >= 0:
        gone = select.select([fd], [], [], timeout_s)[0]
        os.close(fd)
        assert gone, f"process {pid} still runs"


# Serving and restarting


def test_all_workers_serve_and_readiness_is_told_once_all_said_so(start):
    relay = start(workers=3)
    relay.wait_for("test.on_ready")
    answers = Counter(relay.ask()[0] for _ in range(150))
    assert set(answers) == {0, 1, 2}
    relay.signal(signal.SIGTERM)
    assert relay.end() == 0
    assert relay.count("test.on_ready") == 1
    assert relay.stderr == ""


def test_a_killed_worker_comes_back_and_waiting_connections_are_served(start):
    relay = start(workers=1)
    relay.wait_for("supervisor.ready")
    _, pid = relay.ask()
    os.kill(pid, signal.SIGKILL)
    relay.wait_for("supervisor.worker_crashed", worker=0, status=-9, restart_in_s=1.0)
    # Nobody accepts now: the connection waits in the socket that the parent kept open.
    asked = time.monotonic()
    _, successor = relay.ask()
    assert successor != pid
    assert time.monotonic() - asked < 5
    assert relay.wait_for("test.on_exit", worker=0, status=-9)
    relay.signal(signal.SIGTERM)
    assert relay.end() == 0


def test_a_worker_that_was_ready_is_not_made_to_wait_longer_each_time(start):
    """What kills it may be one message, and the others should not wait for that one."""
    relay = start(workers=1)
    relay.wait_for("supervisor.ready")
    for _ in range(3):
        _, pid = relay.ask()
        os.kill(pid, signal.SIGKILL)
        assert relay.wait_for("supervisor.worker_crashed", pid=pid)["restart_in_s"] == 1.0
    relay.signal(signal.SIGTERM)
    assert relay.end() == 0


def test_the_other_workers_go_on_while_one_is_down(start):
    relay = start(workers=2)
    relay.wait_for("supervisor.ready")
    pids = relay.pids()
    os.kill(pids[0], signal.SIGKILL)
    relay.wait_for("supervisor.worker_crashed", worker=0)
    relay.wait_for("supervisor.worker_started", worker=0, timeout_s=5)
    answers = [relay.ask() for _ in range(60)]
    assert {pid for index, pid in answers if index == 1} == {pids[1]}
    assert {index for index, _ in answers} == {0, 1}
    assert pids[0] not in {pid for _, pid in answers}


def test_a_worker_that_keeps_failing_is_restarted_ever_more_slowly(start):
    relay = start(workers=1, raise_at_start=True)
    delays = [relay.wait_for("supervisor.worker_crashed", status=70)["restart_in_s"] for _ in range(3)]
    assert delays == [1.0, 2.0, 4.0]
    relay.signal(signal.SIGTERM)
    assert relay.end() == 0
    assert "broken on purpose" in relay.stderr


@pytest.mark.parametrize(
    ("lives", "delays"),
    [
        pytest.param([0.1] * 8, [1, 2, 4, 8, 16, 30, 30, 30], id="never-settles"),
        pytest.param([0.1, 0.1, 61, 0.1], [1, 2, 1, 2], id="settles-once"),
        pytest.param([100, 100], [1, 1], id="rare-crashes"),
    ],
)
def test_back_off_doubles_to_half_a_minute_and_starts_afresh_after_a_minute_of_life(lives, delays):
    answers, delay = [], 0.0
    for lived in lives:
        delay = next_delay(delay, lived)
        answers.append(delay)
    assert answers == delays


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_workers_and_ends_with_zero(start, number):
    relay = start(workers=2, drain=0.5)
    relay.wait_for("supervisor.ready")
    asked = time.monotonic()
    relay.signal(number)
    assert relay.end() == 0
    assert 0.5 <= time.monotonic() - asked < 5
    assert [e["terms"] for e in relay.events if e["event"] == "worker.drained"] == [1, 1]
    with pytest.raises(ConnectionRefusedError):
        relay.ask()


def test_an_interrupt_from_the_terminal_reaches_workers_as_one_sigterm(start):
    relay = start(workers=2, drain=0.2)
    relay.wait_for("supervisor.ready")
    for pid in [*relay.pids().values(), relay.process.pid]:  # ^C signals the whole group
        os.kill(pid, signal.SIGINT)
    assert relay.end() == 0
    assert [e["terms"] for e in relay.events if e["event"] == "worker.drained"] == [1, 1]


def test_new_connections_are_refused_while_draining(start):
    relay = start(workers=1, drain=30, drain_s=30)
    relay.wait_for("supervisor.ready")
    relay.ask()
    relay.signal(signal.SIGTERM)
    relay.wait_for("supervisor.stopping")
    relay.wait_for("worker.draining")
    with pytest.raises(ConnectionRefusedError):
        relay.ask()
    assert relay.process.poll() is None
    relay.signal(signal.SIGTERM)
    assert relay.end() == 1


def test_a_second_signal_kills_at_once(start):
    relay = start(workers=2, deaf=True, drain_s=60)
    relay.wait_for("supervisor.ready")
    relay.signal(signal.SIGTERM)
    relay.wait_for("supervisor.stopping")
    asked = time.monotonic()
    relay.signal(signal.SIGTERM)
    assert relay.end() == 1
    assert time.monotonic() - asked < 5
    assert relay.count("supervisor.killing") == 1
    for pid in relay.pids().values():
        wait_gone(pid)


def test_a_worker_that_will_not_stop_is_killed_after_drain_and_grace(start):
    relay = start(workers=1, deaf=True, drain_s=-4.5)  # 5 s of grace beyond it
    relay.wait_for("supervisor.ready")
    asked = time.monotonic()
    relay.signal(signal.SIGTERM)
    assert relay.end() == 1
    assert 0.4 < time.monotonic() - asked < 4


def test_a_signal_while_starting_or_backing_off_ends_cleanly(start):
    relay = start(workers=4)
    relay.signal(signal.SIGTERM)
    assert relay.end() in (0, -signal.SIGTERM)  # the latter before the supervisor ran
    failing = start(workers=1, exit_at_start=3)
    failing.wait_for("supervisor.worker_crashed", status=3)
    failing.signal(signal.SIGTERM)
    assert failing.end() == 0


def test_a_refused_configuration_ends_everything(start):
    relay = start(workers=3, exit_at_start=78, who=1)
    assert relay.end() == 78
    assert relay.count("supervisor.worker_crashed") == 0
    assert relay.count("supervisor.ready") == 0
    for pid in relay.pids().values():
        wait_gone(pid)


def test_a_worker_failing_while_it_stops_is_told_by_the_exit_code(start):
    relay = start(workers=2, exit_code=9)
    relay.wait_for("supervisor.ready")
    relay.signal(signal.SIGTERM)
    assert relay.end() == 1


def test_a_hang_up_is_passed_on_to_one_worker_and_nothing_restarts(start):
    relay = start(workers=2)
    relay.wait_for("supervisor.ready")
    before = relay.pids()
    relay.signal(signal.SIGHUP)
    relay.wait_for("worker.hangup", worker=0)
    assert relay.count("worker.hangup") == 1
    assert {relay.ask()[1] for _ in range(40)} <= set(before.values())
    relay.signal(signal.SIGTERM)
    assert relay.end() == 0
    assert relay.count("supervisor.worker_started") == 2


# The parent's end, and being PID 1


def test_workers_end_when_the_parent_is_killed(start):
    relay = start(workers=2)
    relay.wait_for("supervisor.ready")
    pids = relay.pids()
    relay.signal(signal.SIGKILL)
    for pid in pids.values():
        wait_gone(pid)


def test_workers_deaf_to_signals_see_end_of_file_when_the_parent_is_killed(start):
    relay = start(workers=1, deaf=True)
    relay.wait_for("supervisor.ready")
    pid = relay.pids()[0]
    relay.signal(signal.SIGKILL)
    relay.wait_for("worker.orphaned")
    wait_gone(pid)


def test_strangers_children_are_reaped_as_an_init_must(start):
    """A subreaper inherits orphans like PID 1 does; none may stay behind as a zombie."""
    program = PROGRAM.replace(
        "sys.exit(supervisor.run())",
        """
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
if os.fork() == 0:  # its child is orphaned, ours, and ends a little later
    if os.fork() == 0:
        time.sleep(0.3)
    os._exit(0)
sys.exit(supervisor.run())
""",
    )
    process = subprocess.Popen([sys.executable, "-c", program, '{"workers": 1}'], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"supervisor.ready" in line:
                break
        until = time.monotonic() + 5
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("this kernel does not list children")
        while len(children.read_text().split()) != 1:
            assert time.monotonic() < until, children.read_text()
            select.select([], [], [], 0.02)
        process.terminate()
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_event_loop_serves_and_drains_as_a_worker():
    program = """
import asyncio, signal, sys
from relay.process.listen_sockets import ListenAddress, bind_all
from relay.process.supervisor import Supervisor

async def serve(context):
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(context.parent_fd, stop.set)
    async def answer(reader, writer):
        writer.write(b"hello\\n")
        writer.close()
    servers = [await asyncio.start_server(answer, sock=sock) for sock in context.sockets]
    context.ready()
    await stop.wait()
    for server in servers:
        server.close()
    return 0

sockets = bind_all([ListenAddress("127.0.0.1", 0)], 2)
print(sockets[0][0].getsockname()[1], flush=True)
def tell(level, event, fields): pass
try:
    import uvloop
    run = uvloop.run if sys.argv[1] == "uvloop" else asyncio.run
except ImportError:
    run = asyncio.run
sys.exit(Supervisor(lambda context: run(serve(context)), sockets, drain_s=2, tell=tell).run())
"""
    for loop in ("asyncio", "uvloop"):
        process = subprocess.Popen(
            [sys.executable, "-c", program, loop], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            for _ in range(10):
                with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                    assert sock.makefile("rb").readline() == b"hello\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
            assert (process.returncode, errors) == (0, b"")
        finally:
            process.kill()
            process.communicate()


# The service manager


def test_the_service_manager_hears_ready_reloading_and_stopping(start):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = f"{folder}/notify"
        manager.bind(path)
        manager.settimeout(10)
        relay = start(workers=2, env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": ""})
        heard: list[str] = []

        def hear(state: str) -> None:
            while not any(state in message.split("\n") for message in heard):
                heard.append(manager.recv(4096).decode())

        hear("READY=1")
        assert relay.wait_for("supervisor.ready")
        del heard[:]
        hear("WATCHDOG=1")
        relay.signal(signal.SIGHUP)
        hear("RELOADING=1")
        hear("READY=1")
        relay.signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert relay.end() == 0


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/to/be/found", "@nobody-listens"])
def test_telling_a_service_manager_that_is_not_there_is_harmless(address):
    assert notify("READY=1", environ={"NOTIFY_SOCKET": address}) is False


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval_is_half_of_what_the_manager_allows(environ, interval):
    assert watchdog_interval_s(environ, pid=42) == interval


def test_handed_over_sockets_are_used(start):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        # The manager's side: the socket as descriptor 3, the variables set for exactly the new process.
        launcher = (
            f"import os, sys; os.dup2({listening.fileno()}, 3); os.set_inheritable(3, True); "
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); "
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", launcher, "-c", PROGRAM, '{"workers": 2}'],
            stdout=subprocess.PIPE,
            pass_fds=(listening.fileno(),),
        )
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["port"] == port
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                assert sock.makefile("rb").readline().split()[0] in (b"0", b"1")
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


# Binding


def test_each_worker_gets_its_own_socket_on_the_same_port():
    sockets = bind_all([ListenAddress("127.0.0.1", 0), ListenAddress("127.0.0.1", 0)], 3)
    try:
        ports = [[sock.getsockname()[1] for sock in own] for own in sockets]
        assert ports[0] == ports[1] == ports[2]
        assert len({sock.fileno() for own in sockets for sock in own}) == 6
        assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for own in sockets for sock in own)
        assert not any(sock.getblocking() or os.get_inheritable(sock.fileno()) for own in sockets for sock in own)
    finally:
        close_all(sockets)


def test_an_address_in_use_is_named_even_when_its_holder_shares_ports():
    holders = bind_all([ListenAddress("127.0.0.1", 0)], 1)
    port = holders[0][0].getsockname()[1]
    try:
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: another process listens there already"):
            bind_all([ListenAddress("127.0.0.1", 0), ListenAddress("127.0.0.1", port)], 2)
    finally:
        close_all(holders)


def test_a_port_can_be_bound_again_right_after_its_holder_closed_connections():
    first = bind_all([ListenAddress("127.0.0.1", 0)], 1)
    listening = first[0][0]
    port = listening.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as client:
        select.select([listening], [], [], 5)
        listening.accept()[0].close()  # the server's side closes first and stays in TIME_WAIT
        assert client.recv(1) == b""
    close_all(first)
    close_all(bind_all([ListenAddress("127.0.0.1", port)], 1))


@pytest.mark.parametrize(
    ("host", "why"),
    [("192.0.2.1", "does not have that address"), ("no-such-host.invalid", "no such address"), ("a" * 80, "no such")],
)
def test_unusable_addresses_are_named(host, why):
    with pytest.raises(ConfigError, match=why) as caught:
        bind_all([ListenAddress(host, 2525)], 1)
    assert f"{host}:2525" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "address", "text"),
    [
        (errno.EACCES, ListenAddress("0.0.0.0", 25), "cannot listen on 0.0.0.0:25: ports below 1024 need a privilege"),
        (errno.EACCES, ListenAddress("::", 2525), "cannot listen on [::]:2525: the system does not permit it"),
        (errno.EADDRINUSE, ListenAddress("::1", 25), "cannot listen on [::1]:25: another process listens"),
        (errno.EMFILE, ListenAddress("::1", 25), "cannot listen on [::1]:25: Too many open files"),
    ],
)
def test_why_an_address_cannot_be_bound_is_said_in_words(code, address, text):
    assert _why_not(OSError(code, os.strerror(code)), address).startswith(text)


def test_a_privileged_port_without_privilege_is_explained():
    if os.getuid() != 0:
        pytest.skip("needs root, to give the privilege up")
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("this system lets everybody bind low ports")
    program = (
        "import os, encodings.idna\n"
        "from relay.process.listen_sockets import *\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: bind_all([ListenAddress('127.0.0.1', 81)], 1)\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "cannot listen on 127.0.0.1:81: ports below 1024 need a privilege" in done.stdout


def test_a_handed_over_socket_that_no_listener_wants_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(ConfigError, match="no listener has that"):
        bind_all([ListenAddress("127.0.0.1", 0)], 1, inherited=[listening])


def test_a_wildcard_socket_of_the_service_manager_serves_a_wildcard_listener():
    listening = socket.socket()
    listening.bind(("0.0.0.0", 0))  # bound, never listening
    port = listening.getsockname()[1]
    sockets = bind_all([ListenAddress("::", port)], 2, inherited=[listening])
    assert sockets == [[listening], [listening]]
    listening.close()
