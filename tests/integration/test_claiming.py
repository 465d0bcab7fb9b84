"""The sender under claims: over real sockets, with a real outbox, and claims that the test gives out."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.asterisk.lab.network import Network
from tests.integration.test_sender import TestClock, answer, ring

from crmbridge.calls.claims import Held, Mine, Standing, Told, Without, of_callback
from crmbridge.calls.events import State
from crmbridge.crm.client import CrmClient, NotAllowedError, _watched
from crmbridge.crm.sender import Sender
from crmbridge.crm.sending import Settings
from crmbridge.demo.receiver import Receiver, Reply
from crmbridge.store.outbox import Outbox, open_outbox

LIMIT_S = 20
LATER = 1e9
"""An instant that the test's clock never reaches."""


@dataclass
class GivenOut:
    """Claims, as the test wants them: each answer in its turn, then always ours."""

    answers: deque[Standing] = field(default_factory=deque)
    lease_s: float = 2.0
    asked: list[str] = field(default_factory=list)
    patient: list[bool] = field(default_factory=list)
    put_down: list[tuple[str, str]] = field(default_factory=list)
    renewals: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    after_a_look: list[Standing] = field(default_factory=list)
    """What there is in place of the answers as soon as it is looked whether claims can be had."""
    known: dict[str, Told] = field(default_factory=dict)

    async def take(self, key: str, *, patient: bool = True) -> Standing:
        self.asked.append(key)
        self.patient.append(patient)
        return self.answers.popleft() if self.answers else Mine(LATER)

    async def renew(self, key: str) -> Standing:
        self.renewals.put_nowait(key)
        return Mine(LATER)

    async def told(self, keys: Sequence[str]) -> dict[str, Told]:
        return {key: self.known[key] for key in keys if key in self.known}

    async def look_again(self) -> None:
        self.answers = deque(self.after_a_look)

    def tell(self, key: str, how: str) -> None:
        self.put_down.append((key, how))

    def let_go(self, key: str) -> None:
        self.put_down.append((key, "let go"))


@dataclass
class Bench:
    sender: Sender
    outbox: Outbox
    clock: TestClock
    final: list[State]

    async def settled(self, count: int) -> None:
        await self.clock.until(lambda: len(self.final) >= count and self.sender.stats().under_way == 0)

    async def last(self, delivery_id: int) -> str:
        return (await self.outbox.attempts(delivery_id))[-1].outcome


@asynccontextmanager
async def bench(folder: Path, url: str, claims: GivenOut) -> AsyncIterator[Bench]:
    clock, final = TestClock(), list[State]()
    async with open_outbox(folder / "outbox.db") as outbox:
        settings = Settings(url, timeout_s=5.0)
        sender = Sender(settings, outbox, clock, lambda _, state, __: final.append(state), claims=claims)
        task = asyncio.create_task(sender.run())
        try:
            yield Bench(sender, outbox, clock, final)
        finally:
            sender.stop()
            async with asyncio.timeout(LIMIT_S):
                await task


RING, ANSWER = of_callback(ring().key), of_callback(answer().key)


async def test_what_is_ours_is_sent_and_put_down_as_told(tmp_path: Path, crm: Receiver) -> None:
    claims = GivenOut()
    crm.script(Reply(), Reply(status=403))
    async with bench(tmp_path, await crm.start(), claims) as b:
        b.sender.submit(await b.outbox.add([ring(), answer()]))
        await b.settled(2)
    assert claims.asked == [RING, ANSWER]
    assert claims.put_down == [(RING, "confirmed"), (ANSWER, "refused")]
    assert b.final == [State.CONFIRMED, State.REFUSED]


async def test_what_another_holds_keeps_its_place_and_is_looked_at_again(tmp_path: Path, crm: Receiver) -> None:
    claims = GivenOut(deque([Held("two", 1000.5), Told("two", "confirmed", by_us=False)]))
    with capture_logs() as logs:
        async with bench(tmp_path, await crm.start(), claims) as b:
            first, second = await b.outbox.add([ring(), answer()])
            b.sender.submit([first, second])
            await b.clock.until(lambda: claims.asked == [RING] and b.sender.stats().under_way == 0)
            assert crm.received == []
            await b.clock.turn(0.5)
            await b.settled(2)
            assert await b.last(first.id) == "confirmed by the CRM, which was told by two"
            assert (await b.outbox.counts())[State.BY_PEER] == 1
    assert claims.asked == [RING, RING, ANSWER]
    assert [each["operation"] for each in crm.received] == ["incomingCallAnswered"]
    assert b.final == [State.BY_PEER, State.CONFIRMED]
    (told,) = [line for line in logs if line["event"] == "crm.told_by_peer"]
    assert (told["linkedid"], told["log_level"]) == ("c1", "info")
    assert b.sender.stats().requests == 1


async def test_what_is_to_be_tried_again_is_let_go_of_before(tmp_path: Path, crm: Receiver) -> None:
    claims = GivenOut()
    crm.script(Reply(status=500))
    async with bench(tmp_path, await crm.start(), claims) as b:
        b.sender.submit(await b.outbox.add([ring()]))
        await b.clock.until(lambda: b.sender.stats().failures == 1 and b.sender.stats().under_way == 0)
        await b.clock.turn(1)
        await b.settled(1)
    assert claims.put_down == [(RING, "let go"), (RING, "confirmed")]


async def test_a_lease_that_has_ended_is_not_sent_on(tmp_path: Path, crm: Receiver) -> None:
    """As when the process was stopped between the claim and the request."""
    claims = GivenOut(deque([Mine(999.0), Mine(1000.0), Mine(1000.1)]))
    async with bench(tmp_path, await crm.start(), claims) as b:
        b.sender.submit(await b.outbox.add([ring()]))
        await b.settled(1)
    assert claims.asked == [RING] * 3
    assert len(crm.received) == 1


async def test_the_claim_is_kept_up_while_the_crm_takes_its_time(tmp_path: Path, crm: Receiver) -> None:
    hold, claims = asyncio.Event(), GivenOut(lease_s=0.03)
    crm.default = Reply(hold=hold)
    async with bench(tmp_path, await crm.start(), claims) as b:
        b.sender.submit(await b.outbox.add([ring()]))
        async with asyncio.timeout(LIMIT_S):
            assert [await claims.renewals.get() for _ in range(3)] == [RING] * 3
        hold.set()
        await b.settled(1)
    assert claims.put_down == [(RING, "confirmed")]
    assert len(crm.received) == 1


async def test_without_the_database_it_is_sent_all_the_same(tmp_path: Path, crm: Receiver) -> None:
    claims = GivenOut(deque([Without()]))
    async with bench(tmp_path, await crm.start(), claims) as b:
        b.sender.submit(await b.outbox.add([ring()]))
        await b.settled(1)
    assert claims.put_down == [(RING, "confirmed")], "for who comes later"


@pytest.mark.parametrize(
    ("found", "state", "requests"),
    [([Told("two", "confirmed", by_us=False)], State.BY_PEER, 1), ([Without()], State.CONFIRMED, 2)],
)
async def test_what_is_tried_again_without_the_database_is_looked_for_once_the_crm_is_there(
    tmp_path: Path, crm: Receiver, found: list[Standing], state: State, requests: int
) -> None:
    """One cut took both away, and with it the CRM's first answer; the other bridge has told it since."""
    claims = GivenOut(deque([Mine(LATER), *[Without()] * 9]), after_a_look=found)
    crm.script(Reply(status=500))
    async with bench(tmp_path, await crm.start(), claims) as b:
        b.sender.submit(await b.outbox.add([ring()]))
        await b.clock.until(lambda: b.sender.stats().failures == 1 and b.sender.stats().under_way == 0)
        await b.clock.turn(1)
        await b.settled(1)
    assert b.final == [state]
    assert len(crm.received) == requests
    assert claims.patient[:2] == [True, False], "it waits for that look, and for none before"


async def test_what_was_taken_over_says_from_whom(tmp_path: Path, crm: Receiver) -> None:
    with capture_logs() as logs:
        async with bench(tmp_path, await crm.start(), GivenOut(deque([Mine(LATER, over="two")]))) as b:
            b.sender.submit(await b.outbox.add([ring()]))
            await b.settled(1)
    (taken,) = [line for line in logs if line["event"] == "crm.taken_over"]
    assert (taken["bridge"], taken["linkedid"], taken["log_level"]) == ("two", "c1", "warning")


@pytest.mark.parametrize(("how", "state"), [("confirmed", State.CONFIRMED), ("refused", State.REFUSED)])
async def test_what_we_told_and_were_killed_before_we_knew_is_not_told_again(
    tmp_path: Path, crm: Receiver, how: str, state: State
) -> None:
    claims = GivenOut(deque([Told("one", how, by_us=True)]))
    async with bench(tmp_path, await crm.start(), claims) as b:
        (delivery,) = await b.outbox.add([ring()])
        b.sender.submit([delivery])
        await b.settled(1)
        assert (
            await b.last(delivery.id) == f"{how} by the CRM, which was told by this bridge, before it was started again"
        )
    assert b.final == [state]
    assert crm.received == []


async def test_what_is_too_old_is_told_from_what_another_has_told(tmp_path: Path, crm: Receiver) -> None:
    claims = GivenOut(known={RING: Told("two", "confirmed", by_us=False)})
    async with bench(tmp_path, await crm.start(), claims) as b:
        b.sender.submit(await b.outbox.add([ring(), ring("c2")]), age_s=61)
        await b.settled(2)
        counts = await b.outbox.counts()
    assert (counts[State.BY_PEER], counts[State.EXPIRED]) == (1, 1)
    assert claims.asked == []


async def test_a_probe_that_another_holds_says_nothing_of_the_crm(tmp_path: Path, crm: Receiver) -> None:
    claims = GivenOut()
    crm.default = Reply(status=500)
    async with bench(tmp_path, await crm.start(), claims) as b:
        b.sender.submit(await b.outbox.add([ring(f"c{n}") for n in range(6)]))
        await b.clock.until(lambda: b.sender.stats().crm_down and b.sender.stats().under_way == 0)
        claims.answers.extend([Told("two", "confirmed", by_us=False)] * 3 + [Held("two", LATER)])
        crm.default = Reply()
        await b.clock.turn(6)
        await b.settled(6)  # the CRM is back: what was held is looked at at once, too
        assert not b.sender.stats().crm_down
    assert sorted(b.final) == [State.CONFIRMED] * 3 + [State.BY_PEER] * 3


async def test_a_stop_lets_go_of_what_is_under_way(tmp_path: Path, crm: Receiver) -> None:
    claims = GivenOut()
    crm.default = Reply(hold=asyncio.Event())
    clock, settings = TestClock(), Settings(await crm.start(), timeout_s=5.0, stop_grace_s=0.01)
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        sender = Sender(settings, outbox, clock, claims=claims)
        task = asyncio.create_task(sender.run())
        sender.submit(await outbox.add([ring()]))
        async with asyncio.timeout(LIMIT_S):
            await crm.wait_for(1)
            sender.stop()
            await task
    assert claims.put_down == [(RING, "let go")]


# The way to the CRM


def test_a_socket_to_the_crm_finds_out_that_its_line_is_dead() -> None:
    address = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1))
    with _watched(2.0)(address) as made:
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2000


async def test_a_request_that_may_not_go_out_any_more_does_not(crm: Receiver) -> None:
    """It is asked for when the connection stands: that may have taken long."""
    said = iter([True, False, True])
    async with CrmClient(await crm.start(), 5.0, None, 1, dead_s=2.0) as client:
        await client.send(ring(), lambda: next(said))
        with pytest.raises(NotAllowedError):
            await client.send(ring("c2"), lambda: next(said))
        await client.send(ring("c3"), lambda: next(said))
        await client.send(ring("c4"))
    assert len(crm.received) == 3
    assert [each.at.tzinfo for each in crm.received] == [UTC] * 3
    assert datetime.now(UTC) >= crm.received[-1].at


@pytest.mark.needs("namespaces")
async def test_a_line_that_dies_under_a_request_is_told_from_a_crm_that_is_slow(crm: Receiver) -> None:
    """The request may take a minute; the network between is taken away while the CRM thinks."""
    crm.default = Reply(hold=asyncio.Event())
    with Network() as network:
        url = await crm.start(sock=network.bound(("127.0.0.1", 0)))
        async with CrmClient(url, 60.0, None, 2, dead_s=1.0) as client:
            client._connector._socket_factory = _watched(1.0, lambda *_: network.new_socket())
            slow = asyncio.create_task(client.send(ring()))
            async with asyncio.timeout(LIMIT_S):
                await crm.wait_for(1)
                done, _ = await asyncio.wait([slow], timeout=2.5)
                assert not done, "it is there, and acknowledges"
                network.run("ip", "link", "set", "lo", "down")
                outcome = await slow
    assert outcome.status is None
    assert "closed the connection" in outcome.verdict.reason


async def test_who_takes_no_connection_is_given_up_sooner(tmp_path: Path) -> None:
    del tmp_path
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = []
        try:
            for _ in range(4):  # what fills its backlog
                one = socket.socket()
                one.setblocking(False)  # noqa: FBT003  # its name says what
                one.connect_ex(("127.0.0.1", port))
                waiting.append(one)
            async with CrmClient(f"http://127.0.0.1:{port}/", 5.0, None, 1, dead_s=0.2) as client:
                outcome = await client.send(ring())
        finally:
            for one in waiting:
                one.close()
    assert outcome.status is None
    assert "0.2 s" in outcome.verdict.reason
