"""The bench's CDR table in a real MariaDB, and the sums that a call list is held against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.asterisk.lab import mariadb
from tests.asterisk.lab.mariadb import Database
from tests.bench.cdr_office import wall
from tests.bench.cdr_rows import shares, week
from tests.bench.cdr_sums import SUMS_SQL, Expected, read
from tests.bench.cdr_table import filled

ROWS = 3000


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with mariadb.running() as running:
        yield running


@pytest.mark.needs("mariadb")
def test_the_table_holds_every_row_that_was_made(database: Database) -> None:
    written, expected = filled(database, seed=3, rows=ROWS)
    made = [call for number, rows in enumerate(shares(ROWS)) for call in week(3, number, rows)]
    rows = [row for call in made for row in call.rows]
    assert written == len(rows)
    assert expected.whole.lines == sum(len(call.lines) for call in made)
    columns = "src, dst, channel, dstchannel, billsec, recordingfile, clid"
    found = database.run(f"SELECT {columns} FROM asteriskcdrdb.cdr").splitlines()[1:]
    wanted = [(r.src, r.dst, r.channel, r.dstchannel, str(r.billsec), r.recordingfile, r.clid) for r in rows]
    assert sorted(tuple(line.split("\t")) for line in found) == sorted(wanted)


@pytest.mark.needs("mariadb")
def test_a_view_with_the_lines_meant_has_their_sums_and_another_is_found_out(database: Database) -> None:
    lines = [line for call in week(4, 51, 600) for line in call.lines]
    expected = Expected()
    expected.take(lines)
    database.run(
        "CREATE DATABASE listed CHARACTER SET utf8mb4; CREATE TABLE listed.all_calls (`time` datetime, "
        "ext varchar(32), number varchar(64), duration int, filename varchar(255), incoming boolean)"
    )
    values = ",".join(
        f"('{wall(one.started_s)}','{one.extension}','{one.number}',{one.talk_s},'{one.filename}',{one.incoming})"
        for one in lines
    )
    database.run(f"INSERT INTO listed.all_calls VALUES {values}")
    sums = f"USE listed; {SUMS_SQL}"
    assert expected.wrong(read(database.run(sums))) == []
    database.run(f"UPDATE listed.all_calls SET ext = '9' WHERE `time` = '{wall(lines[0].started_s)}' LIMIT 1")
    (wrong,) = expected.wrong(read(database.run(sums)))
    assert wrong.startswith(wall(lines[0].started_s)[:10])
