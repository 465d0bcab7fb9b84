"""What all commands share at the terminal: settings, tables, errors in one line, exit codes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from crmbridge import app, config
from crmbridge.config import ConfigError, Settings
from crmbridge.pbx.cdr_table import SourceError
from crmbridge.store.schema import StoreError
from crmbridge.web.tls import TlsError

if TYPE_CHECKING:  # `crmbridge run`, which has a use for load() and run() alone, does without rich: see entry.py
    from rich.console import Console

EX_UNAVAILABLE, EX_IOERR, EX_CONFIG = 69, 74, 78
"""Exit codes as in sysexits.h: nothing to be had, disk, settings."""

_EXIT_CODES = {StoreError: EX_IOERR, SourceError: EX_UNAVAILABLE, app.ListenError: EX_UNAVAILABLE, TlsError: EX_CONFIG}
_PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""

T = TypeVar("T")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The settings file.", metavar="FILE")]
PbxOption = Annotated[
    str | None, typer.Option("--pbx", metavar="NAME", help="Which PBX, where the settings name several.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For a program to read.")]


def load(file: Path) -> Settings:
    """The settings; where they are wrong, the process ends with what is to be mended."""
    try:
        return config.load(file)
    except ConfigError as error:
        fail(str(error), EX_CONFIG)


def one_pbx(settings: Settings, name: str | None) -> Settings:
    """Those of the PBX of this name, or of the only one; where there are several, the process ends with their names."""
    found = some_pbxes(settings, name)
    if len(found) > 1:
        fail(f"there are several PBXes: name one with --pbx ({_names(settings)})", 2)
    return found[0]


def some_pbxes(settings: Settings, name: str | None) -> list[Settings]:
    """Those of the PBX of this name; without a name, of each."""
    found = [one for one in settings.each() if name in {None, one.pbx.name}]
    if not found:
        fail(f"there is no PBX {name!r} in the settings (known: {_names(settings)})", 2)
    return found


def _names(settings: Settings) -> str:
    return ", ".join(one.pbx.name for one in settings.each())


def run(work: Coroutine[object, object, T]) -> T:
    """Run, and turn the troubles that an administrator can mend into one line and an exit code."""
    try:
        return asyncio.run(work)
    except Exception as error:
        cause = _first(error)
        for kind, code in _EXIT_CODES.items():
            if isinstance(cause, kind):
                fail(str(cause), code)
        raise


def until_stopped(what: Callable[[asyncio.Event], Coroutine[object, object, T]]) -> T:
    """The same for work that ends early when SIGTERM or SIGINT sets the event that it is given."""

    async def stoppable() -> T:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await what(stop)

    return run(stoppable())


def fail(message: str, code: int) -> NoReturn:
    """End the process with a message on standard error."""
    typer.echo(f"crmbridge: {message}", err=True)
    raise typer.Exit(code)


def console() -> Console:
    """Standard output, as wide as the terminal is."""
    from rich.console import Console  # noqa: PLC0415  # see above

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def show(rows: Sequence[Mapping[str, object]], *, as_json: bool, empty: str) -> None:
    """Print rows of the same keys: a table for people, one JSON array for programs."""
    if as_json:
        typer.echo(json.dumps(list(rows), ensure_ascii=False))
    elif not rows:
        typer.echo(empty)
    else:
        from rich.table import Table  # noqa: PLC0415  # see above

        table = Table(*rows[0], show_edge=False)
        for row in rows:
            table.add_row(*map(_cell, row.values()))
        console().print(table)


def local(at: datetime) -> str:
    """An instant in this machine's time zone, as an administrator reads it."""
    return at.astimezone().isoformat(sep=" ", timespec="seconds")


def _cell(value: object) -> str:
    """A value's text; what callers and the CRM sent must not be taken for markup."""
    from rich.markup import escape  # noqa: PLC0415  # see above

    return "" if value is None else escape(str(value))


def _first(error: BaseException) -> BaseException:
    """What a group of errors is about."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
