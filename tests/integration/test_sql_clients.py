"""`crmbridge sql-access --client`: a client's own SQL finds its own calls, of all PBXes, and nobody else's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from tests.asterisk.lab import mariadb
from tests.integration import migrating
from tests.integration.conftest import Fresh
from tests.integration.test_bridge import write
from tests.integration.test_call_list import HERE, HISTORY, by_call, line
from tests.integration.test_sql_access import (
    ALL,
    BEGAN,
    BOTH,
    COLUMNS,
    FORBIDDEN,
    filled,
    made,
    php,
    piped,
    plan,
    sql_access,
)

from crmbridge.store.call_list import open_call_list
from crmbridge.store.call_tables import SCHEMA, VIEWS
from crmbridge.store.database import opened
from crmbridge.store.schema import Schema

pytestmark = [pytest.mark.needs("mariadb"), pytest.mark.needs("php-mysqli")]

HOSTILE = "a'\\`\" %ד"
CALLS = [
    # pbx, client, whose extension
    ("haifa", "10", "777"),
    ("haifa", "11", "781"),
    ("eilat", "11", "782"),
    ("eilat", "110", "783"),
    ("eilat", "a", "784"),
    ("eilat", "A", "785"),
    ("eilat", HOSTILE, "786"),
    ("eilat", "", "787"),
]


@dataclass(frozen=True)
class Own:
    """What a client's user asks."""

    fresh: Fresh
    database: str
    user: str
    password: str

    async def __call__(self, *queries: str) -> Any:  # noqa: ANN401
        return await php(self.fresh, self.password, *queries, user=self.user, database=self.database)

    async def extensions(self, query: str = "SELECT * FROM all_calls") -> list[str]:
        (rows,) = await self(query)
        assert isinstance(rows, list), rows
        return sorted(row["ext"] for row in rows)


@pytest.fixture
async def config(fresh: Fresh, tmp_path: Path) -> AsyncIterator[Path]:
    """Settings whose call list is on the server and has each of the calls above, an incoming and an outgoing one."""
    async with open_call_list(fresh.url, HISTORY.rows, HERE) as calls:
        for n, (pbx, client, extension) in enumerate(CALLS):
            one = line(n, pbx=pbx, client_id=client, extension=extension, started_at=BEGAN + timedelta(minutes=n))
            both = [one._replace(linkedid=f"{n}.1"), one._replace(linkedid=f"{n}.2", incoming=False)]
            await calls.replace(pbx, by_call(both))
    yield write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x", more=f'url = "{fresh.url}"')
    for table in ("global_priv", "tables_priv"):
        fresh.sql(f"DELETE FROM mysql.{table} WHERE user LIKE 'crm%'")
    fresh.sql("FLUSH PRIVILEGES")
    for database in databases(fresh):
        fresh.sql(f"DROP DATABASE `{database}`")


def databases(fresh: Fresh) -> list[str]:
    """Those of clients."""
    names = fresh.sql("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE '%\\_client\\_%'")
    return names.split()[1:]


async def client(fresh: Fresh, config: Path, client_id: str, *more: str) -> Own:
    """Have a client's user made by what is printed."""
    before = set(databases(fresh))
    password = await made(fresh, config, "--client", client_id, *more)
    (database,) = set(databases(fresh)) - before
    plain = database.removeprefix(f"{fresh.name}_client_")
    return Own(fresh, database, f"crm_{plain}", password)


async def test_a_client_sees_its_own_calls_of_all_pbxes(fresh: Fresh, config: Path) -> None:
    own = await client(fresh, config, "11")
    assert (own.database, own.user) == (f"{fresh.name}_client_11", "crm_11")
    assert await own.extensions() == ["781", "781", "782", "782"]
    assert await own.extensions("SELECT * FROM incoming_calls") == ["781", "782"]
    assert await own.extensions("SELECT * FROM outgoing_calls") == ["781", "782"]
    for query in (filled(ALL, "'033004799'"), filled(BOTH, "'033004799'"), filled(ALL, "033004799")):
        assert await own.extensions(query) == ["781", "781", "782", "782"], query
    assert await own.extensions("SELECT * FROM all_calls WHERE number = '0399999'") == []
    all_of_it, some = await own("SELECT * FROM incoming_calls ORDER BY time", f"SELECT {COLUMNS} FROM outgoing_calls")
    assert list(all_of_it[0]) == list(some[0]) == ["time", "ext", "number", "duration", "filename", "incoming"]
    assert all_of_it[0]["time"] == "2026-11-23 10:01:00"


async def test_it_sees_and_does_nothing_else(fresh: Fresh, config: Path) -> None:
    await client(fresh, config, "10")
    own = await client(fresh, config, "11")
    elsewhere = [f"SELECT * FROM `{fresh.name}`.{name}" for name in (*VIEWS, "client_calls", "calls", "numbers")]
    elsewhere += [f"SELECT * FROM `{fresh.name}_client_10`.all_calls", f"USE `{fresh.name}_client_10`"]
    elsewhere += [f"USE `{fresh.name}`", "DROP DATABASE IF EXISTS mine", "SHOW CREATE VIEW outgoing_calls"]
    asked = [*FORBIDDEN, *elsewhere]
    for statement, answer in zip(asked, await own(*asked), strict=True):
        refused = re.search(
            r"denied|You are not|must be owner|not updatable|not insertable|Unknown thread", str(answer)
        )
        assert refused or answer == [{"file": None}], (statement, answer)
    there, texts, grants = await own(
        "SHOW DATABASES", "SELECT view_definition AS t FROM information_schema.views", "SHOW GRANTS"
    )
    assert {one["Database"] for one in there} == {"information_schema", own.database}
    assert {one["t"] for one in texts} == {""}, "nor how others are kept out"
    given = sorted(next(iter(one.values())).partition(" TO ")[0] for one in grants)
    assert given[:3] == [f"GRANT SELECT ON `{own.database}`.`{view}`" for view in sorted(VIEWS)]
    assert given[3].startswith("GRANT USAGE ON *.*")
    assert len(given) == 4


async def test_it_is_found_by_the_same_indexes(fresh: Fresh, config: Path) -> None:
    async with open_call_list(fresh.url, HISTORY.rows, HERE) as calls:
        some = [line(n, linkedid=f"x{n}", number=f"04{n % 2000:07}", number_key=f"{n % 2000}") for n in range(6000)]
        await calls.replace("pbx", by_call([one._replace(client_id=f"{10 + n % 3}") for n, one in enumerate(some)]))
    fresh.sql("ANALYZE TABLE calls, numbers")
    own = await client(fresh, config, "11")
    union = f"SELECT {COLUMNS} FROM outgoing_calls UNION ALL SELECT {COLUMNS} FROM incoming_calls"
    for query in (
        "SELECT * FROM all_calls WHERE number = '040000007'",
        "SELECT * FROM all_calls WHERE number = 040000007",
        filled(ALL, "'040000007'"),
        filled(ALL, "040000007"),
        filled(BOTH, "'033004799'"),
        f"SELECT * FROM ({union}) AS c WHERE `number` = '040000007'",
        "SELECT * FROM all_calls WHERE time >= '2026-11-27' ORDER BY time DESC LIMIT 20",
        "SELECT * FROM all_calls WHERE ext = '781' AND time >= '2026-11-01' ORDER BY time",
    ):
        in_own = re.sub(r"\b(all|outgoing|incoming)_calls\b", rf"`{own.database}`.\1_calls", query.replace("`", ""))
        assert plan(fresh, in_own) == plan(fresh, query)
    by_number = plan(fresh, f"SELECT * FROM `{own.database}`.all_calls WHERE number = '040000007'")
    assert by_number == [("n", "ref", "numbers_by_number"), ("c", "ref", "PRIMARY")]


async def test_odd_clients_are_told_apart(fresh: Fresh, config: Path) -> None:
    small, capital = await client(fresh, config, "a"), await client(fresh, config, "A")
    assert small.database.lower() != capital.database.lower(), "on some servers capitals are no other letters"
    assert await small.extensions() == ["784"] * 2
    assert await capital.extensions() == ["785"] * 2
    hostile = await client(fresh, config, HOSTILE)
    assert await hostile.extensions() == ["786"] * 2
    nobody = await client(fresh, config, "x'OR'1")
    assert await nobody.extensions() == []


@pytest.mark.parametrize(
    ("client_id", "more", "words"),
    [
        ("", (), "must not be empty"),
        ("1\n1", (), "control characters"),
        ("11 ", (), "must not begin or end with a space"),
        ("9" * 29, (), "is longer than the 32 characters that a user's name may have: see --user"),
        ("דנה" * 6, (), "is longer than the 32 characters"),
        ("9" * 65, ("--user", "somebody"), "is longer than the 64 characters that the name of a database may have"),
        ("", ("--user", "somebody"), "must not be empty"),
    ],
)
async def test_ids_that_are_refused(
    fresh: Fresh, config: Path, client_id: str, more: tuple[str, ...], words: str
) -> None:
    code, out, errors = await sql_access(config, "--client", client_id, *more)
    assert (code, out) == (2, "")
    assert words in errors
    assert databases(fresh) == []


async def test_it_may_be_run_again_and_is_taken_away_again(fresh: Fresh, config: Path) -> None:
    admin = f"mysql+asyncmy://root@localhost/?unix_socket={fresh.server.socket}"
    applied = ("--client", "11", "--apply", "--admin", admin)
    for _ in range(2):
        code, out, errors = await sql_access(config, *applied)
        assert code == 0, errors
        assert out.startswith(f"crm_11 may read outgoing_calls, incoming_calls, all_calls in {fresh.name}_client_11 ")
    (password,) = re.findall(r"shown this once: (\S+)", errors)
    own = Own(fresh, f"{fresh.name}_client_11", "crm_11", password)
    assert await own.extensions() == ["781", "781", "782", "782"]
    code, out, errors = await sql_access(config, *applied, "--drop")
    assert (code, out) == (0, "crm_11 may read nothing any more\n"), errors
    assert f"the database {own.database} stays, without views: DROP DATABASE it" in errors
    assert "password" not in errors
    assert "connect" in await own("SELECT 1")
    assert fresh.sql("SELECT table_name FROM information_schema.tables WHERE table_schema LIKE '%_client_%'") == ""
    code, out, _ = await sql_access(config, "--client", "11", "--drop")
    piped(fresh, out)  # nothing is left to be removed, and nothing is wrong
    assert code == 0, errors


async def test_who_may_not_make_databases_is_told(fresh: Fresh, config: Path) -> None:
    code, out, errors = await sql_access(config, "--client", "11", "--apply")
    assert (code, out) == (74, "")
    assert "name one who may (--admin)" in errors
    assert databases(fresh) == []


async def test_its_views_follow_the_tables(fresh: Fresh, config: Path) -> None:
    own = await client(fresh, config, "11")

    def rename(connection: Connection) -> None:
        connection.execute(
            text("ALTER TABLE calls RENAME COLUMN extension TO called, RENAME COLUMN talk_s TO talked_s")
        )

    views = {
        name: query.replace("c.extension", "c.called").replace("c.talk_s", "c.talked_s")
        for name, query in SCHEMA.views.items()
    }
    newer = Schema(SCHEMA.component, SCHEMA.tables, (*SCHEMA.upgrades, rename), views=views)
    await (await opened(fresh.url, [newer])).close()
    assert await own.extensions() == ["781", "781", "782", "782"], "without being made anew"


async def test_an_older_crmbridge_makes_no_older_views(fresh: Fresh, config: Path) -> None:
    await (await opened(fresh.url, [migrating.next_version(SCHEMA)])).close()
    query = "SELECT view_definition FROM information_schema.views WHERE table_schema = database()"
    before = fresh.sql(query)
    code, out, errors = await sql_access(config, "--client", "11")
    assert (code, out) == (74, "")
    assert "its views are not this one's to make" in errors
    assert fresh.sql(query) == before


async def test_a_server_that_can_not_be_used_leaves_standard_output_to_sql(
    fresh: Fresh, config: Path, tmp_path: Path
) -> None:
    assert config
    several = fresh.url.replace("@127.0.0.1:", f"@127.0.0.1:{mariadb.free_port()},127.0.0.1:")
    code, out, errors = await sql_access(
        write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x", more=f'url = "{several}"'), "--client", "11"
    )
    assert code == 0, errors
    assert "store.server_passed_over" in errors
    assert all(one.endswith(";") or one.startswith("--") for one in out.splitlines())
    piped(fresh, out)
