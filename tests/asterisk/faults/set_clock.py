"""A process whose wall clock is set back and forth by an hour, as an administrator or a time server may set it.

By libfaketime (Debian's package), which is loaded into the process and answers for CLOCK_REALTIME from a file, whatever
that says at the moment. The monotonic clock is left alone, as the kernel leaves it. A time namespace could not do this:
it shifts only the monotonic and the boot-time clock.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

HOUR_S = 3600
EVERY_S = (0.2, 1.0)
_LIBRARIES = Path("/usr/lib")


def library() -> Path | None:
    """libfaketime for programs with threads, where it is installed."""
    return next(iter(sorted(_LIBRARIES.glob("*/faketime/libfaketimeMT.so.1"))), None)


class SetClock:
    """The wall clock of the processes that get this environment."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.shifts: list[int] = []
        """Each time that it was set: by so many seconds, against the right time."""
        self.set(0)

    def set(self, shift_s: int) -> None:
        """Set it."""
        self.shifts.append(shift_s)
        written = self._file.with_suffix(".new")
        written.write_text(f"{shift_s:+}\n")
        os.replace(written, self._file)

    @property
    def environment(self) -> dict[str, str]:
        """What the process must be started with."""
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    @asynccontextmanager
    async def restless(self, random: Random) -> AsyncIterator[None]:
        """Set it again and again meanwhile; right again at the end."""
        task = asyncio.create_task(self._set_often(random))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.set(0)

    async def _set_often(self, random: Random) -> None:
        while True:
            await asyncio.sleep(random.uniform(*EVERY_S))
            self.set(random.choice([-HOUR_S, 0, HOUR_S]))
