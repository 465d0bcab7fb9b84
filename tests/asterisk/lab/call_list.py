"""The call list of a lab's Asterisk, made as the bridge makes it: its table read, the list in the same MariaDB."""

from __future__ import annotations

from collections import Counter
from datetime import UTC
from typing import NamedTuple

from sqlalchemy.engine import URL
from tests.asterisk.lab.cdr import CdrTable

from crmbridge.calls.history import CallRow, History
from crmbridge.pbx import cdr_table
from crmbridge.store.call_list import CallList, open_call_list


class Shown(NamedTuple):
    """What the CRM sees of a line, over HTTP and in the views."""

    time: str
    ext: str
    number: str
    duration: int
    filename: str
    incoming: bool


def seen(rows: list[CallRow]) -> Counter[Shown]:
    """Lines as the CRM sees them."""
    return Counter(
        Shown(f"{one.started_at:%Y-%m-%d %H:%M:%S}", one.extension, one.number, one.talk_s, one.filename, one.incoming)
        for one in rows
    )


async def made(table: CdrTable, history: History) -> tuple[Counter[Shown], Counter[Shown]]:
    """What a lookup of each number gives, and what the views hold."""
    name = f"list_{table.name}"
    table.database.run(f"CREATE DATABASE IF NOT EXISTS {name}")
    async with open_call_list(_url(table, name), history.rows, UTC) as calls:
        for one in ("calls", "cdrs", "numbers"):
            table.database.run(f"DELETE FROM {name}.{one}")
        await _take_up(table, calls)
        keys = table.database.run(f"SELECT number_key FROM {name}.numbers").splitlines()[1:]
        pages = [await calls.by_number(key) for key in keys]
    halves = [_view(table, f"{name}.{view}") for view in ("incoming_calls", "outgoing_calls")]
    whole = _view(table, f"{name}.all_calls")
    assert halves[0] + halves[1] == whole
    return seen([row for page in pages for row in page.rows]), whole


async def _take_up(table: CdrTable, calls: CallList) -> None:
    url = _url(table, table.name).render_as_string()
    source = cdr_table.CdrTable(url, "cdr", pbx="pbx", timezone=UTC)
    try:
        span = await source.span()
        if span is not None:
            await calls.add(await source.read(span[0], span[1] + 1))
    finally:
        await source.close()


def _view(table: CdrTable, name: str) -> Counter[Shown]:
    lines = table.database.run(f"SELECT time, ext, number, duration, filename, incoming FROM {name}").split("\n")[1:-1]
    values = [line.split("\t") for line in lines]
    return Counter(
        Shown(time, ext, number, int(duration), filename, incoming == "1")
        for time, ext, number, duration, filename, incoming in values
    )


def _url(table: CdrTable, database: str) -> URL:
    query = {"unix_socket": str(table.database.socket)}
    return URL.create("mysql+asyncmy", username="root", host="localhost", database=database, query=query)
