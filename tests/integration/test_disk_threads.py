"""Calls that may hang, on threads of their own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from crmbridge.web import disk
from crmbridge.web.disk import Disk, HangingError

LIMIT_S = 10.0


def nothing(result: object) -> None:
    del result


async def test_what_a_call_returns_or_raises() -> None:
    threads = Disk()

    def broken() -> None:
        raise TimeoutError(110, "Connection timed out")

    assert await threads.run(threading.get_ident, within_s=LIMIT_S, forget=nothing) != threading.get_ident()
    with pytest.raises(TimeoutError, match="Connection timed out"):
        await threads.run(broken, within_s=LIMIT_S, forget=nothing)
    threads.close()


async def test_what_nobody_waits_for_any_more_is_forgotten_on_a_thread() -> None:
    threads, go, begun = Disk(threads=1), threading.Event(), threading.Event()
    forgotten, done = list[tuple[object, bool]](), threading.Event()
    here = threading.get_ident()

    def slow() -> str:
        begun.set()
        go.wait(LIMIT_S)
        return "open"

    def forget(result: str | None) -> None:
        forgotten.append((result, threading.get_ident() == here))
        if len(forgotten) == 2:
            done.set()

    first = asyncio.create_task(threads.run(slow, within_s=0.05, forget=forget))
    second = asyncio.create_task(threads.run(slow, within_s=0.05, forget=forget))
    for task in (first, second):
        with pytest.raises(HangingError):
            await task
    assert begun.is_set()
    assert forgotten == [], "it is not over yet"
    go.set()
    assert await asyncio.to_thread(done.wait, LIMIT_S)
    assert sorted(forgotten, key=str) == [("open", False), (None, False)]
    threads.close()


async def test_what_comes_in_the_very_moment_is_forgotten_too() -> None:
    threads, done = Disk(), threading.Event()
    forgotten = list[str | None]()

    def forget(result: str | None) -> None:
        forgotten.append(result)
        done.set()

    task = asyncio.create_task(threads.run(lambda: "open", within_s=LIMIT_S, forget=forget))
    settle = threads._settle

    def settle_and_cancel(*arguments: object) -> None:
        settle(*arguments)  # type: ignore[arg-type]
        task.cancel()

    threads._settle = settle_and_cancel  # type: ignore[assignment]
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(done.wait, LIMIT_S)
    assert forgotten == ["open"]
    threads.close()


async def test_those_that_wait_are_not_more_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MOST_WAITING", 3)
    threads, go, begun = Disk(threads=1), threading.Event(), threading.Event()

    forgotten = threading.Semaphore(0)

    def slow() -> bool:
        begun.set()
        return go.wait(LIMIT_S)

    first = asyncio.create_task(threads.run(slow, within_s=LIMIT_S, forget=nothing))
    assert await asyncio.to_thread(begun.wait, LIMIT_S)
    for _ in range(3):
        with pytest.raises(HangingError, match="no answer within"):
            await threads.run(lambda: None, within_s=0.001, forget=lambda _: forgotten.release())
    with pytest.raises(HangingError, match="too many"):
        await threads.run(lambda: None, within_s=LIMIT_S, forget=nothing)
    go.set()
    assert await first is True
    for _ in range(3):
        assert await asyncio.to_thread(forgotten.acquire, timeout=LIMIT_S)
    assert await threads.run(lambda: 1, within_s=LIMIT_S, forget=nothing) == 1
    threads.close()
