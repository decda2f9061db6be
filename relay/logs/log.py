"""The log of this process: settings, set-up, and the one door all lines go through.

All roads lead through `Log.tell`: the events of the relay (`sinks.LogSink`), structlog loggers, and the stdlib loggers
of libraries (at WARNING and above: aiosmtpd prints DATA lines at DEBUG). `log_lines` makes the lines safe to read and
to keep; `log_writers` takes them away without anybody waiting.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from relay.errors import ConfigError
from relay.logs.lines import MAX_TEXT, Lines, Redactor, as_text
from relay.logs.writers import DirectWriter, LineWriter, Output, QueuedWriter, StreamOutput, SyslogOutput

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_CHATTY = ("mail.log", "mail.debug", "asyncio", "httpx", "httpcore", "aiosmtplib", "dkim", "urllib3")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How and where to log.

    Attributes:
        level: least level written: debug, info, warning or error.
        format: json, text, or auto: text on a terminal, else JSON.
        target: stdout, stderr, syslog (`/dev/log`), `syslog:/path`, or `syslog:127.0.0.1:514` (loopback only).
        errors_only: nothing below error, whatever `level` says.
        redact_key: key of the hashes of `redact_recipients`; empty: a new one for each process, so that hashes of
            different workers and runs do not compare.
    """

    level: str = "info"
    format: str = "auto"
    target: str = "stdout"
    errors_only: bool = False
    redact_recipients: bool = False
    redact_key: bytes = field(default=b"", repr=False)


class Log:
    """The way into the log of this process."""

    def __init__(self, lines: Lines, writer: LineWriter, *, level: str, clock: Callable[[], float] = time.time) -> None:
        self._lines = lines
        self._writer = writer
        self._least = LEVELS[level]
        self._clock = clock

    @property
    def dropped(self) -> int:
        """Lines lost so far because the output was not taking them."""
        return self._writer.dropped

    def set_level(self, level: str) -> None:
        """Least level written, from now on."""
        self._least = LEVELS[level]

    def tell(self, level: str, event: str, fields: Mapping[str, Any], at: float | None = None) -> None:
        """Write one line. Never blocks, never raises: hot path.

        Args:
            at: epoch seconds; now when None.
        """
        if LEVELS.get(level, 40) < self._least:
            return
        when = self._clock() if at is None else at
        try:
            line = self._lines.render(when, level, event, fields)
        except Exception as error:  # no field, however odd, may fail the mail flow
            line = self._lines.render(when, level, event, {"unloggable": type(error).__name__})
        self._writer.write(level, line)

    def close(self) -> None:
        """Pass on what waits, undo what `configure` did to structlog and the stdlib loggers."""
        root = logging.getLogger()
        for handler in [h for h in root.handlers if isinstance(h, _StdlibHandler) and h.log is self]:
            root.removeHandler(handler)
            if (structlog := sys.modules.get("structlog")) is not None:
                structlog.reset_defaults()
            logging.captureWarnings(False)
        self._writer.close()


class _StdlibHandler(logging.Handler):
    """Library loggers through the same door."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        try:
            fields: dict[str, Any] = {"logger": record.name}
            if record.exc_info:
                fields["exception"] = _traceback(record.exc_info)
            self.log.tell(level if level in LEVELS else "warning", record.getMessage(), fields)
        except Exception:  # a library's bad format string is not our failure
            self.log.tell("warning", str(record.msg), {"logger": record.name})


def _traceback(info: Any) -> str:
    """The last frames, which say where it happened, within the text limit."""
    if info is True:
        info = sys.exc_info()
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    text = "".join(traceback.format_exception(error)) if error is not None else ""
    return text if len(text) <= MAX_TEXT else "…" + text[-MAX_TEXT + 1 :]


def open_output(target: str) -> Output:
    """The destination of `LogSettings.target`.

    Raises:
        ConfigError: unknown target, or a syslog address that is not of this machine.
    """
    if target in ("stdout", "stderr"):
        try:
            return StreamOutput(1 if target == "stdout" else 2)
        except OSError:  # closed by whoever started us
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                return StreamOutput(null)
            finally:
                os.close(null)
    kind, _, where = target.partition(":")
    if kind != "syslog":
        raise ConfigError(
            f"log target {target!r}: must be stdout, stderr, syslog, syslog:/path or syslog:127.0.0.1:514"
        )
    if not where or where.startswith("/"):
        return SyslogOutput(where or "/dev/log")
    host, _, port = where.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"log target {target!r}: no port; write for example syslog:127.0.0.1:514")
    return SyslogOutput((host.strip("[]"), int(port)))


def make_log(
    settings: LogSettings,
    output: Output,
    *,
    threaded: bool = True,
    as_json: bool = True,
    bound: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> Log:
    """A log to `output`, leaving structlog and the stdlib loggers alone.

    Raises:
        ConfigError: unknown level.
    """
    if settings.level not in LEVELS:
        raise ConfigError(f"log level {settings.level!r}: must be one of {', '.join(LEVELS)}")
    key = (settings.redact_key or os.urandom(32)) if settings.redact_recipients else None
    if key is not None and len(key) > blake2b.MAX_KEY_SIZE:
        key = blake2b(key).digest()
    lines = Lines(as_json=as_json, redactor=Redactor(key), bound=bound)

    def report(lost: int) -> bytes:
        return lines.render(clock(), "warning", "log.dropped", {"lines": lost})

    writer: LineWriter = QueuedWriter(output, report) if threaded else DirectWriter(output, report)
    level = "error" if settings.errors_only else settings.level
    return Log(lines, writer, level=level, clock=clock)


def configure(
    settings: LogSettings,
    *,
    threaded: bool = True,
    bound: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> Log:
    """Set up logging for this process: the returned log, structlog's loggers and the loggers of libraries.

    Call it after forking: the writer's thread does not survive a fork. A process that is going to fork passes
    `threaded=False`.

    Raises:
        ConfigError: see `make_log` and `open_output`.
    """
    if settings.format not in ("auto", "json", "text"):
        raise ConfigError(f"log format {settings.format!r}: must be auto, json or text")
    output = open_output(settings.target)
    terminal = settings.target in ("stdout", "stderr") and _is_terminal(1 if settings.target == "stdout" else 2)
    as_json = settings.format == "json" or (settings.format == "auto" and not terminal)
    log = make_log(settings, output, threaded=threaded, as_json=as_json, bound=bound, clock=clock)
    _route_stdlib(log)
    if "structlog" in sys.modules:  # nothing here imports it, and with rich it costs a start a tenth of a second
        _route_structlog(log, LEVELS["error" if settings.errors_only else settings.level])
    return log


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _route_stdlib(log: Log) -> None:
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _StdlibHandler)]:
        root.removeHandler(handler)
    root.addHandler(_StdlibHandler(log))
    root.setLevel(logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _route_structlog(log: Log, least: int) -> None:
    import structlog

    def hand_over(_logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
        event = as_text(fields.pop("event", ""))
        if info := fields.pop("exc_info", None):
            fields["exception"] = _traceback(info)
        level = {"warn": "warning", "exception": "error", "fatal": "critical"}.get(method, method)
        log.tell(level, event, fields)
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, hand_over],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        context_class=dict,
        cache_logger_on_first_use=False,
    )
