"""What tests of the CDR table share: tables as Asterisk's backends have them, rows, and a user who may only read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from tests.asterisk.lab import mariadb
from tests.recorded import NUMBERS, history

from crmbridge.calls.cdr import Cdr

HERE = ZoneInfo("Asia/Jerusalem")
HISTORY = history(r"7\d\d", ["PJSIP/trunk"])
CALLER = "033004799"
KEY = NUMBERS.same(CALLER)

# FreePBX's own statement, without the columns' comments (telephony.md, section 4).
FREEPBX = """CREATE TABLE cdr (
    calldate datetime NOT NULL DEFAULT '0000-00-00 00:00:00', clid varchar(80) NOT NULL DEFAULT '',
    src varchar(80) NOT NULL DEFAULT '', dst varchar(80) NOT NULL DEFAULT '', dcontext varchar(80) NOT NULL DEFAULT '',
    channel varchar(80) NOT NULL DEFAULT '', dstchannel varchar(80) NOT NULL DEFAULT '',
    lastapp varchar(80) NOT NULL DEFAULT '', lastdata varchar(80) NOT NULL DEFAULT '',
    duration int(11) NOT NULL DEFAULT 0, billsec int(11) NOT NULL DEFAULT 0,
    disposition varchar(45) NOT NULL DEFAULT '', amaflags int(11) NOT NULL DEFAULT 0,
    accountcode varchar(20) NOT NULL DEFAULT '', uniqueid varchar(32) NOT NULL DEFAULT '',
    userfield varchar(255) NOT NULL DEFAULT '', did varchar(50) NOT NULL DEFAULT '',
    recordingfile varchar(255) NOT NULL DEFAULT '', cnum varchar(80) NOT NULL DEFAULT '',
    cnam varchar(80) NOT NULL DEFAULT '', outbound_cnum varchar(80) NOT NULL DEFAULT '',
    outbound_cnam varchar(80) NOT NULL DEFAULT '', dst_cnam varchar(80) NOT NULL DEFAULT '',
    linkedid varchar(32) NOT NULL DEFAULT '', peeraccount varchar(80) NOT NULL DEFAULT '',
    sequence int(11) NOT NULL DEFAULT 0,
    KEY calldate (calldate), KEY dst (dst), KEY accountcode (accountcode), KEY uniqueid (uniqueid)
) ENGINE={engine} DEFAULT CHARSET=utf8mb4;"""


def record(start: int, n: int = 0, *, begun: int | None = None, **other: object) -> Cdr:
    """A record that starts at this epoch second; `begun`: when its call did, if earlier. `n` tells calls apart."""
    values: dict[str, object] = {
        "pbx": "pbx",
        "linkedid": f"{begun if begun is not None else start}.{n}",
        "uniqueid": f"{begun if begun is not None else start}.{n}",
        "sequence": n,
        "channel": f"PJSIP/trunk-{n:08x}",
        "dstchannel": f"PJSIP/777-{n:08x}",
        "src": CALLER,
        "dst": "0723456777",
        "did": "0723456777",
        "start_at": datetime.fromtimestamp(start, UTC),
        "duration_s": 20,
        "billsec_s": 15,
        "disposition": "ANSWERED",
        "recordingfile": f"in-{n}.wav",
    }
    return Cdr(**(values | other))  # type: ignore[arg-type]  # a test's table


def insert(records: list[Cdr], table: str = "cdr", zone: ZoneInfo = HERE) -> str:
    """The statement by which Asterisk would write them."""
    rows = []
    for one in records:
        wall = one.start_at.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
        texts = (wall, one.linkedid, one.uniqueid, one.channel, one.dstchannel, one.src, one.dst, one.did)
        quoted = ", ".join("'" + text.replace("'", "''") + "'" for text in (*texts, one.disposition, one.recordingfile))
        rows.append(f"({quoted}, {one.sequence}, {one.duration_s}, {one.billsec_s})")
    names = "calldate, linkedid, uniqueid, channel, dstchannel, src, dst, did, disposition, recordingfile"
    return f"INSERT INTO {table} ({names}, sequence, duration, billsec) VALUES {', '.join(rows)};"


def reader(server: mariadb.Database, database: str, *, table: str = "cdr") -> str:
    """Make a user who may only read that table, as docs/call-records.md says; its address as cdr.source has it."""
    user = f"r_{database}"[:32]
    server.run(
        f"CREATE USER IF NOT EXISTS '{user}'@'127.0.0.1' IDENTIFIED BY 'secret'; "
        f"GRANT SELECT ON `{database}`.`{table}` TO '{user}'@'127.0.0.1'"
    )
    return f"mysql+asyncmy://{user}:secret@{server.host}:{server.port}/{database}"


async def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    """Wait for it. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # of what is asked nobody tells
            await asyncio.sleep(0.01)
