"""`crmbridge sql-access`, and the CRM's own SQL: PHP's mysqli on a real MariaDB as the user that it makes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncmy
import pytest
from tests.asterisk.lab import mariadb
from tests.integration.conftest import Fresh
from tests.integration.test_bridge import COMMAND, LIMIT_S, write
from tests.integration.test_call_list import HERE, HISTORY, by_call, line

from crmbridge.store.call_list import open_call_list

pytestmark = pytest.mark.needs("mariadb")

COLUMNS = "`time`, `ext`, `number`, `duration`, `filename`, `incoming`"
QUESTIONNAIRE = (
    "(SELECT `time`, `ext`, `number`, `duration`, `filename`, `incoming` FROM `{$outgoingCallsTableName}` %s) "
    "WHERE `number` = {$phoneInSearchFormat}"
)
"""To the letter (shared/questionnaire.txt)."""
PHP = r"""
mysqli_report(MYSQLI_REPORT_OFF);
$asked = json_decode(stream_get_contents(STDIN), true);
$db = mysqli_init();
$tls = $asked["tls"] ? MYSQLI_CLIENT_SSL | MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT : 0;
if (!$db->real_connect("127.0.0.1", $asked["user"], $asked["password"], $asked["db"], $asked["port"], null, $tls)) {
    echo json_encode(["connect" => $db->connect_error]);
    exit;
}
$answers = [];
foreach ($asked["queries"] as $query) {
    $result = $db->query($query);
    $answers[] = $result instanceof mysqli_result ? $result->fetch_all(MYSQLI_ASSOC) : ($result ? "done" : $db->error);
}
echo json_encode($answers);
"""
BEGAN = datetime(2026, 11, 23, 8, tzinfo=UTC)  # 10:00 in Jerusalem
LINES = [
    line(0, started_at=BEGAN, incoming=False, extension="781", filename="out.wav"),
    line(1, started_at=BEGAN + timedelta(minutes=1), talk_s=0),
    line(2, started_at=BEGAN + timedelta(minutes=2), number="33004799", number_key="33004799", extension="779"),
    line(3, started_at=BEGAN + timedelta(minutes=3), number="anonymous", number_key="anonymous", extension=""),
]


def shown(n: int, **other: str) -> dict[str, str]:
    """A line as PHP sees it."""
    one = LINES[n]
    row = {"time": f"2026-11-23 10:0{n}:00", "ext": one.extension, "number": one.number}
    return row | {"duration": str(one.talk_s), "filename": one.filename, "incoming": str(int(one.incoming))} | other


@pytest.fixture
async def config(fresh: Fresh, tmp_path: Path) -> AsyncIterator[Path]:
    """Settings whose call list is on the server and has the lines above."""
    async with open_call_list(fresh.url, HISTORY.rows, HERE) as calls:
        await calls.replace("pbx", by_call(LINES))
    yield write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x", more=f'url = "{fresh.url}"')
    for table in ("global_priv", "tables_priv"):
        fresh.sql(f"DELETE FROM mysql.{table} WHERE user LIKE 'crm%'")
    fresh.sql("FLUSH PRIVILEGES")


async def sql_access(config: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "sql-access", "--config", str(config), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


def piped(fresh: Fresh, statements: str) -> None:
    """As `| mariadb -u root` does it."""
    command = ["mariadb", "--no-defaults", "--user=root", f"--socket={fresh.server.socket}"]
    subprocess.run(command, input=statements, check=True, capture_output=True, text=True, timeout=30)


async def made(fresh: Fresh, config: Path, *arguments: str) -> str:
    """Have the user made by what is printed; its password."""
    code, out, errors = await sql_access(config, *arguments)
    assert code == 0, errors
    piped(fresh, out)
    (password,) = re.findall(r"shown this once: (\S+)", errors)
    return str(password)


async def php(
    fresh: Fresh, password: str, *queries: str, user: str = "crm", tls: bool = False, database: str | None = None
) -> Any:  # noqa: ANN401
    """What PHP gets for these: rows, or an error's text; for a connection that is refused a dictionary."""
    asked = {"user": user, "password": password, "db": database or fresh.name, "port": fresh.server.port, "tls": tls}
    process = await asyncio.create_subprocess_exec(
        "php", "-r", PHP, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_S):
        out, _ = await process.communicate(json.dumps(asked | {"queries": queries}).encode())
    return json.loads(out)


def filled(rest: str, number: str) -> str:
    """The questionnaire's query, with this for %s and for the number."""
    query = QUESTIONNAIRE.replace("{$outgoingCallsTableName}", "outgoing_calls")
    return query.replace("%s", rest).replace("{$phoneInSearchFormat}", number)


ALL = f"WHERE 0) UNION ALL SELECT {COLUMNS} FROM (all_calls"
BOTH = f"WHERE `number` = '033004799') UNION ALL SELECT {COLUMNS} FROM (incoming_calls"


@pytest.mark.needs("php-mysqli")
async def test_the_questionnaires_query(fresh: Fresh, config: Path) -> None:
    password = await made(fresh, config)
    both = [shown(0), shown(1)]
    every, two, none, unquoted = await php(
        fresh,
        password,
        filled(ALL, "'033004799'"),
        filled(BOTH, "'033004799'"),
        filled(ALL, "'0723456777'"),
        filled(ALL, "033004799"),
    )
    assert sorted(every, key=str) == sorted(two, key=str) == sorted(both, key=str)
    assert none == []
    assert sorted(unquoted, key=str) == sorted([*both, shown(2)], key=str), "compared as numbers, 033004799 is 33004799"


@pytest.mark.needs("php-mysqli")
async def test_what_else_is_asked_of_the_views(fresh: Fresh, config: Path) -> None:
    password = await made(fresh, config)
    union = f"SELECT {COLUMNS} FROM outgoing_calls UNION ALL SELECT {COLUMNS} FROM incoming_calls"
    answers = await php(
        fresh,
        password,
        "SELECT * FROM outgoing_calls",
        "SELECT * FROM incoming_calls ORDER BY time",
        "SELECT * FROM all_calls WHERE ext = '779' AND time >= '2026-11-23'",
        f"SELECT * FROM ({union}) AS c WHERE `number` = '033004799' ORDER BY time",
        "SELECT count(*) AS n FROM all_calls WHERE number = 0",
        "SELECT '33004799x' = 033004799 AS n",
        filled("", "'033004799'"),
    )
    assert answers[:5] == [[shown(0)], [shown(1), shown(2), shown(3)], [shown(2)], [shown(0), shown(1)], [{"n": "1"}]]
    assert answers[5] == [{"n": "1"}]
    assert "error in your SQL syntax" in answers[6], "with nothing for %s it is no SQL"


def plan(fresh: Fresh, query: str) -> list[tuple[str, ...]]:
    """Which table is read how, by which index."""
    rows = [row.split("\t") for row in fresh.sql(f"EXPLAIN {query}").splitlines()[1:]]
    return [(row[2], row[3], row[5]) for row in rows]


async def test_which_index_the_views_use(fresh: Fresh, config: Path) -> None:
    assert config
    async with open_call_list(fresh.url, HISTORY.rows, HERE) as calls:
        some = [line(n, linkedid=f"x{n}", number=f"04{n % 2000:07}", number_key=f"{n % 2000}") for n in range(6000)]
        await calls.replace("pbx", by_call(some))
    fresh.sql("ANALYZE TABLE calls, numbers")
    by_number = [("n", "ref", "numbers_by_number"), ("c", "ref", "PRIMARY")]
    unquoted = [("n", "index", "numbers_by_number"), ("c", "ref", "PRIMARY")]
    nothing = ("NULL", "NULL", "NULL")
    assert plan(fresh, "SELECT * FROM all_calls WHERE number = '040000007'") == by_number
    assert plan(fresh, "SELECT * FROM all_calls WHERE number = 040000007") == unquoted
    assert plan(fresh, filled(ALL, "'040000007'")) == [nothing, *by_number]
    assert plan(fresh, filled(ALL, "040000007")) == [nothing, *unquoted]
    assert plan(fresh, filled(BOTH, "'033004799'")) == by_number * 2
    union = f"SELECT {COLUMNS} FROM outgoing_calls UNION ALL SELECT {COLUMNS} FROM incoming_calls"
    assert plan(fresh, f"SELECT * FROM ({union}) AS c WHERE `number` = '040000007'")[1:] == by_number * 2
    by_time = plan(fresh, "SELECT * FROM all_calls WHERE time >= '2026-11-27' ORDER BY time DESC LIMIT 20")
    assert by_time == [("c", "range", "calls_by_time"), ("n", "eq_ref", "PRIMARY")]
    by_ext = plan(fresh, "SELECT * FROM all_calls WHERE ext = '781' AND time >= '2026-11-01' ORDER BY time")
    assert by_ext == [("c", "range", "calls_by_extension"), ("n", "eq_ref", "PRIMARY")]


FORBIDDEN = [
    "INSERT INTO outgoing_calls (ext) VALUES ('x')",
    "UPDATE all_calls SET ext = 'x'",
    "UPDATE all_calls SET number = 'x'",
    "DELETE FROM incoming_calls",
    "SELECT * FROM calls",
    "SELECT * FROM numbers",
    "SELECT * FROM cdrs",
    "SELECT * FROM mysql.user",
    "SHOW CREATE VIEW all_calls",
    "CREATE TABLE mine (id INT)",
    "CREATE TEMPORARY TABLE mine (id INT)",
    "CREATE VIEW mine AS SELECT * FROM all_calls",
    "DROP VIEW all_calls",
    "LOCK TABLES all_calls READ",
    "SELECT * FROM all_calls INTO OUTFILE '/tmp/crmbridge-never'",
    "SELECT load_file('/etc/passwd') AS file",
    "CREATE USER other",
    "GRANT SELECT ON all_calls TO crm",
    "SET GLOBAL max_connections = 1",
    "KILL 1",
    "CREATE PROCEDURE mine() SELECT 1",
]


@pytest.mark.needs("php-mysqli")
async def test_the_user_can_do_nothing_else(fresh: Fresh, config: Path) -> None:
    fresh.sql("CREATE OR REPLACE DATABASE other; CREATE TABLE other.things (id INT)")
    password = await made(fresh, config)
    answers = await php(fresh, password, *FORBIDDEN, "SELECT * FROM other.things", "USE other")
    for statement, answer in zip([*FORBIDDEN, "other.things", "other"], answers, strict=True):
        refused = re.search(r"denied|Access denied|You are not|must be owner|not updatable|Unknown thread", str(answer))
        assert refused or answer == [{"file": None}], (statement, answer)
    databases, grants = await php(fresh, password, "SHOW DATABASES", "SHOW GRANTS")
    assert {one["Database"] for one in databases} == {"information_schema", fresh.name}
    given = sorted(next(iter(one.values())) for one in grants)
    views = [
        f"GRANT SELECT ON `{fresh.name}`.`{view}` TO `crm`@"
        for view in ("all_calls", "incoming_calls", "outgoing_calls")
    ]
    assert [one.rpartition("@")[0] + "@" for one in given[:3]] == views
    assert given[3].startswith("GRANT USAGE ON *.* TO `crm`@")
    assert "MAX_USER_CONNECTIONS 10 MAX_STATEMENT_TIME 10" in given[3]
    assert len(given) == 4
    fresh.sql("DROP DATABASE other")


async def test_it_may_be_run_again(fresh: Fresh, config: Path) -> None:
    first = await made(fresh, config)
    fresh.sql(f"GRANT ALL ON `{fresh.name}`.* TO crm@localhost WITH GRANT OPTION; GRANT FILE ON *.* TO crm@localhost")
    second = await made(fresh, config, "--connections", "3", "--statement-s", "60")
    assert first != second
    grants = fresh.sql("SHOW GRANTS FOR crm@localhost")
    assert grants.count("GRANT SELECT ON") == 3
    assert not re.search("FILE|ALL PRIVILEGES|GRANT OPTION", grants)
    assert "MAX_USER_CONNECTIONS 3 MAX_STATEMENT_TIME 60" in grants
    with pytest.raises(asyncmy.errors.OperationalError, match="Access denied"):
        await connected(fresh, first)
    await (await connected(fresh, second)).ensure_closed()


async def connected(fresh: Fresh, password: str, source: str = "127.0.0.1", user: str = "crm") -> asyncmy.Connection:
    """A connection of the CRM's, from an address of its own."""
    ours = socket.create_connection((fresh.server.host, fresh.server.port), source_address=(source, 0))
    ours.setblocking(False)  # noqa: FBT003  # socket's signature
    try:
        return await asyncmy.connect(sock=ours, user=user, password=password, db=fresh.name)
    except asyncmy.errors.OperationalError:
        ours.close()
        raise


async def test_from_where_it_may_come(fresh: Fresh, config: Path) -> None:
    password = await made(fresh, config, "--from", "127.0.0.16/28", "--from", "127.0.0.40", "--user", "crm.il")
    for source in ("127.0.0.16", "127.0.0.31", "127.0.0.40"):
        await (await connected(fresh, password, source, "crm.il")).ensure_closed()
    for source in ("127.0.0.15", "127.0.0.32", "127.0.0.41"):
        with pytest.raises(asyncmy.errors.OperationalError, match=r"Access denied|not allowed"):
            await connected(fresh, password, source, "crm.il")


async def test_its_connections_are_limited(fresh: Fresh, config: Path) -> None:
    password = await made(fresh, config, "--connections", "2")
    first, second = await connected(fresh, password), await connected(fresh, password)
    with pytest.raises(asyncmy.errors.OperationalError, match="max_user_connections"):
        await connected(fresh, password)
    await first.ensure_closed()
    await second.ensure_closed()


HOSTILE = "a'; DROP DATABASE `x`; -- \\' \\\\ \" % %s ? דנה"


@pytest.mark.needs("php-mysqli")
@pytest.mark.parametrize("applied", [False, True])
async def test_a_password_and_a_name_of_ones_own(fresh: Fresh, config: Path, applied: bool, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(HOSTILE + "\n", encoding="utf-8")
    user = "crm' \\ `"
    arguments = ["--user", user, "--password-file", str(file)]
    if applied:
        admin = f"mysql+asyncmy://root@localhost/?unix_socket={fresh.server.socket}"
        code, out, errors = await sql_access(config, *arguments, "--apply", "--admin", admin)
        assert (code, errors) == (0, "")
        assert (
            out == f"{user} may read outgoing_calls, incoming_calls, all_calls in {fresh.name} "
            "from localhost, 127.0.0.0/255.0.0.0, ::1\n"
        )
    else:
        code, out, errors = await sql_access(config, *arguments)
        assert (code, errors) == (0, "")
        piped(fresh, out)
    assert await php(fresh, HOSTILE, "SELECT count(*) AS n FROM all_calls", user=user) == [[{"n": "4"}]]


async def test_applied_by_who_may_not(fresh: Fresh, config: Path) -> None:
    code, out, errors = await sql_access(config, "--apply")
    assert (code, out) == (74, "")
    assert "does not let this user make users: name one who may (--admin)" in errors
    assert "IDENTIFIED" not in errors
    assert fresh.sql("SELECT user FROM mysql.user WHERE user = 'crm'") == ""


async def test_views_that_are_not_there_yet_are_made(fresh: Fresh, tmp_path: Path) -> None:
    config = write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x", more=f'url = "{fresh.url}"')
    code, _, _ = await sql_access(config)
    assert code == 0
    assert "all_calls" in fresh.sql("SHOW TABLES")


@pytest.mark.needs("php-mysqli")
async def test_crmbridges_own_user_may_become_another(fresh: Fresh, config: Path, tmp_path: Path) -> None:
    password = await made(fresh, config)
    fresh.sql(f"CREATE USER second@'127.0.0.1' IDENTIFIED BY '{fresh.password}'; DROP USER {fresh.user}@'127.0.0.1'")
    try:
        fresh.sql(f"GRANT ALL ON `{fresh.name}`.* TO second@'127.0.0.1'")
        (answer,) = await php(fresh, password, "SELECT * FROM outgoing_calls")
        assert "Access denied for user 'crm'" in answer, "the views are read with the rights of a user who is gone"
        url = fresh.url.replace(fresh.user, "second")
        again = write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x", more=f'url = "{url}"')
        password = await made(fresh, again)
        assert await php(fresh, password, "SELECT * FROM outgoing_calls") == [[shown(0)]]
    finally:
        fresh.sql(f"DROP USER second@'127.0.0.1'; CREATE USER {fresh.user}@'127.0.0.1'")


@pytest.mark.needs("openssl", "php-mysqli")
async def test_tls_where_the_server_has_it(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    make += ["-keyout", str(key), "-out", str(cert)]
    await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True, timeout=60)
    with mariadb.running(options=[f"--ssl-cert={cert}", f"--ssl-key={key}"]) as server:
        fresh = Fresh(server, "calls", "bridge")
        server.run(f"CREATE DATABASE calls; CREATE USER bridge@'127.0.0.1' IDENTIFIED BY '{fresh.password}'")
        server.run("GRANT ALL ON calls.* TO bridge@'127.0.0.1'")
        config = write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x", more=f'url = "{fresh.url}"')
        far = await made(fresh, config, "--from", "0.0.0.0/0")
        assert "connect" in await php(fresh, far, "SELECT 1"), "not without TLS"
        (cipher,) = await php(fresh, far, "SHOW STATUS LIKE 'Ssl_cipher'", tls=True)
        assert cipher[0]["Value"]
        near = await made(fresh, config)
        assert await php(fresh, near, "SELECT 1") == [[{"1": "1"}]], "nobody listens on the way from this machine"


async def test_with_sqlite_there_is_nobody_to_let_in(tmp_path: Path) -> None:
    config = write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x")
    code, out, errors = await sql_access(config)
    assert (code, out) == (78, "")
    assert 'set store.url = "mysql+asyncmy://crmbridge:PASSWORD@127.0.0.1/crmbridge"' in errors


async def test_arguments_that_are_wrong(config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for arguments, code, words in [
        (["--from", "2001:db8::/33"], 2, "MySQL can't be told this network of IPv6 addresses"),
        (["--from", "crm.example"], 2, "--from"),
        (["--password-file", str(tmp_path / "empty")], 2, "must not be empty"),
        (["--password-file", str(tmp_path / "none")], 74, "can't be read"),
        (["--user", "a\nb"], 2, "control characters"),
        (["--apply", "--admin", "nonsense"], 74, "no database address"),
    ]:
        told = await sql_access(config, *arguments)
        assert told[:2] == (code, "")
        assert words in told[2]
