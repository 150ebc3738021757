"""Logs: one event a line on standard error, as JSON or, on a terminal, for people.

A thread of its own writes the lines, so that a reader who lets the pipe fill up costs lines, never the event loop's time.
Whatever looks like a secret is masked in the finished line, wherever it came from.
"""

import atexit
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway import settings

MOST_LINES = 10_000
"""Lines that may wait to be written; those that come when as many wait are dropped and counted."""

_FLUSH_SECONDS = 1.0

# Signing secrets and API keys in full. What the record shows of a key (its first characters) is too short to match.
_SECRET = re.compile(rb"(whsec_|[cr]k_(?:live|sandbox)_|sk_)[A-Za-z0-9+/=_-]{24,}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class LineWriter:
    """Writes lines to a stream in a thread. It drops lines rather than to wait for the stream, and says how many."""

    def __init__(self, stream: BinaryIO, *, most_lines: int = MOST_LINES) -> None:
        self._stream = stream
        self._most_lines = most_lines
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._changed = threading.Condition()
        self._is_writing = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Takes *line*, without a newline at its end, for writing."""
        line = _SECRET.sub(rb"\1***", line)
        with self._changed:
            if self._is_closed or len(self._lines) >= self._most_lines:
                self._dropped += 1
                return
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self, seconds: float = _FLUSH_SECONDS) -> bool:
        """Waits until everything is written, at most *seconds*; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._is_writing, seconds)

    def close(self) -> None:
        """Writes what is left, within a second, and ends the thread."""
        self.flush()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._stream.write(b"".join(line + b"\n" for line in batch))
                self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads any more, or the stream was closed. There is no other place to say so.
                with self._changed:
                    self._dropped += len(batch)

    def _next_batch(self) -> Sequence[bytes] | None:
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._lines or self._is_closed)
            if self._is_closed and not self._lines:
                return None
            batch = list(self._lines)
            self._lines.clear()
            if self._dropped:
                batch.append(msgspec.json.encode({"level": "warning", "event": "log.lines_dropped", "count": self._dropped}))
                self._dropped = 0
            self._is_writing = True
            return batch


_writer: LineWriter | None = None


def _write(line: bytes) -> None:
    """Loggers keep this and not the writer, so that a later `configure` redirects those in use as well."""
    if _writer is not None:
        _writer.write(line)


def _close() -> None:
    if _writer is not None:
        _writer.close()


atexit.register(_close)


class _Logger:
    """What structlog hands finished lines to; every level is the same to it."""

    def __init__(self) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = self.exception = _write


class _StandardHandler(logging.Handler):
    """Puts what libraries log through the same chain."""

    def __init__(self, chain: Iterable[Processor]) -> None:
        super().__init__()
        self._chain = tuple(chain)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info and record.exc_info[0] is not None:
                event["exc_info"] = record.exc_info
            for process in self._chain:
                event = process(None, record.levelname.lower(), event)
            _write(event)
        except Exception:  # noqa: BLE001 - logging's own way out: it never breaks who logs
            self.handleError(record)


def configure(log: settings.Log, stream: BinaryIO | None = None) -> LineWriter:
    """Makes structlog and the standard library's loggers write to *stream* (standard error when None).

    May be called again; loggers that have been used before then keep their level and format.
    """
    global _writer  # noqa: PLW0603 - the process has one log
    _close()
    is_terminal = stream is None and sys.stderr.isatty()
    _writer = LineWriter(stream or sys.stderr.buffer)
    render = _render_for_people(colors=is_terminal) if _is_for_people(log, is_terminal=is_terminal) else _render_json
    level = logging.getLevelNamesMapping()[log.level.upper()]
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        render,
    ]
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Logger(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_StandardHandler(chain)], level=max(level, logging.INFO), force=True)
    logging.captureWarnings(capture=True)
    # The API logs its requests itself.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    return _writer


def _is_for_people(log: settings.Log, *, is_terminal: bool) -> bool:
    return log.format == "console" or (log.format == "auto" and is_terminal)


_encoder = msgspec.json.Encoder(enc_hook=repr)


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    """The event as JSON, what it is first."""
    line = {"at": event.pop("at"), "level": event.pop("level"), "event": event.pop("event"), **event}
    try:
        return _encoder.encode(line)
    except (UnicodeEncodeError, TypeError, RecursionError, ValueError):
        # A lone surrogate, a key that is no text, …: what cannot be encoded is still logged.
        return _encoder.encode({_plain(key): _plain(value) for key, value in line.items()})


def _plain(value: object) -> str:
    return (value if isinstance(value, str) else ascii(value)).encode(errors="backslashreplace").decode()


def _render_for_people(*, colors: bool) -> Processor:
    console = structlog.dev.ConsoleRenderer(
        colors=colors,
        timestamp_key="at",
        repr_native_str=True,  # so that what receivers sent cannot speak to the terminal
        exception_formatter=structlog.dev.plain_traceback,
    )

    def render(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        for key in ("event", "exception", "stack"):
            if key in event:
                event[key] = _CONTROL.sub("·", str(event[key]))
        return console(logger, method, event).encode(errors="backslashreplace")

    return render
