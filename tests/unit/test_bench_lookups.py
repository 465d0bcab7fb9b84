"""The bench's own client: it must read every kind of answer, and count right."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.bench import lookups
from tests.bench.lookups import Ask

BODY = b'{"success":true,"result":[{"time":"2026-11-23 05:52:57"},{"time":"2026-11-22 05:52:57"}]}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    *(BODY[:30], len(BODY) - 30, BODY[30:]),
)
REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}"


async def test_answers_are_read_one_after_another_whole_or_in_chunks() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(PLAIN + CHUNKED + REFUSED + PLAIN)
    answers = [await lookups.answer(reader) for _ in range(4)]
    assert answers == [(200, BODY), (200, BODY), (401, b"{}"), (200, BODY)]


async def test_every_number_is_asked_for_once_whatever_the_clients() -> None:
    connected = 0

    @asynccontextmanager
    async def connect() -> AsyncIterator[Ask]:
        nonlocal connected
        connected += 1

        async def ask(number: str) -> int:
            await asyncio.sleep(0)
            return len(number)

        yield ask

    numbers = [f"{'1' * (place % 4)}" for place in range(50)]
    timing, asked = await lookups.ask_all(connect, numbers, 7)
    assert connected == timing.clients == 7
    assert Counter(one.number for one in asked) == Counter(numbers)
    assert (timing.lookups, timing.most_lines) == (50, 3)
    assert timing.lines == pytest.approx(sum(map(len, numbers)) / 50)


def test_the_99th_percentile_is_the_time_that_99_of_100_do_not_exceed() -> None:
    asked = [lookups.Asked("", second, 1) for second in range(1, 201)]
    timing = lookups.timing(asked, clients=1, wall_s=100)
    assert (timing.median_ms, timing.p99_ms, timing.most_ms, timing.per_s) == (100_500, 198_000, 200_000, 2)


def test_half_of_a_sample_is_drawn_by_calls_and_half_by_numbers() -> None:
    numbers = Counter({f"{place:03}": 1 for place in range(999)} | {"often": 999})
    drawn = lookups.sample(numbers, seed=1, count=2000)
    assert drawn == lookups.sample(numbers, seed=1, count=2000)
    # A half of the one half, and one in a thousand of the other.
    assert 400 < drawn.count("often") < 600
    assert len(set(drawn)) > 700
