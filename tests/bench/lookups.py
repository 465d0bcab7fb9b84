"""Questions asked one after another, or by many clients at once, and how long each took.

The clients are plain sockets and asyncmy in one process. What they cost by themselves is measured with questions that
need no looking up (`/healthz`, `SELECT 1`).
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import ceil
from typing import NamedTuple
from urllib.parse import quote

import asyncmy
from tests.bench.bridge import PartError, authorization

Ask = Callable[[str], Awaitable[int]]
"""Asks for a number's calls; how many lines came."""
Connect = Callable[[], AbstractAsyncContextManager[Ask]]


class Asked(NamedTuple):
    """One question."""

    number: str
    seconds: float
    lines: int


class Timing(NamedTuple):
    """Many questions; milliseconds."""

    clients: int
    lookups: int
    median_ms: float
    p99_ms: float
    most_ms: float
    per_s: float
    lines: float
    """On average."""
    most_lines: int


def sample(numbers: Counter[str], seed: int, count: int) -> list[str]:
    """Numbers to ask for: one half as often as they called, the other half each as often as any."""
    rng, known = random.Random(seed), sorted(numbers)
    chosen = rng.choices(known, weights=[numbers[one] for one in known], k=count // 2)
    chosen += rng.choices(known, k=count - count // 2)
    rng.shuffle(chosen)
    return chosen


def alike(numbers: Counter[str], seed: int, count: int) -> list[str]:
    """Numbers that all have about ten lines: what differs between two tables is then their size, not the answers'."""
    known = sorted(number for number, lines in numbers.items() if 8 <= lines <= 12)
    return random.Random(seed).sample(known, min(count, len(known)))


async def ask_all(connect: Connect, numbers: Sequence[str], clients: int) -> tuple[Timing, list[Asked]]:
    """Ask for each number once; each client asks its next question when it has the answer to its last."""
    left, asked = iter(numbers), list[Asked]()
    ready = asyncio.Barrier(clients)
    began: list[float] = []

    async def client() -> None:
        async with connect() as ask:
            await ready.wait()
            began.append(time.perf_counter())
            for number in left:
                at = time.perf_counter()
                lines = await ask(number)
                asked.append(Asked(number, time.perf_counter() - at, lines))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())
    return timing(asked, clients, time.perf_counter() - began[0]), asked


def timing(asked: list[Asked], clients: int, wall_s: float) -> Timing:
    times = sorted(one.seconds * 1000 for one in asked)
    lines = [one.lines for one in asked]
    p99 = times[ceil(0.99 * len(times)) - 1]
    middle, average = statistics.median(times), statistics.mean(lines)
    return Timing(clients, len(asked), middle, p99, times[-1], len(asked) / wall_s, average, max(lines))


def calls_over_http(port: int) -> Connect:
    """`GET /calls?number=…`: the newest hundred."""
    return lambda: _http(port, lambda number: f"/calls?number={quote(number)}")


def health_over_http(port: int) -> Connect:
    """`GET /healthz`: what HTTP and the client cost."""
    return lambda: _http(port, lambda _: "/healthz")


@asynccontextmanager
async def _http(port: int, path: Callable[[str], str]) -> AsyncIterator[Ask]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    tail = f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: {authorization()}\r\n\r\n"

    async def ask(number: str) -> int:
        writer.write(f"GET {path(number)}{tail}".encode())
        status, body = await answer(reader)
        if status != 200:
            raise PartError(f"GET {path(number)}: {status} {body[:200].decode(errors='replace')}")
        return body.count(b'"time"')

    try:
        yield ask
    finally:
        writer.close()
        await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body, of a given length or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    if b"\r\ntransfer-encoding: chunked\r\n" not in head:
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        return status, await reader.readexactly(int(length))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, body


def rows_over_sql(address: dict[str, object], statement: str) -> Connect:
    """A statement with one `%s` or more for the number; `address`: what asyncmy.connect takes."""
    return lambda: _sql(address, statement)


@asynccontextmanager
async def _sql(address: dict[str, object], statement: str) -> AsyncIterator[Ask]:
    connection = await asyncmy.connect(**address, autocommit=True)
    values = statement.count("%s")

    async def ask(number: str) -> int:
        async with connection.cursor() as cursor:
            await cursor.execute(statement, [number] * values)
            return len(await cursor.fetchall())

    try:
        yield ask
    finally:
        await connection.ensure_closed()
