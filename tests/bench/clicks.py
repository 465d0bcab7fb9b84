"""`make bench`, section `clicks`: click to call, from the request to the acknowledgement; on disk in between.

The PBX takes each Originate at once. The limits that protect a real one are set out of the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table
from tests.bench.bridge import PartError, authorization
from tests.bench.lookups import Ask, Connect, Timing, answer, ask_all
from tests.bench.report import Report
from tests.bench.rig import rig

ALONE, TOGETHER, CROWD = 500, 3_000, 50
_SETTINGS = """
        [dialer]
        per_extension_per_minute = 1000000
        per_minute = 1000000
        max_calls = 1000000
        duplicate_window_s = 1
"""


def main(report: Report) -> None:
    """Measure, and report."""
    try:
        timings = asyncio.run(_main())
    except PartError as error:
        report.fail(f"clicks: {error}")
        return
    table = Table("", "median ms", "p99 ms", "a second", title="Click to call")
    for name, one in timings.items():
        table.add_row(name, f"{one.median_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.per_s:,.0f}")
    report.show(table)
    report.keep("clicks", {name: one._asdict() for name, one in timings.items()})


async def _main() -> dict[str, Timing]:
    with TemporaryDirectory(prefix="crmbridge-bench.") as folder:
        async with rig(Path(folder), more=_SETTINGS) as one:
            numbers = [f"052{number:07d}" for number in range(ALONE + TOGETHER)]
            alone, _ = await ask_all(_clicks(one.http_port), numbers[:ALONE], 1)
            crowd, _ = await ask_all(_clicks(one.http_port), numbers[ALONE:], CROWD)
            if len(one.pbxes[0].originated) != len(numbers):
                raise PartError(f"{len(one.pbxes[0].originated)} calls were placed, for {len(numbers)} clicks")
    return {"one client": alone, f"{CROWD} clients": crowd}


def _clicks(port: int) -> Connect:
    return lambda: _connected(port)


@asynccontextmanager
async def _connected(port: int) -> AsyncIterator[Ask]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tail = f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: {authorization()}\r\n\r\n"

    async def ask(number: str) -> int:
        writer.write(f"GET /dialer/sodialer.php?sExt=777&sNumber={number}&ClientId=10{tail}".encode())
        status, body = await answer(reader)
        if status != 200:
            raise PartError(f"a click was answered with {status} {body[:200].decode(errors='replace')}")
        return 1

    try:
        yield ask
    finally:
        writer.close()
        await writer.wait_closed()
