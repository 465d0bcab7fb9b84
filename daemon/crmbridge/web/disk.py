"""Calls that wait for a disk, on a few threads of their own.

Recordings often lie on another machine's disk, and while that is away a read hangs for minutes, out of reach of any
signal. So such calls get threads that nothing else uses and that the end of the process does not wait for; who asks
waits for a few seconds and is then told that it hangs. It must not know what is called.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

T = TypeVar("T")

THREADS = 8
"""As many calls are under way at once; while all hang, others wait in vain for as long as they may."""
MOST_WAITING = 256
"""Calls that wait for a thread, those included for which nobody waits any more; beyond it, others need not even try."""


class HangingError(Exception):
    """A call takes longer than anybody waits. It may still end one day; what it returns then is forgotten."""


class _Call(Generic[T]):
    def __init__(self, call: Callable[[], T], forget: Callable[[T | None], None]) -> None:
        self.call = call
        self.forget = forget
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[T] = self.loop.create_future()


class Disk:
    """Runs calls, a few at a time."""

    def __init__(self, threads: int = THREADS) -> None:
        self._most = threads
        self._threads = 0
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    async def run(self, call: Callable[[], T], *, within_s: float, forget: Callable[[T | None], None]) -> T:
        """What `call` returns or raises; HangingError where it takes longer, or would.

        When nobody waits for it any more, `forget` is called on a thread once it is over (or in its place), with what
        it returned: whoever opens a file must close it there.
        """
        if self._calls.qsize() >= MOST_WAITING:
            raise HangingError("too many calls wait for it")
        one = _Call(call, forget)
        self.later(lambda: self._run(one))
        try:
            async with asyncio.timeout(within_s) as limit:
                return await self._outcome(one)
        except TimeoutError:
            if not limit.expired():  # the call's own (ETIMEDOUT)
                raise
            raise HangingError(f"no answer within {within_s:g} s") from None

    async def _outcome(self, one: _Call[T]) -> T:
        try:
            return await one.result
        except asyncio.CancelledError:
            if one.result.done() and not one.result.cancelled():  # it came in the very moment, and nobody takes it
                result = None if one.result.exception() else one.result.result()
                self.later(lambda: one.forget(result))
            raise

    def later(self, call: Callable[[], object]) -> None:
        """Have something called on a thread. It must not raise; nobody hears what comes of it."""
        if self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._work, name=f"disk {self._threads}", daemon=True).start()
        self._calls.put(call)

    def close(self) -> None:
        """Let the threads end, once what was asked for is done; nothing waits for them."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _run(self, one: _Call[T]) -> None:
        if one.result.cancelled():
            one.forget(None)
            return
        error, result = None, None
        try:
            result = one.call()
        except Exception as raised:  # noqa: BLE001  # handed on to who waits
            error = raised
        try:
            one.loop.call_soon_threadsafe(self._settle, one, result, error)
        except RuntimeError:  # the loop has ended
            one.forget(result)

    def _settle(self, one: _Call[T], result: T | None, error: Exception | None) -> None:
        if one.result.done():
            self.later(lambda: one.forget(result))
        elif error is not None:
            one.result.set_exception(error)
        else:
            one.result.set_result(cast(T, result))
