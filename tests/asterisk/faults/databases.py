"""The database dies, freezes, locks, refuses to write or has no connection left, while calls come in.

In it lie the PBX's CDR table and the call list. A simulated PBX replays a recorded call, each time of another caller,
and its record is written into the table as soon as the database takes it; the bridge is the installed command. Held
against it: the CRM is told everything in time, as if there were no database; every answer about calls is right or an
honest 503; and when the database is back, the list has each call once, as a fresh `crmbridge sync` makes it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from asyncmy.errors import InternalError, OperationalError
from tests.asterisk.faults.crm import NUMBER, RECORDED, SPEED, seconds_until
from tests.asterisk.faults.crm_heard import heard
from tests.asterisk.faults.database_faults import DURABLE, FAULTS, as_root
from tests.asterisk.faults.judge import SETTLE_S, Call, Report, Sight, judge
from tests.asterisk.faults.resources import left_behind
from tests.asterisk.lab.bridge import COMMAND, PASSWORD, Bridge, started
from tests.asterisk.lab.mariadb import Server, server
from tests.integration.cdr_tables import FREEPBX

from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.demo.traces import Trace, shipped
from crmbridge.pbx.wire import FrameReader

GAP_S = 0.5
"""Between two calls."""
ASK_S = 0.25
"""Between two questions of the CRM's."""
LONGEST_ANSWER_S = 10.0
"""What hangs is told within eight seconds; and a busy machine."""
WRITE_S = 3.0
"""How long the PBX waits for the database, before it tries again."""
CATCH_UP_S = 90.0
"""Longest pause of the follower, and a sweep."""
_NOT_OURS = {"store.disk_refuses", "store.disk_hangs"}


@dataclass
class Outcome:
    """What came of one fault."""

    name: str
    calls: list[Call] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    """HTTP status of `/calls` while the fault lasted."""
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    caught_up_s: float = 0.0
    """From the fault's end until the list was whole."""
    report: Report = field(default_factory=Report)

    @property
    def broken(self) -> list[str]:
        return [f"{self.name}: {one}" for one in [*self.report.broken, *self.wrong]]

    def row(self) -> dict[str, object]:
        told = self.report.row()
        return {
            "the database is": self.name,
            **{key: told[key] for key in ("calls", "had to be told", "told", "lost", "doubled", "late")},
            "delay median/max s": told["delay median/max s"],
            "/calls meanwhile": ", ".join(f"{status} ×{times}" for status, times in sorted(self.answers.items())),
            "slowest answer s": f"{self.slowest_s:.1f}",
            "whole again after s": f"{self.caught_up_s:.1f}",
            "as expected": "no" if self.broken else "yes",
        }


@dataclass
class Databases:
    """What came of all faults."""

    outcomes: list[Outcome]

    @property
    def broken(self) -> list[str]:
        return [one for outcome in self.outcomes for one in outcome.broken]

    def rows(self) -> list[dict[str, object]]:
        return [outcome.row() for outcome in self.outcomes]


async def databases(folder: Path, names: list[str], *, lasts_s: float) -> Databases:
    """One fault after the other, done to one bridge and one database."""
    with server() as where:
        async with Receiver() as crm:
            run = _Run(folder, where, crm)
            await run.prepare()
            async with run.bridge() as bridge:
                outcomes = [await run.fault(bridge, name, lasts_s) for name in names]
            outcomes[-1].wrong += [*left_behind(bridge.lines, _NOT_OURS), *await run.differences_from_a_fresh_sync()]
            run.decide(outcomes)
            await run.pbx.stop()
    return Databases(outcomes)


class _Run:
    def __init__(self, folder: Path, where: Server, crm: Receiver) -> None:
        self._folder, self._where, self._crm = folder, where, crm
        self._recorded = next(one for one in shipped() if one.name.endswith(RECORDED))
        self._frames = FrameReader().feed(self._recorded.raw)
        self._numbers = (f"03{7_000_000 + index}" for index in count())
        self._listed: list[str] = []
        """Numbers whose call must be in the list."""
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._port = 0
        self._asking = False
        self._rows: asyncio.Queue[str] = asyncio.Queue()
        self.pbx = SimulatedPbx(username="crmbridge", secret="lab")

    async def prepare(self) -> None:
        """The CDR table, users with the rights that the documentation gives them, and the settings."""
        await asyncio.to_thread(
            self._where.database.run,
            f"{DURABLE}; CREATE DATABASE crmbridge; CREATE DATABASE fresh; "
            "CREATE DATABASE asteriskcdrdb; USE asteriskcdrdb; "
            + FREEPBX.format(engine="InnoDB")
            + " CREATE USER reader@127.0.0.1 IDENTIFIED BY 'r'; GRANT SELECT ON asteriskcdrdb.cdr TO reader@127.0.0.1;"
            " CREATE USER writer@127.0.0.1 IDENTIFIED BY 'w'; GRANT ALL ON crmbridge.* TO writer@127.0.0.1;"
            " GRANT ALL ON fresh.* TO writer@127.0.0.1;",
        )
        await self.pbx.start()
        url = await self._crm.start()
        for name in ("crmbridge", "fresh"):
            self._configure(name, url)

    def _configure(self, name: str, url: str) -> None:
        at = f"127.0.0.1:{self._where.database.port}"
        state = self._folder / name
        state.mkdir()
        (self._folder / f"{name}.toml").write_text(
            f"""
            [crm]
            url = "{url}"
            client_id = 10
            [ami]
            port = {self.pbx.port}
            username = "crmbridge"
            secret = "lab"
            [pbx]
            trunks = ["PJSIP/trunk-bezeq"]
            [http]
            listen = "127.0.0.1:0"
            username = "crm"
            password = "{PASSWORD}"
            [store]
            state_dir = "{state}"
            url = "mysql+asyncmy://writer:w@{at}/{name}"
            [cdr]
            source = "mysql+asyncmy://reader:r@{at}/asteriskcdrdb"
            [log]
            format = "json"
            """
        )

    @asynccontextmanager
    async def bridge(self) -> AsyncIterator[Bridge]:
        """The bridge, and records on their way into the table."""
        async with started([COMMAND, "run", "--config", str(self._folder / "crmbridge.toml")]) as bridge:
            (line,) = [one for one in map(json.loads, bridge.lines) if one["event"] == "http.listening"]
            self._port = int(line["address"].rpartition(":")[2])
            writing = asyncio.create_task(self._keep_writing())
            try:
                yield bridge
            finally:
                writing.cancel()

    async def fault(self, bridge: Bridge, name: str, lasts_s: float) -> Outcome:
        """Let it happen once."""
        outcome = Outcome(name)
        await self._calls_for(0, outcome)
        await self._whole(outcome)
        async with FAULTS[name](self._where):
            self._asking = True
            asking = asyncio.create_task(self._ask(outcome))
            await self._calls_for(lasts_s, outcome)
            self._asking = False
            await asking
        ended = self._loop.time()
        await self._calls_for(0, outcome)
        await self._whole(outcome)
        outcome.caught_up_s = self._loop.time() - ended
        assert bridge.process.returncode is None
        return outcome

    async def _calls_for(self, seconds: float, outcome: Outcome) -> None:
        until = self._loop.time() + seconds
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._call(outcome))
            while self._loop.time() < until:
                await asyncio.sleep(GAP_S)
                tasks.create_task(self._call(outcome))

    async def _call(self, outcome: Outcome) -> None:
        """One call; its record is on the way into the table when it is over."""
        number, began = next(self._numbers), self._loop.time()
        trace, row = self._as_now(number)
        prefix = f"{datetime.now(UTC).timestamp():.0f}.{int(number[3:])}-"  # columns hold 32 characters
        await self.pbx.play(trace, speed=SPEED, prefix=prefix)
        ended = self._loop.time()
        talking = began + seconds_until(trace, b"Event: BridgeEnter") / SPEED
        outcome.calls.append(Call(number, (began, ended), (min(talking, ended), ended + 2 * SETTLE_S)))
        self._listed.append(number)
        self._rows.put_nowait(row.format(prefix=prefix))

    def _as_now(self, number: str) -> tuple[Trace, str]:
        """The recording as of this moment, and its row in the table."""
        (cdr,) = [frame for frame in self._frames if frame.get("Event") == "Cdr"]
        now = f"{datetime.now(UTC).astimezone():%Y-%m-%d %H:%M:%S}"
        raw = self._recorded.raw.replace(NUMBER.encode(), number.encode())
        for name in ("StartTime", "AnswerTime", "EndTime"):
            raw = raw.replace(f"{name}: {cdr[name]}".encode(), f"{name}: {now}".encode())
        columns = {
            "calldate": now,
            "src": number,
            "dst": cdr["Destination"],
            "dcontext": cdr["DestinationContext"],
            "channel": cdr["Channel"],
            "dstchannel": cdr["DestinationChannel"],
            "duration": cdr["Duration"],
            "billsec": cdr["BillableSeconds"],
            "disposition": cdr["Disposition"],
            "uniqueid": "{prefix}" + cdr["UniqueID"],
            "linkedid": "{prefix}" + cdr["LinkedID"],
            "sequence": cdr["Sequence"],
        }
        values = ", ".join(f"'{value}'" for value in columns.values())
        return replace(self._recorded, raw=raw), f"INSERT INTO cdr ({', '.join(columns)}) VALUES ({values})"

    async def _keep_writing(self) -> None:
        """As Asterisk does over its one connection: a row after the other, each as soon as the database takes it."""
        while True:
            row = await self._rows.get()
            while not await self._written(row):  # noqa: ASYNC110  # nobody tells when it would
                await asyncio.sleep(GAP_S)

    async def _written(self, row: str) -> bool:
        """Whether it is written for sure. What was cut off may be, and is written again: twice the same is one call."""
        try:
            async with asyncio.timeout(WRITE_S), as_root(self._where) as connection, connection.cursor() as cursor:
                await cursor.execute("USE asteriskcdrdb")
                await cursor.execute(row)
        except (TimeoutError, OperationalError, InternalError):
            return False
        return True

    async def _ask(self, outcome: Outcome) -> None:
        """What the CRM asks for meanwhile: a call that was in the list before."""
        number = self._listed[0]
        while self._asking:
            began = self._loop.time()
            status, answer = await self._answer(f"/calls?number={number}")
            outcome.slowest_s = max(outcome.slowest_s, self._loop.time() - began)
            outcome.answers[status] += 1
            if status == 200:
                self._look_at(outcome, number, answer["result"])
            elif (status, answer["error"]["code"]) != (503, "call_list_unavailable"):
                outcome.wrong.append(f"/calls answers {status} {answer}")
            if (health := await self._answer("/healthz"))[0] != 200:
                outcome.wrong.append(f"/healthz answers {health}")
            if outcome.slowest_s > LONGEST_ANSWER_S:
                outcome.wrong.append(f"an answer took {outcome.slowest_s:.1f} s")
            await asyncio.sleep(ASK_S)

    def _look_at(self, outcome: Outcome, number: str, lines: list[dict[str, Any]]) -> None:
        shown = [(line["ext"], line["number"], line["duration"], line["incoming"]) for line in lines]
        if shown != [("777", number, 1, True)]:
            outcome.wrong.append(f"the list shows {shown} for {number}")

    async def _answer(self, path: str) -> tuple[int, Any]:
        authorization = base64.b64encode(f"crm:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {authorization}"}
        url = f"http://127.0.0.1:{self._port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            return answer.status, await answer.json()

    async def _whole(self, outcome: Outcome) -> None:
        """Wait until the list has each call."""
        missing = [call.number for call in outcome.calls]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                while missing:
                    for number in missing.copy():
                        status, answer = await self._answer(f"/calls?number={number}")
                        if status == 200 and answer["result"]:
                            missing.remove(number)
                            self._look_at(outcome, number, answer["result"])
                    await asyncio.sleep(ASK_S)
        outcome.wrong += [f"{number} is not in the list after {CATCH_UP_S:g} s" for number in missing]

    def decide(self, outcomes: list[Outcome]) -> None:
        """Judge what the CRM was told: the bridge saw everything all the time."""
        requests = heard(self._crm.received, 0.0)
        for outcome in outcomes:
            own = {call.number for call in outcome.calls}
            told = [one for one in requests if one.number in own]
            outcome.report = judge(outcome.calls, Sight([(float("-inf"), float("inf"))]), told)

    async def differences_from_a_fresh_sync(self) -> list[str]:
        """What a sync of the whole table into an empty database makes otherwise."""
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "sync", "--config", str(self._folder / "fresh.toml")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            return [f"sync: {output.decode()}"]
        sql = "SELECT * FROM {}.all_calls ORDER BY number, time"
        lists = [await asyncio.to_thread(self._where.database.run, sql.format(one)) for one in ("crmbridge", "fresh")]
        both = [set(one.splitlines()) for one in lists]
        return [f"a fresh sync makes it otherwise: {one}" for one in sorted(both[0] ^ both[1])]
