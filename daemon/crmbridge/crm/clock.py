"""Time and chance for the sender, in one place so that a test can hand in its own and need not wait.

It must not know what is timed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from datetime import UTC, datetime


class Clock:
    """Time and chance, so that tests can hand in their own."""

    def now(self) -> datetime:
        """The wall clock, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that no one sets back or forth."""
        return time.monotonic()

    def jitter(self) -> float:
        """Anything from 0 up to 1."""
        return random.random()  # noqa: S311 (spreads requests; nothing secret)

    async def wait(self, wake: asyncio.Event, until: float | None) -> None:
        """Return when `wake` is set, or at the monotonic instant `until`."""
        timeout = None if until is None else max(0.0, until - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await wake.wait()
