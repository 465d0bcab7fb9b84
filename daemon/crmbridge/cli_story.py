"""`crmbridge story`: all that happened to a call, or to the calls with a number, for support."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Annotated

import typer

from crmbridge import app, build, config
from crmbridge.calls.history import CallRow
from crmbridge.cli_support import call_list, existing, told_apart
from crmbridge.config import Settings
from crmbridge.store import clicks as click_store
from crmbridge.store.clicks import Listed, open_clicks
from crmbridge.store.outbox import open_outbox
from crmbridge.store.outbox_sql import Which
from crmbridge.store.schema import StoreError
from crmbridge.story import Entry, Told, timeline
from crmbridge.terminal import ConfigOption, JsonOption, load, local, run, show

_LINKEDID = re.compile(r"(.+-)?[0-9]{9,11}\.[0-9A-Za-z;]+", re.ASCII)
"""`1795413177.274`, `pbx1-1795413177.274` (asterisk.conf's systemname), `crm-1795466036.a244e6c880` (a click's)."""

WhatArgument = Annotated[
    str, typer.Argument(metavar="LINKEDID|NUMBER", help="A call as the log names it, or a number.")
]
LimitOption = Annotated[int, typer.Option(min=1, max=1000, help="So many callbacks, clicks and lines, the newest.")]


def story(
    what: WhatArgument,
    limit: LimitOption = 50,
    config_file: ConfigOption = config.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to a call, oldest first: told to the CRM, clicked, listed. Times are this machine's."""
    settings = load(config_file)
    entries = run(_story(settings, what.strip(), limit))
    rows = told_apart([asdict(one) | {"at": local(one.at)} for one in entries], settings, as_json=as_json)
    show(rows, as_json=as_json, empty=f"nothing is known of {what}")


async def _story(settings: Settings, what: str, limit: int) -> list[Entry]:
    if _LINKEDID.fullmatch(what):
        callbacks, clicks = Which(call=what), [click_store.Which(click_id=what)]
    else:
        number = build.numbers(settings.numbers).caller(what)
        callbacks, clicks = Which(number=number), [click_store.Which(number=one) for one in sorted({what, number})]
    return timeline(
        await _told(settings, callbacks, limit),
        await _clicks(settings, clicks, limit),
        await _lines(settings, what, limit, is_call=callbacks.call is not None),
    )


async def _told(settings: Settings, which: Which, limit: int) -> list[Told]:
    """Callbacks, those that were dropped by hand, too."""
    found: list[Told] = []
    async with open_outbox(existing(settings, app.OUTBOX), sole=False) as outbox:
        for dropped in (False, True):
            listed = await outbox.listing(replace(which, dropped=dropped), limit)
            found += [Told(one.delivery, await outbox.attempts(one.delivery.id), dropped) for one in listed]
    return found


async def _clicks(settings: Settings, any_of: list[click_store.Which], limit: int) -> list[Listed]:
    found: dict[tuple[str, object], Listed] = {}
    async with open_clicks(existing(settings, app.CLICKS), sole=False) as store:
        for which in any_of:
            found |= {(one.asked.click_id, one.asked.at): one for one in await store.listing(which, limit)}
    return list(found.values())


async def _lines(settings: Settings, what: str, limit: int, *, is_call: bool) -> list[CallRow]:
    """Lines of the call list. Its database may be away; the rest is here, and is shown all the same."""
    try:
        async with call_list(settings) as store:
            if is_call:
                return await store.of_call(what)
            return (await store.by_number(build.numbers(settings.numbers).same(what), limit=limit)).rows
    except StoreError as error:
        typer.echo(f"crmbridge: without the call list: {error}", err=True)
        return []
