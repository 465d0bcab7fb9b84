"""How log lines look: colours in a terminal, JSON for machines. Both go to standard error.

Every part logs through structlog, with dotted event names and keyword fields; lines of libraries come out in the same
form. Numbers can be masked here, in one place, for whatever part logs them (`masking`), and what is said again and
again is held back and counted (`repetition`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.types import EventDict, Processor

from crmbridge.masking import masked
from crmbridge.repetition import Kind, Repetition, kind_of

log = structlog.get_logger("crmbridge.log")

TELL_EVERY_S = 10.0
"""How often is looked for lines that were held back and are to be told now."""

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Of the journal, as a line's beginning tells them (sd-daemon(3)); without, `journalctl -p warning` finds nothing."""

counts: dict[str, int] = dict.fromkeys(_PRIORITIES, 0)
"""Lines since the start, by level, those that were held back included."""


class _Logger(structlog.BoundLoggerBase):
    """What our own lines are said to. `set_level` puts its methods in, so that loggers in use follow, too."""

    error: Callable[..., None]

    def exception(self, event: str, **fields: object) -> None:
        """An error, with what was raised."""
        self.error(event, **{"exc_info": True, **fields})


def _saying(level: str) -> Callable[..., None]:
    # structlog's own filtering logger hands the fields on through three more calls, each with a copy: 1.1 us of 8.
    def say(self: _Logger, event: str, **fields: object) -> None:
        line: EventDict = {**self._context, **fields} if self._context else fields
        line["event"] = event
        try:
            for processor in self._processors:
                line = processor(self._logger, level, line)  # type: ignore[assignment]  # ours give lines
        except structlog.DropEvent:
            pass  # a test has it

    return say


def _silent(self: _Logger, event: str, **fields: object) -> None:
    """A line below the level."""


_METHODS = {level: _saying(level) for level in _PRIORITIES}
_processors: list[Processor] = []
"""What a line of our own goes through; this list, since loggers in use have it."""


class _Handler(logging.Handler):
    """Where all lines go, ours and those of libraries, from any thread; but not the same one again and again.

    Whoever logs must not fail for it: of a line with a value that can't be shown the texts are written, and what
    standard error doesn't take is lost.
    """

    def __init__(self, *, console: bool, mask_numbers: bool) -> None:
        super().__init__()
        self.repetition = Repetition[EventDict]()
        self._stream = sys.stderr
        self._to_journal = _is_journal(sys.stderr)
        self._masks = mask_numbers
        self._now = _time_of_day if console else _instant
        self._shown = _for_a_terminal() if console else json.JSONEncoder(ensure_ascii=False, default=repr).encode

    def say(self, logger: str, level: str, line: EventDict) -> EventDict:
        """Take a line of our own."""
        line["level"] = level
        line["logger"] = logger
        self._take(level, line)
        return line

    def emit(self, record: logging.LogRecord) -> None:
        """Take a library's."""
        level = record.levelname.lower()
        try:
            event, template = record.getMessage(), str(record.msg)
        except Exception:  # noqa: BLE001  # values that don't fit
            event = template = _plain(record.msg)
        line: EventDict = {"event": event}
        if record.exc_info:
            line["exc_info"] = record.exc_info
        line = structlog.contextvars.merge_contextvars(None, level, line)
        line["level"] = level
        line["logger"] = record.name
        # Before its values are put in; asyncio puts the names of its tasks in by itself, after a line's end.
        self._take(level, line, Kind((record.name, level, template.partition("\n")[0])))

    def tell_held_back(self) -> None:
        """Write what was held back, where it is time."""
        self._write_all(self.repetition.due)

    def close(self) -> None:
        """Write all that was held back: the process ends."""
        self._write_all(self.repetition.rest)
        super().close()

    def _take(self, level: str, line: EventDict, kind: Kind | None = None) -> None:
        with self.lock:  # type: ignore[union-attr]  # there is one, which a thread may take again: garbage may log, too
            line["timestamp"] = self._now()
            counts[level] = counts.get(level, 0) + 1
            try:
                kind = kind or kind_of(level, line)
            except Exception:  # noqa: BLE001  # a value that can't be shown
                kind = Kind((line["event"], level))
            held = 0 if kind is None else self.repetition.admit(kind, time.monotonic(), lambda: _without_frames(line))
            if held is not None:
                self._write(line, held)

    def _write_all(self, which: Callable[[float], list[tuple[EventDict, int]]]) -> None:
        with self.lock:  # type: ignore[union-attr]
            for line, more in which(time.monotonic()):
                self._write(line, more)

    def _write(self, line: EventDict, repeated: int) -> None:
        try:
            text = self._text(line, repeated)
        except Exception:  # noqa: BLE001  # a value that can't be shown
            text = self._text({name: _plain(value) for name, value in line.items()}, repeated)
        try:  # noqa: SIM105  # a context manager costs more
            self._stream.write(text + "\n")
        except Exception:  # noqa: BLE001, S110  # a disk is full, nobody reads any more; there is nowhere to say it
            pass

    def _text(self, line: EventDict, repeated: int) -> str:
        if "exc_info" in line:
            # In either form: structlog's own way with terminals shows the values of variables, secrets among them.
            line = structlog.processors.format_exc_info(None, "", line)
        if repeated:
            line["repeated"] = repeated
        if self._masks:
            line = {name: masked(value, name) for name, value in line.items()}
        text = self._shown(line)
        return f"<{_PRIORITIES.get(line['level'], 6)}>{text}" if self._to_journal else text


def configure(*, level: str, form: Literal["auto", "json", "console"], mask_numbers: bool) -> None:
    """Set up logging for this process. `auto`: a terminal gets the readable form, everything else JSON lines."""
    console = form == "console" or (form == "auto" and _is_terminal(sys.stderr))
    for before in _handlers():
        before.close()
    handler = _Handler(console=console, mask_numbers=mask_numbers)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # libraries speak up only when something is wrong
    set_level(level)
    _processors[:] = [structlog.contextvars.merge_contextvars, handler.say]
    structlog.configure(
        processors=_processors, wrapper_class=_Logger, logger_factory=str, cache_logger_on_first_use=True
    )


def set_level(level: str) -> None:
    """From now on, for lines of our own."""
    for name, say in _METHODS.items():
        setattr(_Logger, name, say if _PRIORITIES[name] <= _PRIORITIES[level] else _silent)


async def tell_held_back() -> None:
    """Have lines written that were held back, when their time has come; until cancelled."""
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        for handler in _handlers():
            handler.tell_held_back()


def held_back() -> int:
    """Lines held back since the start."""
    return sum(handler.repetition.held_back for handler in _handlers())


def catch_the_rest() -> None:
    """What Python would print by itself, unmasked, becomes lines of ours: it is mostly the end of the process."""
    sys.excepthook = _died
    sys.unraisablehook = lambda told: _passed_over(told.exc_value)
    threading.excepthook = lambda told: _passed_over(told.exc_value)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _is_journal(stream: TextIO | None) -> bool:
    """Whether what is written there is read by systemd's journal (systemd.exec(5), $JOURNAL_STREAM)."""
    told = os.environ.get("JOURNAL_STREAM")
    if not told or stream is None:
        return False
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return told == f"{there.st_dev}:{there.st_ino}"


def _handlers() -> list[_Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]


def _died(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    del kind, traceback
    if isinstance(error, KeyboardInterrupt):
        return
    log.critical("bridge.died", exc_info=error, effect="systemd starts it again; callbacks on disk are sent then")


def _passed_over(error: BaseException | None) -> None:
    log.error("bridge.error_passed_over", exc_info=error)


def _without_frames(line: EventDict) -> EventDict:
    """A line as it is kept: without an exception, which would keep all that its functions knew."""
    return {name: value for name, value in line.items() if name != "exc_info"}


def _plain(value: object) -> str:
    """A value of a line that can't be shown as it is."""
    return value if type(value) is str else f"<{type(value).__name__}>"


def _instant() -> str:
    # Python's isoformat() of an instant is a fifth of what a line costs.
    minute, microseconds = divmod(time.time_ns() // 1000, 60_000_000)
    return f"{_minute(minute)}:{microseconds / 1_000_000:09.6f}Z"


@lru_cache(maxsize=1)
def _minute(since_1970: int) -> str:
    return datetime.fromtimestamp(since_1970 * 60, UTC).strftime("%Y-%m-%dT%H:%M")


def _time_of_day() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S.%f")


def _for_a_terminal() -> Callable[[EventDict], str]:
    plain = structlog.dev.plain_traceback
    renderer = structlog.dev.ConsoleRenderer(colors=_is_terminal(sys.stderr), exception_formatter=plain)
    return lambda line: str(renderer(None, "", line))
