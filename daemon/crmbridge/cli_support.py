"""Commands for support: what became of callbacks, and what calls there were."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from crmbridge import app, build, config
from crmbridge.calls.clicks import Outcome
from crmbridge.calls.events import Delivery, State
from crmbridge.config import Settings
from crmbridge.store import clicks as click_store
from crmbridge.store.call_list import CallList
from crmbridge.store.outbox import Outbox, open_outbox
from crmbridge.store.outbox_sql import Listed, Which
from crmbridge.terminal import EX_IOERR, ConfigOption, JsonOption, fail, load, local, run, show

T = TypeVar("T")

outbox_cli = typer.Typer(help="The callbacks: what was told to the CRM, and what was not.", no_args_is_help=True)

AGAIN = {State.REFUSED, State.EXPIRED}
"""What `retry` sends again; what was dropped by hand only where --dropped says so."""
MOST_AT_ONCE = 100_000
"""Callbacks that one command lists, or sends again or drops by a filter."""
STEP = 1000
"""Of these, how many are asked for together: each of them is a transaction or a part of one."""

IdsArgument = Annotated[list[int] | None, typer.Argument(help="Ids as `outbox list` shows them.", show_default=False)]
InstantOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"])]
StateOption = Annotated[State | None, typer.Option(help="Only those in this state.")]
ExtOption = Annotated[str | None, typer.Option(help="Only this extension's.")]
NumberOption = Annotated[str | None, typer.Option(help="Only this caller's, as the CRM gets it.")]
CallOption = Annotated[str | None, typer.Option(help="Only this call's: linkedid or uniqueid.")]
DroppedOption = Annotated[bool, typer.Option("--dropped", help="Those that were dropped by hand.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before doing it to all that a filter finds.")]


@outbox_cli.command("list")
def outbox_list(
    state: StateOption = None,
    ext: ExtOption = None,
    number: NumberOption = None,
    call: CallOption = None,
    since: InstantOption = None,
    until: InstantOption = None,
    dropped: DroppedOption = False,
    limit: Annotated[int, typer.Option(min=1, max=MOST_AT_ONCE)] = 50,
    config_file: ConfigOption = config.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """List callbacks, newest first, each with how its last attempt went. Times are this machine's."""
    which = Which(state, ext, number, call, _utc(since), _utc(until), dropped)
    settings = load(config_file)
    listed = run(_with_outbox(settings, lambda outbox: outbox.listing(which, limit)))
    rows = told_apart([_callback(one) for one in listed], settings, as_json=as_json)
    show(rows, as_json=as_json, empty="no callbacks")


@outbox_cli.command("retry")
def outbox_retry(
    ids: IdsArgument = None,
    state: StateOption = None,
    ext: ExtOption = None,
    number: NumberOption = None,
    call: CallOption = None,
    since: InstantOption = None,
    until: InstantOption = None,
    dropped: DroppedOption = False,
    yes: YesOption = False,
    config_file: ConfigOption = config.DEFAULT_FILE,
) -> None:
    """Send refused, expired or dropped callbacks again: these, or all that a filter finds.

    A running daemon takes them up within seconds.
    """
    settings, which = load(config_file), Which(state, ext, number, call, _utc(since), _utc(until), dropped)
    chosen = _chosen(settings, ids, which, lambda one: one.state in AGAIN or dropped, "sent again", yes=yes)
    _each(chosen, settings, lambda outbox, one: outbox.retry(one, datetime.now(UTC)), done="queued again")


@outbox_cli.command("drop")
def outbox_drop(
    ids: IdsArgument = None,
    state: StateOption = None,
    ext: ExtOption = None,
    number: NumberOption = None,
    call: CallOption = None,
    since: InstantOption = None,
    until: InstantOption = None,
    yes: YesOption = False,
    config_file: ConfigOption = config.DEFAULT_FILE,
) -> None:
    """Send these, or all that a filter finds, no more and list them no more; `retry` takes that back."""
    settings, which = load(config_file), Which(state, ext, number, call, _utc(since), _utc(until))
    chosen = _chosen(settings, ids, which, lambda one: True, "dropped", yes=yes)  # noqa: ARG005  # any of them
    _each(chosen, settings, lambda outbox, one: outbox.drop(one, datetime.now(UTC)), done="dropped")


def clicks(
    ext: Annotated[str | None, typer.Option(help="Only this extension's.")] = None,
    number: Annotated[str | None, typer.Option(help="Only to this number, as asked for or as dialed.")] = None,
    client: Annotated[str | None, typer.Option(help="Only this ClientId's.")] = None,
    pbx: Annotated[str | None, typer.Option(help="Only those on this PBX.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only those that ended so.")] = None,
    click: Annotated[str | None, typer.Option(help="Only this one: its id, which is its call's Linkedid.")] = None,
    since: InstantOption = None,
    until: InstantOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    config_file: ConfigOption = config.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """List clicks to call, newest first: who asked, what was decided, and how each ended. Times are this machine's."""
    which = click_store.Which(
        extension=ext,
        number=number,
        client_id=client,
        pbx=pbx,
        outcome=outcome,
        click_id=click,
        since=_utc(since),
        until=_utc(until),
    )
    settings = load(config_file)
    listed = run(_clicks_that(settings, which, limit))
    rows = [_click(one) if as_json else _click_in_short(one) for one in listed]
    show(told_apart(rows, settings, as_json=as_json), as_json=as_json, empty="no clicks")


async def _clicks_that(settings: Settings, which: click_store.Which, limit: int) -> list[click_store.Listed]:
    path = existing(settings, app.CLICKS)
    async with click_store.open_clicks(path, sole=False) as store:
        return await store.listing(which, limit)


def _click(one: click_store.Listed) -> dict[str, object]:
    asked, news = one.asked, one.news
    return {
        "time": local(asked.at),
        "click": asked.click_id,
        "pbx": asked.pbx,
        "address": asked.address,
        "user": asked.user,
        "ClientId": asked.client_id,
        "ext": asked.extension,
        "number": asked.number,
        "dialed": asked.dialed,
        "outcome": news.outcome.value,
        "code": news.code,
        "reason": news.reason,
        "phone": news.phone and news.phone.value,
        "number_state": news.number and news.number.value,
        "cause": news.cause,
        "talk": news.talk_s,
        "changed": local(news.at),
    }


def _click_in_short(one: click_store.Listed) -> dict[str, object]:
    """What fits into a terminal's line; the code says why where there was no call."""
    row = _click(one)
    who = ":".join(filter(None, (one.asked.user, one.asked.address)))
    shown = {name: row[name] for name in ("time", "click", "pbx", "ClientId", "ext")}
    return (
        shown
        | {"number": row["dialed"] or row["number"], "outcome": row["outcome"], "talk": row["talk"]}
        | {
            "code": row["code"],
            "asked by": who,
        }
    )


def calls(
    number: Annotated[str, typer.Argument(help="In any spelling.")],
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    config_file: ConfigOption = config.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """List the calls with a number, newest first. Times are this machine's."""
    settings = load(config_file)
    rows = told_apart(run(_calls_with(settings, number, limit)), settings, as_json=as_json)
    show(rows, as_json=as_json, empty=f"no calls with {number}")


async def _calls_with(settings: Settings, number: str, limit: int) -> list[dict[str, object]]:
    async with call_list(settings) as store:
        page = await store.by_number(build.numbers(settings.numbers).same(number), limit=limit)
    return [
        {
            "time": local(row.started_at),
            "pbx": row.pbx,
            "ext": row.extension,
            "number": row.number,
            "duration": row.talk_s,
            "direction": "in" if row.incoming else "out",
            "filename": row.filename,
            "linkedid": row.linkedid,
        }
        for row in page.rows
    ]


def _callback(one: Listed) -> dict[str, object]:
    event, delivery = one.delivery.event, one.delivery
    return {
        "id": delivery.id,
        "time": local(event.at),
        "pbx": event.pbx,
        "operation": event.kind.value,
        "ext": event.extension,
        "number": event.number,
        "ClientId": event.client_id,
        "linkedid": event.linkedid,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "last": one.last.outcome if one.last else None,
    }


def _chosen(
    settings: Settings, ids: list[int] | None, which: Which, fits: Callable[[Delivery], bool], what: str, *, yes: bool
) -> list[int]:
    """The callbacks named, or those that the filter finds, oldest first, once whoever asked has agreed to so many."""
    if bool(ids) == (which != Which()):
        fail(f"name either ids or a filter (--state, --ext, …) for what is to be {what}; see --help", 2)
    if ids:
        return ids
    listed = run(_with_outbox(settings, lambda outbox: outbox.listing(which, MOST_AT_ONCE)))
    found = sorted(one.delivery.id for one in listed if fits(one.delivery))
    if not found:
        typer.echo("no callbacks")
        raise typer.Exit
    if not yes and not sys.stdin.isatty():
        fail(f"{len(found)} callbacks would be {what}; nothing was done: say --yes", 1)
    if not yes and not typer.confirm(f"{len(found)} callbacks will be {what}. Go on?", err=True):
        fail("nothing was done", 1)
    return found


def _each(ids: list[int], settings: Settings, do: Callable[[Outbox, int], Awaitable[bool]], *, done: str) -> None:
    async def all_of_them(outbox: Outbox) -> list[int]:
        missed: list[int] = []
        for start in range(0, len(ids), STEP):
            some = ids[start : start + STEP]
            results = await asyncio.gather(*(do(outbox, one) for one in some))
            missed += [one for one, there in zip(some, results, strict=True) if not there]
        return missed

    missed = run(_with_outbox(settings, all_of_them))
    if len(missed) < len(ids):
        typer.echo(f"{len(ids) - len(missed)} {done}")
    if missed:
        fail(f"no callback to do that with: {', '.join(map(str, missed))} (see `crmbridge outbox list`)", 1)


async def _with_outbox(settings: Settings, do: Callable[[Outbox], Awaitable[T]]) -> T:
    async with open_outbox(existing(settings, app.OUTBOX), sole=False) as outbox:
        return await do(outbox)


def call_list(settings: Settings) -> AbstractAsyncContextManager[CallList]:
    """The call list, to look at."""
    if settings.store.url is None:
        existing(settings, build.CALL_LIST)
    return build.call_list(settings, build.histories(build.sites(settings)))


def told_apart(rows: list[dict[str, object]], settings: Settings, *, as_json: bool) -> list[dict[str, object]]:
    """Rows for a table say of which PBX they are only where there may be several."""
    if as_json or settings.names_pbxes:
        return rows
    return [{name: value for name, value in row.items() if name != "pbx"} for row in rows]


def existing(settings: Settings, name: str) -> Path:
    """A command that only looks must not make files: as root they would keep the daemon out."""
    path = settings.store.state_dir / name
    try:
        path.stat()
    except OSError as error:
        fail(
            f"{path}: {error.strerror}; has the daemon run here yet (store.state_dir), may this user read it?", EX_IOERR
        )
    return path


def _utc(at: datetime | None) -> datetime | None:
    return at.astimezone(UTC) if at else None
