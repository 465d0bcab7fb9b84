"""Waiting for something to become so, without asking again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Who changes a thing says so here, and who waits for it to be so is woken."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def notify(self) -> None:
        """Something has changed."""
        for is_so, future in self._waiting:
            if not future.done() and is_so():
                future.set_result(None)
        self._waiting = [(is_so, future) for is_so, future in self._waiting if not future.done()]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until it is so; at once if it is. Without a limit of its own: the caller sets it."""
        if not is_so():
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((is_so, future))
            await future
