"""How the outcome of faults is printed: a table, and each broken promise in words."""

from __future__ import annotations

import sys
from typing import Protocol

from rich.console import Console
from rich.table import Table

WIDTH = 200
MOST_SHOWN = 20


class Result(Protocol):
    """What each part gives."""

    @property
    def broken(self) -> list[str]: ...

    def rows(self) -> list[dict[str, object]]: ...


def a_console() -> Console:
    """Wide enough for tables where the output is no terminal."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, soft_wrap=True)


def show(console: Console, title: str, result: Result) -> None:
    """Print it."""
    table = Table(*result.rows()[0], title=title, title_justify="left", show_edge=False)
    for row in result.rows():
        table.add_row(*map(str, row.values()))
    console.print(table)
    for note in getattr(result, "notes", list)():
        console.print(note, highlight=False)
    for one in result.broken[:MOST_SHOWN]:
        console.print(f"BROKEN {one}", markup=False, highlight=False)
    if len(result.broken) > MOST_SHOWN:
        console.print(f"BROKEN and {len(result.broken) - MOST_SHOWN} more")
