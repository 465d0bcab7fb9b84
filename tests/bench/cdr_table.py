"""FreePBX's CDR table in a MariaDB, filled with made-up calls: ten million rows in a few minutes.

The columns and keys are those of FreePBX 16 (as its users' dumps have them): no primary key, none on `src`, `channel`
or `linkedid`. Rows stand in the order in which Asterisk posts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.asterisk.lab.mariadb import Database
from tests.bench.cdr_making import Call
from tests.bench.cdr_rows import shares, week
from tests.bench.cdr_sums import Expected

DATABASE = "asteriskcdrdb"
_TIMEOUT_S = 1800

TABLE = """
CREATE DATABASE asteriskcdrdb CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
CREATE TABLE asteriskcdrdb.cdr (
  calldate datetime NOT NULL DEFAULT '0000-00-00 00:00:00',
  clid varchar(80) NOT NULL DEFAULT '',
  src varchar(80) NOT NULL DEFAULT '',
  dst varchar(80) NOT NULL DEFAULT '',
  dcontext varchar(80) NOT NULL DEFAULT '',
  channel varchar(80) NOT NULL DEFAULT '',
  dstchannel varchar(80) NOT NULL DEFAULT '',
  lastapp varchar(80) NOT NULL DEFAULT '',
  lastdata varchar(80) NOT NULL DEFAULT '',
  duration int(11) NOT NULL DEFAULT 0,
  billsec int(11) NOT NULL DEFAULT 0,
  disposition varchar(45) NOT NULL DEFAULT '',
  amaflags int(11) NOT NULL DEFAULT 0,
  accountcode varchar(20) NOT NULL DEFAULT '',
  uniqueid varchar(32) NOT NULL DEFAULT '',
  userfield varchar(255) NOT NULL DEFAULT '',
  did varchar(50) NOT NULL DEFAULT '',
  recordingfile varchar(255) NOT NULL DEFAULT '',
  cnum varchar(80) NOT NULL DEFAULT '',
  cnam varchar(80) NOT NULL DEFAULT '',
  outbound_cnum varchar(80) NOT NULL DEFAULT '',
  outbound_cnam varchar(80) NOT NULL DEFAULT '',
  dst_cnam varchar(80) NOT NULL DEFAULT '',
  linkedid varchar(32) NOT NULL DEFAULT '',
  peeraccount varchar(80) NOT NULL DEFAULT '',
  sequence int(11) NOT NULL DEFAULT 0
) ENGINE=InnoDB
"""
KEYS = """
ALTER TABLE asteriskcdrdb.cdr
  ADD KEY calldate (calldate),
  ADD KEY dst (dst),
  ADD KEY accountcode (accountcode),
  ADD KEY uniqueid (uniqueid),
  ADD KEY did (did),
  ADD KEY recordingfile (recordingfile(191))
"""
"""Made when the rows are in: sorted once, which is several times faster."""


def filled(database: Database, *, seed: int, rows: int) -> tuple[int, Expected]:
    """Make the table with about so many rows; how many there are, and what the call list must say of them."""
    database.run(TABLE)
    expected, written = Expected(), 0
    with TemporaryDirectory(prefix="crmbridge-cdr.") as folder:
        for file, count, lines in _files(Path(folder), seed, rows):
            database.run(
                f"LOAD DATA INFILE '{file}' INTO TABLE {DATABASE}.cdr CHARACTER SET utf8mb4", timeout_s=_TIMEOUT_S
            )
            file.unlink()
            expected.add(lines)
            written += count
    database.run(f"{KEYS}; ANALYZE TABLE {DATABASE}.cdr", timeout_s=_TIMEOUT_S)
    return written, expected


def _files(folder: Path, seed: int, rows: int) -> Iterator[tuple[Path, int, Expected]]:
    """A file for each week, in order; made by as many processes as there are processors."""
    # Spawned, not forked: who calls may have threads.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        made = [pool.submit(_write, folder / f"{number}.tsv", seed, number, n) for number, n in enumerate(shares(rows))]
        try:
            for future in made:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write(file: Path, seed: int, number: int, rows: int) -> tuple[Path, int, Expected]:
    expected = Expected()
    posted: list[tuple[int, str]] = []
    for call in week(seed, number, rows):
        expected.take(call.lines)
        posted += _posted(call)
    posted.sort(key=itemgetter(0))
    file.write_text("".join([line for _, line in posted]), encoding="utf-8")
    return file, len(posted), expected


def _posted(call: Call) -> list[tuple[int, str]]:
    """When each row is posted (epoch seconds), and the row: all rows of a channel when that one hangs up."""
    hangups: dict[str, int] = {}
    for row, end_s in zip(call.rows, call.ends_s, strict=True):
        hangups[row.uniqueid] = max(end_s, hangups.get(row.uniqueid, 0))
    return [(hangups[row.uniqueid], "\t".join(map(str, row)) + "\n") for row in call.rows]
