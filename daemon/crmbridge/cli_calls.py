"""`crmbridge sync`: the PBX's history into the call list."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crmbridge import build, config, log
from crmbridge.cli_support import InstantOption
from crmbridge.config import Settings
from crmbridge.pbx.cdr_table import SourceError
from crmbridge.sync import Done, Sync
from crmbridge.terminal import (
    EX_UNAVAILABLE,
    ConfigOption,
    JsonOption,
    PbxOption,
    console,
    fail,
    load,
    local,
    some_pbxes,
    until_stopped,
)

LINE_EVERY_S = 10.0
"""Where there is no terminal: how often a line says how far it is."""
OBJECTS = 50_000
"""Made before garbage is looked for: 700, as Python has it, costs a tenth of the time, as each record is an object and
none of them is garbage that must be looked for."""
EX_STOPPED = 130
"""As a shell gives it for a program that SIGINT ended."""


def sync(
    since: InstantOption = None,
    again: Annotated[bool, typer.Option("--again", help="From the beginning, whatever was done before.")] = False,
    config_file: ConfigOption = config.DEFAULT_FILE,
    as_json: JsonOption = False,
    pbx: PbxOption = None,
) -> None:
    """Bring the PBX's whole history of calls into the call list; where it was stopped, it goes on.

    The daemon may run meanwhile, and takes up new calls as ever. What is in the list already is not doubled, and
    nothing is deleted from it. Where there are several PBXes, each has its turn, or the one that --pbx names. Times are
    this machine's.
    """
    settings = load(config_file)
    log.configure(level="warning", form="console", mask_numbers=settings.log.mask_numbers)
    gc.freeze()
    gc.set_threshold(OBJECTS)
    begin = since.astimezone(UTC) if since else None
    chosen = _with_history(some_pbxes(settings, pbx))
    summaries: list[dict[str, object]] = []
    troubles: list[str] = []
    for one in chosen:
        name = one.pbx.name if settings.names_pbxes else None
        began = time.monotonic()
        with _Shown(name, quiet=as_json) as shown:
            done = until_stopped(partial(_synced, one, begin, again=again, show=shown.show, alone=len(chosen) == 1))
        if isinstance(done, SourceError):  # the others' history is none the worse for it
            troubles.append(f"{name}: {done}")
            continue
        seconds = time.monotonic() - began
        summaries.append(({"pbx": name} if name else {}) | _summary(done, seconds))
        if not as_json:
            typer.echo(f"{name}: {_told(done, seconds)}" if name else _told(done, seconds))
        if done.stopped:
            break
    if as_json:
        typer.echo(json.dumps(summaries if settings.names_pbxes else summaries[0]))
    if troubles:
        fail("; ".join(troubles), EX_UNAVAILABLE)
    if summaries[-1]["stopped"]:
        raise typer.Exit(EX_STOPPED)


def _with_history(chosen: list[Settings]) -> list[Settings]:
    """Those whose source of call records keeps a history."""
    there = [one for one in chosen if one.cdr.source.get_secret_value() != "ami"]
    if not there:
        fail("cdr.source is ami: events have no history. Name the CDR table or file (docs/call-records.md)", 2)
    for one in [one for one in chosen if one not in there]:
        typer.echo(f"crmbridge: {one.pbx.name}: its cdr.source is ami, events have no history: left out", err=True)
    return there


async def _synced(
    settings: Settings,
    since: datetime | None,
    stop: asyncio.Event,
    *,
    again: bool,
    show: Callable[[Done], None],
    alone: bool,
) -> Done | SourceError:
    """`alone`: there is no other PBX whose turn it is when this one's source can't be had."""
    try:
        return await _one_synced(settings, since, stop, again=again, show=show)
    except SourceError as error:
        if alone:
            raise
        return error


async def _one_synced(
    settings: Settings, since: datetime | None, stop: asyncio.Event, *, again: bool, show: Callable[[Done], None]
) -> Done:
    async with AsyncExitStack() as stack:
        history = build.past(settings, stack)
        if history is None:
            raise SourceError("events have no history")
        (site,) = build.sites(settings)
        rows = build.history(site)
        store = await stack.enter_async_context(build.call_list(settings, rows))
        now = int(datetime.now(UTC).timestamp())
        one = Sync(pbx=settings.pbx.name, history=history, rows=rows, store=store, now=now, show=show)
        return await one.run(stop, since=int(since.timestamp()) if since else None, again=again)


class _Shown:
    """How far it is: a bar in a terminal, elsewhere a line now and then."""

    def __init__(self, pbx: str | None, *, quiet: bool) -> None:
        """`pbx`: its name, where that is to be told."""
        self._quiet = quiet
        self._which = f"{pbx}: " if pbx else ""
        self._bar: Progress | None = None
        if not quiet and sys.stdout.isatty():
            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console())
            self._task = self._bar.add_task(f"{self._which}reading", total=None)
        self._began = time.monotonic()
        self._told_at = self._began

    def __enter__(self) -> _Shown:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: Done) -> None:
        """Tell it, if it is time."""
        now = time.monotonic()
        speed = done.records / max(now - self._began, 0.001)
        told = f"{self._which}{_day(done.at)}  {done.records:,} records  {speed:,.0f}/s"
        if self._bar is not None:
            total, completed = max(done.last - done.first, 1), done.at - done.first
            self._bar.update(self._task, total=total, completed=completed, description=told)
        elif not self._quiet and now - self._told_at >= LINE_EVERY_S:
            self._told_at = now
            typer.echo(told)


def _day(epoch_s: int) -> str:
    return local(datetime.fromtimestamp(epoch_s, UTC))[:10]


def _summary(done: Done, seconds: float) -> dict[str, object]:
    return {
        "records": done.records,
        "calls": done.calls,
        "lines": done.lines,
        "added": done.added,
        "cut": done.cut,
        "seconds": round(seconds, 1),
        "until": datetime.fromtimestamp(done.at, UTC).isoformat(),
        "stopped": done.stopped,
    }


def _told(done: Done, seconds: float) -> str:
    told = (
        f"{done.records:,} records of {done.calls:,} calls read in {seconds:,.1f} s "
        f"({done.records / max(seconds, 0.001):,.0f} a second); {done.lines:,} lines were new or had changed, "
        f"{done.added:,} records of the last day were taken up"
    )
    if done.cut:
        told += f"; {done.cut:,} calls began before the first record that there is, and were left as they are"
    if done.stopped:
        told += f"\nstopped at {_day(done.at)}; what was read till then is in the call list: `crmbridge sync` goes on"
    return told
