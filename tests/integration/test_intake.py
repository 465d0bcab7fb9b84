"""The intake behind a store that blocks: late is said, too much is thrown away, and what goes on then is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.test_bridge import LIMIT_S, trace

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.events import CallEvent, Delivery
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.tracker import Tracker
from crmbridge.config import PbxSettings
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.demo.traces import Trace
from crmbridge.intake import Frame, Intake
from crmbridge.pbx.ami import Ami
from crmbridge.pbx.connection import Address
from crmbridge.store.outbox import Outbox, open_outbox

MOST = 12
"""Frames that may wait: fewer than a call has."""
FAST = 1000.0


@dataclass
class Bench:
    """A tracker, an intake and a real outbox on a simulated PBX's session, and a gate before the store."""

    outbox: Outbox
    told: list[tuple[str, str]] = field(default_factory=list)
    stored: list[CallEvent] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    others: list[Frame] = field(default_factory=list)
    lists: int = 0
    lag_s: float = 0.02
    most: int = MOST

    def __post_init__(self) -> None:
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        numbers = Numbers(region="IL", form="national", anonymous="anonymous")
        endpoints = Endpoints(extensions=r"[17]\d\d", inbound_contexts=PbxSettings().inbound_contexts)
        tracker = Tracker(pbx="pbx", endpoints=endpoints, clients=Clients("10"), caller=numbers.caller)
        self.intake = Intake(
            tracker=tracker,
            store=self._store,
            send=self._send,
            others={"Cdr": self._other},
            resync=self._resync,
            longest_lag=self.most,
            lag_s=self.lag_s,
        )
        self.ami: Ami

    async def _store(self, events: Sequence[CallEvent]) -> list[Delivery]:
        self.stored += events
        self._notify()
        await self.gate.wait()
        return await self.outbox.add(events)

    def _send(self, new: Sequence[Delivery], age_s: float) -> None:
        assert age_s >= 0
        self.told += [(each.event.kind.value, each.event.extension) for each in new]
        self._notify()

    def _resync(self) -> None:
        self.ami.resync()

    def _other(self, frame: Frame) -> None:
        self.others.append(frame)
        self._notify()

    def take(self, frame: Frame, at: datetime) -> None:
        self.intake.take(frame, at)
        self.lists += frame.get("Event") == "CoreShowChannelsComplete"
        self._notify()

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.ensure_future(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with self._changed, asyncio.timeout(LIMIT_S):
            await self._changed.wait_for(holds)


@asynccontextmanager
async def bench(tmp_path: Path, pbx: SimulatedPbx, most: int = MOST) -> AsyncIterator[Bench]:
    async with open_outbox(tmp_path / "outbox.db") as outbox, asyncio.TaskGroup() as tasks:
        made = Bench(outbox, most=most)
        wanted = Tracker.EVENTS | {"Cdr"}
        address = Address("127.0.0.1", pbx.port)
        made.ami = Ami(address=address, username="u", secret="s", wanted=wanted, on_frame=made.take, apart=["Cdr"])
        intake, ami = tasks.create_task(made.intake.run()), tasks.create_task(made.ami.run())
        await made.until(lambda: made.lists == 1)
        yield made
        ami.cancel()
        made.intake.stop()
        made.gate.set()
        await intake


@pytest.fixture
async def pbx() -> AsyncIterator[SimulatedPbx]:
    pbx = SimulatedPbx(username="u", secret="s")
    await pbx.start()
    yield pbx
    await pbx.stop()


def parted(call: Trace, at: str) -> list[Trace]:
    """Up to when the phone rings, from there to the event named, and the rest."""
    ringing, then = call.raw.index(b"Event: DialState"), call.raw.index(at.encode())
    ringing = call.raw.index(b"\r\n\r\n", ringing) + 4
    return [replace(call, raw=raw) for raw in (call.raw[:ringing], call.raw[ringing:then], call.raw[then:])]


RING, ANSWER = ("incomingCall", "777"), ("incomingCallAnswered", "777")


@pytest.mark.parametrize("answered", ["Event: HangupRequest", "Event: DialEnd"])
async def test_what_goes_on_after_an_overrun_is_told_once_and_all_that_comes_later(
    tmp_path: Path, pbx: SimulatedPbx, answered: str
) -> None:
    """The phone is answered while frames are thrown away, or after it."""
    call = trace("01_did_to_ext_answered")
    first, lost, rest = parted(call, answered)
    with capture_logs() as logs:
        async with bench(tmp_path, pbx) as b:
            prefix = await pbx.play(first, speed=FAST)
            await b.until(lambda: len(b.stored) == 1)
            await pbx.play(call, speed=FAST)  # rings and ends while nothing gets through
            await b.until(lambda: b.intake.dropped > 0)
            await pbx.play(lost, speed=FAST, prefix=prefix)
            await pbx.play(call, speed=FAST)
            await b.until(lambda: len(b.others) == 2)
            assert b.intake.waiting == 0, "from then on nothing is kept"
            assert b.intake.lag_s > 0
            b.gate.set()
            await b.until(lambda: b.lists == 2)
            await pbx.play(rest, speed=FAST, prefix=prefix)
            await b.until(lambda: len(b.others) == 3)
            await pbx.play(call, speed=FAST)
            await b.until(lambda: len(b.told) == 4)
            await pbx.play(call, speed=FAST)
            await b.until(lambda: len(b.told) == 6)
            assert b.told == [RING, ANSWER] * 3
            assert len({event.key for event in b.stored}) == 6
            assert len(b.others) == 5, "call records went their own way all the time"
            assert b.intake.lag_s == 0
    said = [each["event"] for each in logs if each["event"].startswith("intake.")]
    assert (set(said[:2]), said[2]) == ({"intake.lags", "intake.overrun"}, "intake.caught_up")
    back = next(each for each in logs if each["event"] == "intake.caught_up")
    assert back["resync"] is True


async def test_a_store_that_is_only_slow_delays_and_loses_nothing(tmp_path: Path, pbx: SimulatedPbx) -> None:
    call = trace("01_did_to_ext_answered")
    first, middle, rest = parted(call, "Event: HangupRequest")
    with capture_logs() as logs:
        async with bench(tmp_path, pbx, most=1000) as b:
            prefix = await pbx.play(first, speed=FAST)
            await b.until(lambda: len(b.stored) == 1)
            await pbx.play(middle, speed=FAST, prefix=prefix)
            await asyncio.sleep(b.lag_s)  # it is time that makes it late
            assert b.intake.lag_s > b.lag_s
            assert b.intake.waiting > 0
            b.gate.set()
            await pbx.play(rest, speed=FAST, prefix=prefix)
            await b.until(lambda: len(b.told) == 2)
            assert b.told == [RING, ANSWER]
            assert (b.intake.dropped, b.lists) == (0, 1)
    said = [(each["event"], each["log_level"]) for each in logs if each["event"].startswith("intake.")]
    assert said[:2] == [("intake.lags", "warning"), ("intake.caught_up", "warning")]


async def test_an_event_that_nobody_understands_costs_no_other(tmp_path: Path, pbx: SimulatedPbx) -> None:
    def fails(frame: Frame) -> None:
        raise RuntimeError(frame["Event"])

    with capture_logs() as logs:
        async with bench(tmp_path, pbx) as b:
            b.gate.set()
            b.intake._others = {"Cdr": fails, "Newexten": fails}
            await pbx.play(trace("01_did_to_ext_answered"), speed=FAST)
            await b.until(lambda: len(b.told) == 2)
    assert "intake.event_failed" in {each["event"] for each in logs}


async def _fails(_: Sequence[CallEvent]) -> list[Delivery]:
    raise RuntimeError("a bug")


def _fails_at_once(_: Sequence[CallEvent]) -> Awaitable[list[Delivery]]:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("store", [_fails, _fails_at_once])
async def test_a_store_that_fails_ends_the_intake(
    tmp_path: Path, pbx: SimulatedPbx, store: Callable[[Sequence[CallEvent]], Awaitable[list[Delivery]]]
) -> None:
    async def intake() -> None:
        async with bench(tmp_path, pbx) as b:
            b.intake._store = store
            await pbx.play(trace("01_did_to_ext_answered"), speed=FAST)
            await asyncio.sleep(LIMIT_S)  # ended by the end of the intake

    with pytest.raises(ExceptionGroup) as caught:
        await intake()
    assert caught.value.subgroup(RuntimeError)
