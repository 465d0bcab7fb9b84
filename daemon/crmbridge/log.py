"""How log lines look: colours in a terminal, JSON for machines. Both go to standard error.

Every part logs through structlog, with dotted event names and keyword fields; lines of libraries come out in the same
form. Numbers can be masked here, in one place, for whatever part logs them.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

_NUMBER_FIELDS = ("number", "numbers", "did")
_SHOWN_DIGITS = 3


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
    if mask_numbers:
        shared.append(_mask_numbers)
    if console:
        tail: list[Processor] = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    else:
        tail = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail]
        )
    )
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


def _mask_numbers(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for field in _NUMBER_FIELDS:
        if field in event:
            event[field] = mask(event[field])
    return event


def mask(number: object) -> str:
    """A number with all but its last digits hidden."""
    text = str(number)
    return "*" * (len(text) - _SHOWN_DIGITS) + text[-_SHOWN_DIGITS:]
