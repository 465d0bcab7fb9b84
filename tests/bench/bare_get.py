"""A process that does nothing but GETs with aiohttp, each with the time when it began: what HTTP costs by itself.

`python -m tests.bench.bare_get PORT COUNT PER_SECOND`
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp


async def main(port: int, count: int, per_s: float) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            # The clock that asyncio's loops have on Linux: one for all processes.
            async with session.get(f"http://127.0.0.1:{port}/?at={time.monotonic_ns()}") as answer:
                await answer.read()
            await asyncio.sleep(1 / per_s)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
