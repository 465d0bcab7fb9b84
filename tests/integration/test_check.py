"""`crmbridge check` on set-ups that are broken in one place each: it names the fault and the mend.

Faults of Asterisk's are in tests/asterisk/test_check.py, on a real one; here the PBX is simulated, and what it can't be
asked is not found out.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.integration.cdr_tables import FREEPBX, insert, reader, record
from tests.integration.conftest import Fresh
from tests.integration.test_bridge import COMMAND, LIMIT_S, output, write

from crmbridge import checks
from crmbridge.calls.history import CallRow
from crmbridge.checks import Link, State
from crmbridge.checks.clock import clock
from crmbridge.config import parse
from crmbridge.demo.receiver import Manner, Receiver, Reply
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.store.call_list import open_call_list
from crmbridge.store.engine import sqlite_url

AT = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
ROW = CallRow("pbx", "1.1", "10", "777", "033004799", "+97233004799", AT, 7, "", incoming=True)


async def links(folder: Path, more: str) -> dict[str, tuple[bool, str]]:
    config = write(folder, ami_port=1, url="http://127.0.0.1:9/x", more=more)
    _, said = await output("check", "--json", "--config", str(config))
    return {link["link"]: (link["ok"], link["found"]) for link in json.loads(said)}


async def test_a_list_in_a_file(tmp_path: Path) -> None:
    assert (await links(tmp_path, ""))["call list"] == (True, f"none yet; it will be made in {tmp_path}")
    assert not (tmp_path / "calls.db").exists()
    async with open_call_list(sqlite_url(tmp_path / "calls.db"), lambda _: [], UTC) as calls:
        assert await calls.newest() is None
        await calls.replace("pbx", {"1.1": [ROW]})
    assert (await links(tmp_path, ""))["call list"] == (True, "its newest call is of 2026-11-23 10:00:00")
    (tmp_path / "calls.db").write_bytes(b"nonsense" * 1000)
    ok, found = (await links(tmp_path, ""))["call list"]
    assert not ok
    assert "no SQLite database" in found


@pytest.mark.needs("mariadb")
async def test_a_list_in_a_server(fresh: Fresh, tmp_path: Path) -> None:
    url = fresh.url
    good = f'url = "{url}"'
    assert (await links(tmp_path, good))["call list"] == (True, "no calls in it yet")
    for broken, says in (
        (url.replace(fresh.name, "nobody_made_it"), "nobody_made_it"),
        ("mysql+asyncmy://u:s3cret@127.0.0.1:9/x", "is not there"),
    ):
        ok, found = (await links(tmp_path, f'url = "{broken}"'))["call list"]
        assert not ok
        assert says in found
        assert "s3cret" not in found


async def test_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "monitor"
    setting = f'[cdr]\nrecordings_dir = "{folder}"'
    assert "recordings" not in await links(tmp_path, "")
    assert (await links(tmp_path, setting))["recordings"] == (False, f"{folder} is no folder: see cdr.recordings_dir")
    folder.mkdir()
    assert (await links(tmp_path, setting))["recordings"] == (True, f"{folder} can be read")


@dataclass
class Setup:
    """A set-up that works, before something of it is broken."""

    folder: Path
    pbx: SimulatedPbx
    crm: Receiver
    values: dict[str, Any]

    def set(self, section: str, **keys: object) -> None:
        self.values[section] = self.values.get(section, {}) | keys

    async def links(self) -> dict[str, Link]:
        async with asyncio.timeout(LIMIT_S):
            return {link.name: link for link in await checks.all_links(parse(self.values, source="test"))}


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    pbx = SimulatedPbx(username="crmbridge", secret="s3cret")
    await pbx.start()
    async with Receiver() as crm:
        values: dict[str, Any] = {
            "crm": {"url": await crm.start(), "client_id": "10"},
            "ami": {"username": "crmbridge", "secret": "s3cret", "port": pbx.port},
            "http": {"username": "crm", "password": "kTr7-2mbQ-9xWz-4dPa", "listen": "127.0.0.1:0"},
            "store": {"state_dir": str(tmp_path)},
        }
        yield Setup(tmp_path, pbx, crm, values)
    await pbx.stop()


Break = Callable[[Setup], Awaitable[None] | None]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    what: str
    link: str
    breaks: Break
    says: tuple[str, ...]
    """Words of what is found, and of the mend."""
    state: State = State.FAIL
    besides: frozenset[str] = field(default=frozenset())
    """Links that are not tried, then."""


def replies(reply: Reply) -> Break:
    def breaks(setup: Setup) -> None:
        setup.crm.default = reply

    return breaks


def sets(section: str, **keys: object) -> Break:
    return lambda setup: setup.set(section, **keys)


def writes(name: str) -> Break:
    def breaks(setup: Setup) -> None:
        (setup.folder / name).write_bytes(b"nonsense" * 1000)

    return breaks


def runs(version: str) -> Break:
    def breaks(setup: Setup) -> None:
        setup.pbx.core = {"AsteriskVersion": version, "CoreCDRenabled": "Yes"}

    return breaks


def certificate(days: int) -> Break:
    def breaks(setup: Setup) -> None:
        cert, key = setup.folder / "x.crt", setup.folder / "x.key"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        names = ("-subj", "/CN=pbx", "-addext", "subjectAltName=DNS:pbx.example")
        made = ["openssl", "req", "-x509", *curve, *names, "-days", str(days), "-keyout", str(key), "-out", str(cert)]
        subprocess.run(made, check=True, capture_output=True, timeout=60)
        setup.set("http", tls_cert=str(cert), tls_key=str(key))

    return breaks


LATER = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
NO_PBX = frozenset(checks.LINKS[checks.LINKS.index("AMI") + 1 : checks.LINKS.index("call records")])
FAULTS = (
    Fault("a damaged outbox", "outbox", writes("outbox.db"), ("outbox.db", "no SQLite database")),
    Fault("a damaged call list", "call list", writes("calls.db"), ("calls.db", "no SQLite database")),
    Fault("a state folder in a file", "outbox", sets("store", state_dir="/etc/hostname/x"), ("written", "state_dir")),
    Fault("no PBX", "AMI", lambda setup: setup.pbx.stop(), ("connection refused", "does Asterisk run"), besides=NO_PBX),
    Fault("a wrong secret", "AMI", sets("ami", secret="wrong"), ("ami.secret", "manager.conf"), besides=NO_PBX),
    Fault("an old Asterisk", "Asterisk", runs("13.38.3"), ("13.38.3 is older than 16", "upgrade"), State.WARN),
    Fault("one without devices", "Asterisk", runs("16.16.0"), ("DBGetTree", "16.28", "upgrade"), State.WARN),
    Fault("one that is too new", "Asterisk", runs("24.0.0"), ("newer than 22", "newer crmbridge"), State.WARN),
    Fault(
        "no file of records",
        "call records",
        sets("cdr", source="/nowhere/x.csv"),
        ("/nowhere/x.csv", "check cdr.source"),
    ),
    Fault("no recordings", "recordings", sets("cdr", recordings_dir="/nowhere"), ("is no folder", "recordings_dir")),
    Fault("a CRM that is not there", "CRM", sets("crm", url="http://127.0.0.1:9/x"), ("check crm.url", "firewall")),
    Fault("a wrong path", "CRM", replies(Reply(404)), ("HTTP 404", "check crm.url")),
    Fault("a CRM in trouble", "CRM", replies(Reply(503)), ("HTTP 503", "ask the CRM's people")),
    Fault(
        "a CRM that has moved",
        "CRM",
        replies(Reply(301, headers={"Location": "https://n.example/"})),
        ("redirects", "set crm.url"),
    ),
    Fault(
        "a CRM on another clock",
        "clock",
        replies(Reply(headers={"Date": LATER})),
        ("the CRM's clock", "60 s", "chrony"),
        State.WARN,
    ),
    Fault(
        "an address of others", "dialer", sets("http", listen="192.0.2.1:6560"), ("192.0.2.1:6560", "set http.listen")
    ),
    Fault("nobody may ask", "dialer", sets("http", allow=[]), ("http.allow is empty", "CRM's addresses")),
    Fault(
        "the CRM can't reach us",
        "dialer",
        sets("http", allow=["203.0.113.7/32"]),
        ("this machine only", "set http.listen"),
        State.WARN,
    ),
    Fault(
        "anybody may ask",
        "dialer",
        sets("http", allow=["0.0.0.0/0"], trusted_proxies=["127.0.0.1"]),
        ("anybody", "name the CRM's"),
        State.WARN,
    ),
    Fault("a password to guess", "dialer", sets("http", password="crm"), ("phone bill", "openssl rand"), State.WARN),
    Fault(
        "a certificate that ends",
        "TLS",
        certificate(3),
        ("days left", "renew it"),
        besides=frozenset({"needs openssl"}),
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_a_fault_is_named_and_so_is_its_mend(setup: Setup, fault: Fault) -> None:
    before = await setup.links()
    assert all(link.ok for link in before.values()), before
    done = fault.breaks(setup)
    if done is not None:
        await done
    links = await setup.links()
    link = links[fault.link]
    assert link.state == fault.state, link
    for words in fault.says:
        assert words in link.found
    assert [one.name for one in links.values() if not one.ok] == [fault.link] * (fault.state == State.FAIL)
    changed = {name for name in before.keys() & links.keys() if links[name].state != before[name].state}
    assert changed <= {fault.link}
    assert before.keys() - links.keys() <= fault.besides


async def test_a_crm_that_says_nothing(setup: Setup) -> None:
    setup.set("crm", timeout_s=0.3)
    setup.crm.default = Reply(manner=Manner.NEVER)
    links = await setup.links()
    assert [one.name for one in links.values() if not one.ok] == ["CRM"]
    assert "no answer within 0.3 s" in links["CRM"].found


@pytest.mark.needs("mariadb")
async def test_claims(setup: Setup, fresh: Fresh) -> None:
    assert "claims" not in await setup.links()
    setup.set("store", url=fresh.url)
    setup.set("claims", bridge="bridge-1")

    async def found(state: State, *says: str) -> None:
        link = (await setup.links())["claims"]
        assert link.state == state, link
        assert all(words in link.found for words in says), link

    await found(State.OK, "as bridge-1; one takes", "no other bridge has been heard of yet")
    fresh.sql("INSERT INTO bridges VALUES ('bridge-1', 1, UTC_TIMESTAMP(6)), ('bridge-2', 2, UTC_TIMESTAMP(6))")
    await found(State.OK, "heard of bridge-2")
    fresh.sql("UPDATE bridges SET seen_at = seen_at - INTERVAL 1 HOUR")
    await found(State.WARN, "bridge-2 was heard of last 36", "does it run?")
    setup.set("claims", timeout_s=0.0004)
    await found(State.WARN, "(claims.timeout_s)")
    setup.set("claims", timeout_s=2)
    assert fresh.sql("SELECT count(*) FROM claims").split()[1] == "0", "it leaves nothing behind"
    fresh.sql(f"REVOKE INSERT ON `{fresh.name}`.* FROM '{fresh.user}'@'127.0.0.1'")
    await found(State.FAIL, "does not let this user do that", "GRANT")


@pytest.mark.needs("mariadb")
async def test_a_table(setup: Setup, fresh: Fresh, tmp_path: Path) -> None:
    """What may be wrong with it, one after the other, and what its recordings say of their folder."""
    here = ZoneInfo("Asia/Jerusalem")
    now = int(datetime.now(UTC).timestamp())
    fresh.sql(FREEPBX.format(engine="InnoDB") + insert([record(now - 600, n) for n in range(4)]))
    source = reader(fresh.server, fresh.name)
    monitor = tmp_path / "monitor"
    monitor.mkdir()
    for n in range(4):
        (monitor / f"in-{n}.wav").write_bytes(b"x" * 100)
    setup.set("cdr", source=source, timezone="Asia/Jerusalem", recordings_dir=str(monitor))

    links = await setup.links()
    assert all(link.ok for link in links.values()), links
    assert (links["call records"].state, links["recordings"].state) == (State.OK, State.OK)
    assert "10 min ago" in links["call records"].found
    assert "holds 4 of the 4 latest recordings" in links["recordings"].found
    assert "the CDR database" in links["clock"].found

    async def fault(link: str, *says: str, state: State = State.FAIL, **cdr: str) -> None:
        was = setup.values["cdr"]
        setup.set("cdr", **cdr)
        links = await setup.links()
        setup.values["cdr"] = was
        assert links[link].state == state, links[link]
        for words in says:
            assert words in links[link].found
        assert [one.name for one in links.values() if not one.ok] == [link] * (state == State.FAIL)

    (tmp_path / "empty").mkdir()
    await fault("recordings", "holds none of the 4", "set cdr.recordings_dir", recordings_dir=str(tmp_path / "empty"))
    for n in range(3):
        (monitor / f"in-{n}.wav").unlink()
    await fault("recordings", "3 of the 4", "moved away", state=State.WARN)
    await fault("call records", "in the future", "set cdr.timezone", timezone="America/New_York")
    await fault("call records", "check user and password", source=source.replace(":secret", ":wrong"))
    await fault("call records", "no table", "check cdr.table", table="records")
    fresh.sql(f"UPDATE cdr SET calldate = '{datetime.now(here) - timedelta(days=9):%Y-%m-%d %H:%M:%S}'")
    await fault("call records", "9 days ago", "does Asterisk still write", state=State.WARN)
    fresh.sql("DROP INDEX calldate ON cdr")
    await fault("call records", "CREATE INDEX calldate ON cdr")


def test_only_asterisks_clock_is_a_failure() -> None:
    assert clock({"Asterisk": 0.2, "the CDR database": -40.0}).state == State.OK
    assert clock({"Asterisk": 0.2, "the CDR database": -90.0}).state == State.WARN
    link = clock({"Asterisk": -6.0})
    assert (link.state, "6 s behind ours" in link.found) == (State.FAIL, True)


SMALL = 'mount -t tmpfs -o {options} tmpfs "$1" && {then} shift && exec "$@"'


@pytest.mark.needs("mounts")
@pytest.mark.parametrize(
    ("options", "then", "link", "state", "says"),
    [
        ("size=20m", "", "disk", "fail", ("MB free", "fewer than 50 MB", "df -h")),
        ("size=200m", "", "disk", "warn", ("MB free", "fewer than 500 MB", "df -h")),
        ("size=2g,nr_inodes=50", "", "disk", "fail", ("more files", "fewer than 1000", "df -i")),
        ("size=2g", 'mount -o remount,ro "$1" &&', "outbox", "fail", ("can't be written", "store.state_dir")),
    ],
)
async def test_disks(
    setup: Setup, tmp_path: Path, options: str, then: str, link: str, state: str, says: tuple[str, ...]
) -> None:
    """The command in mounts of its own, its state on a small disk."""
    small = tmp_path / "small"
    small.mkdir()
    config = write(tmp_path, ami_port=setup.pbx.port, url=setup.values["crm"]["url"], state=small)
    script = SMALL.format(options=options, then=then)
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        str(small),
        COMMAND,
        "check",
        "--json",
        "--config",
        str(config),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(LIMIT_S):
        said, _ = await process.communicate()
    links = {one["link"]: one for one in json.loads(said)}
    assert links[link]["state"] == state
    for words in says:
        assert words in links[link]["found"]
    failed = [name for name, one in links.items() if not one["ok"]]
    assert failed == [link] * (state == "fail")
    assert process.returncode == int(state == "fail")


async def test_settings(tmp_path: Path) -> None:
    config = write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x", more="[pbx]\ninbound_context = []")
    code, said = await output("check", "--config", str(config))
    assert code == 1
    assert "FAIL" in said
    assert "inbound_context" in said
