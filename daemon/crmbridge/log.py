"""How log lines look: colours in a terminal, JSON for machines. Both go to standard error.

Every part logs through structlog, with dotted event names and keyword fields; lines of libraries come out in the same
form. Numbers can be masked here, in one place, for whatever part logs them (`masking`), and what is said again and
again is held back and counted (`repetition`).
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from crmbridge.masking import masked
from crmbridge.repetition import Kind, Repetition, kind_of

log = structlog.get_logger("crmbridge.log")

TELL_EVERY_S = 10.0
"""How often is looked for lines that were held back and are to be told now."""

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Of the journal, as a line's beginning tells them (sd-daemon(3)); without, `journalctl -p warning` finds nothing."""

counts: dict[str, int] = dict.fromkeys(("debug", "info", "warning", "error", "critical"), 0)
"""Lines since the start, by level, those that were held back included."""


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # standard error, whichever it is
    """Writes lines, but not the same one again and again."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.repetition = Repetition[logging.LogRecord]()
        self._to_journal = _is_journal(sys.stderr)

    def format(self, record: logging.LogRecord) -> str:
        """A line; for systemd's journal, with its priority."""
        text = super().format(record)
        return f"<{_PRIORITIES.get(record.levelname.lower(), 6)}>{text}" if self._to_journal else text

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or hold it back. Called with the handler's lock held, from any thread."""
        level = record.levelname.lower()
        counts[level] = counts.get(level, 0) + 1
        try:
            kind = _kind(level, record)
            held = 0 if kind is None else self.repetition.admit(kind, time.monotonic(), lambda: _without_frames(record))
        except Exception:  # noqa: BLE001  # whoever logs a value that can't be written must not fail for it
            self.handleError(record)
            return
        if held is not None:
            self._write(record, held)

    def tell_held_back(self) -> None:
        """Write what was held back, where it is time."""
        self._write_all(self.repetition.due)

    def close(self) -> None:
        """Write all that was held back: the process ends."""
        self._write_all(self.repetition.rest)
        super().close()

    def _write_all(self, which: Callable[[float], list[tuple[logging.LogRecord, int]]]) -> None:
        self.acquire()
        try:
            for record, more in which(time.monotonic()):
                self._write(record, more)
        finally:
            self.release()

    def _write(self, record: logging.LogRecord, repeated: int) -> None:
        if repeated:
            record.repeated = repeated
        super().emit(record)


def configure(*, level: str, form: Literal["auto", "json", "console"], mask_numbers: bool) -> None:
    """Set up logging for this process. `auto`: a terminal gets the readable form, everything else JSON lines."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
        structlog.processors.StackInfoRenderer(),
    ]
    # As text, in either form: structlog's own way with terminals shows the values of variables, secrets among them.
    tail: list[Processor] = [structlog.processors.format_exc_info, _add_repeated]
    if mask_numbers:
        tail.append(_mask_numbers)
    tail.append(structlog.stdlib.ProcessorFormatter.remove_processors_meta)
    if console:
        plain = structlog.dev.plain_traceback
        tail.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    else:
        tail.append(structlog.processors.JSONRenderer(ensure_ascii=False))
    # Where in the code, and in which thread and process, a line was written is in none of ours, and was a fifth of what
    # each costs; so says "Optimization" in Python's Logging HOWTO.
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for before in _handlers():
        before.close()
    handler = _Handler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=tail))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # libraries speak up only when something is wrong
    set_level(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> None:
    """From now on, for lines of our own."""
    logging.getLogger("crmbridge").setLevel(level.upper())


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
    logging.raiseExceptions = False  # else a line that can't be written is printed with all its values
    sys.excepthook = _died
    sys.unraisablehook = lambda told: _passed_over(told.exc_value)
    threading.excepthook = lambda told: _passed_over(told.exc_value)


def _is_journal(stream: TextIO) -> bool:
    """Whether what is written there is read by systemd's journal (systemd.exec(5), $JOURNAL_STREAM)."""
    told = os.environ.get("JOURNAL_STREAM")
    if not told:
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


def _kind(level: str, record: logging.LogRecord) -> Kind | None:
    if isinstance(record.msg, Mapping):
        return kind_of(level, record.msg)
    # A library's, before its values are put in; asyncio puts the names of its tasks in by itself, after a line's end.
    return Kind((record.name, level, str(record.msg).partition("\n")[0]))


def _without_frames(record: logging.LogRecord) -> logging.LogRecord:
    """A line as it is kept: without an exception, which would keep all that its functions knew."""
    kept = copy.copy(record)
    if isinstance(record.msg, Mapping):
        kept.msg = {name: value for name, value in record.msg.items() if name != "exc_info"}
    else:
        kept.msg, kept.args = record.getMessage(), None
    kept.exc_info = kept.exc_text = None
    return kept


def _add_repeated(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if repeated := getattr(event["_record"], "repeated", 0):
        event["repeated"] = repeated
    return event


def _mask_numbers(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: value if name.startswith("_") else masked(value, name) for name, value in event.items()}
