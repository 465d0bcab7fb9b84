"""As a program: a bridge's call list of this version or the next one, which takes up calls until standard input ends.

It says in JSON, a line each, how many portions are stored, and why one was refused; that one it then tries again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import count

from tests.integration import migrating
from tests.integration.test_call_list import HERE, HISTORY, record

from crmbridge import log
from crmbridge.calls.cdr import Cdr
from crmbridge.store import call_list, call_tables, call_writes
from crmbridge.store.call_list import CallList
from crmbridge.store.schema import StoreError

PACE_S = 0.05
"""Between two portions: a tenth of what a bridge waits. Without any, two nodes' transactions collide without end."""


def become_the_next() -> None:
    """Make this process a program of the next version, which fills the new column of `calls`."""
    newer = migrating.next_version(call_tables.SCHEMA)
    calls = newer.tables.tables["calls"]
    call_list.SCHEMA = newer  # type: ignore[attr-defined]
    call_tables.calls = calls
    call_writes._LINE = calls.columns.keys()
    plain = call_writes._lines

    def lines(*all_of_it: object) -> Iterator[call_writes.Line]:
        return ((*line, "filled") for line in plain(*all_of_it))  # type: ignore[arg-type]

    call_writes._lines = lines  # type: ignore[assignment]


def portion(start: int, number: int) -> list[Cdr]:
    """A call that all programs hear of, and one that only this one does."""
    return [record(linkedid=linkedid, uniqueid=linkedid) for linkedid in linkedids(start, [number])]


def linkedids(start: int, numbers: Iterable[int]) -> list[str]:
    """Of the calls in these portions."""
    return [linkedid for number in numbers for linkedid in (f"{number}.0", f"{start + number}.1")]


def say(**what: object) -> None:
    """To the test."""
    print(json.dumps(what), flush=True)


async def write(calls: CallList, start: int, stop: asyncio.Event) -> None:
    """Portion after portion."""
    for number in count():
        while True:
            if stop.is_set():
                return
            try:
                await calls.add(portion(start, number))
            except StoreError as error:
                say(refused=str(error))
            else:
                say(stored=number + 1)
                break
        await asyncio.sleep(PACE_S)


async def main(url: str, which: str, start: int) -> None:
    """`which`: "this" or "next"."""
    if which == "next":
        become_the_next()
    stop = asyncio.Event()
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    ended.add_done_callback(lambda _: stop.set())
    try:
        async with call_list.open_call_list(url, HISTORY.rows, HERE) as calls:
            await write(calls, start, stop)
    except StoreError as error:
        say(refused=str(error))
    await ended


if __name__ == "__main__":
    log.configure(level="info", form="json", mask_numbers=True)
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
