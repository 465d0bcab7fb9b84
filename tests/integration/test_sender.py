"""The sender over real sockets, with a real outbox, and a clock that the tests turn."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from crmbridge.calls.events import Attempt, CallEvent, Delivery, Kind, State
from crmbridge.crm.clock import Clock
from crmbridge.crm.sender import FOLLOW_OUTBOX_S, Sender
from crmbridge.crm.sending import Settings
from crmbridge.demo.receiver import Manner, Receiver, Reply
from crmbridge.store.outbox import Outbox, open_outbox

AT = datetime(2024, 1, 2, 8, 0, tzinfo=UTC)


class TestClock(Clock):
    """Stands still until it is turned."""

    __test__ = False

    def __init__(self) -> None:
        self.wall = AT
        self.mono = 1000.0
        self._turned = asyncio.Condition()

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def jitter(self) -> float:
        return 0.0

    async def wait(self, wake: asyncio.Event, until: float | None) -> None:
        woken = asyncio.create_task(self._tell(wake))
        try:
            async with self._turned:
                self._turned.notify_all()
                await self._turned.wait_for(lambda: wake.is_set() or (until is not None and self.mono >= until))
        finally:
            woken.cancel()

    async def _tell(self, wake: asyncio.Event) -> None:
        await wake.wait()
        async with self._turned:
            self._turned.notify_all()

    async def turn(self, seconds: float) -> None:
        """Time passes."""
        self.mono += seconds
        self.wall += timedelta(seconds=seconds)
        async with self._turned:
            self._turned.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds and the sender has come to rest with it."""
        async with asyncio.timeout(20), self._turned:
            await self._turned.wait_for(condition)


@dataclass
class Bench:
    """A sender at work, and all that is around it."""

    sender: Sender
    outbox: Outbox
    clock: TestClock
    task: asyncio.Task[None]
    final: list[tuple[int, State]]

    async def tell(self, *events: CallEvent) -> list[Delivery]:
        """As the daemon does: to the outbox, then to the sender."""
        added = await self.outbox.add([replace(event, at=self.clock.wall) for event in events])
        self.sender.submit(added)
        return added

    async def failed(self, times: int) -> None:
        """Return when so many requests have failed and nothing is under way."""
        await self.clock.until(lambda: (stats := self.sender.stats()).failures >= times and stats.under_way == 0)

    async def settled(self, count: int) -> None:
        """Return when so many callbacks have come to an end."""
        await self.clock.until(lambda: len(self.final) >= count and self.sender.stats().under_way == 0)

    async def stop(self) -> None:
        self.sender.stop()
        async with asyncio.timeout(20):
            await self.task


@asynccontextmanager
async def bench(
    file: Path,
    url: str,
    clock: TestClock | None = None,
    **settings: Any,  # noqa: ANN401 (fields of Settings)
) -> AsyncIterator[Bench]:
    clock = clock or TestClock()
    final: list[tuple[int, State]] = []
    async with open_outbox(file) as outbox:
        sender = Sender(
            Settings(url, **{"timeout_s": 5.0} | settings),
            outbox,
            clock,
            lambda delivery, state, _: final.append((delivery.id, state)),
        )
        task = asyncio.create_task(sender.run())
        try:
            yield Bench(sender, outbox, clock, task, final)
        finally:
            sender.stop()
            async with asyncio.timeout(20):
                await task


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def ring(call: str = "c1", extension: str = "777") -> CallEvent:
    return CallEvent(Kind.RING, "main", call, extension, "033004799", "10", AT, call, f"{call}.phone")


def answer(call: str = "c1", extension: str = "777") -> CallEvent:
    return replace(ring(call, extension), kind=Kind.ANSWER)


def told(crm: Receiver) -> list[tuple[str, str]]:
    return [(each["sExt"], each["operation"]) for each in crm.received]


RING_TARGET = "/webservice.php?operation=incomingCall&sExt=777&sNumber=033004799&ClientId=10"
ANSWER_TARGET = "/webservice.php?operation=incomingCallAnswered&sExt=777&sNumber=033004799&ClientId=10"


async def test_the_questionnaires_requests_to_the_byte(file: Path, crm: Receiver) -> None:
    with capture_logs() as logs:
        async with bench(file, await crm.start()) as b:
            (first, second) = await b.tell(ring(), answer())
            await b.settled(2)
            assert crm.targets == [RING_TARGET, ANSWER_TARGET]
            assert b.final == [(first.id, State.CONFIRMED), (second.id, State.CONFIRMED)]
            assert await b.outbox.waiting() == []
            (attempt,) = await b.outbox.attempts(first.id)
            assert (attempt.status, attempt.outcome) == (200, 'HTTP 200: {"success":true,"result":[]}')
            stats = b.sender.stats()
            assert (stats.requests, stats.failures, stats.waiting) == (2, 0, 0)
    keys = [each.idempotency_key for each in crm.received]
    assert len(set(keys)) == 2
    assert crm.received[0].headers["User-Agent"].startswith("crmbridge/")
    assert logs == [
        {
            "event": "crm.confirmed",
            "log_level": "info",
            "linkedid": "c1",
            "extension": "777",
            "number": "033004799",
            "client_id": "10",
            "operation": operation,
            "attempts": 1,
            "ms": 0,
        }
        for operation in ("incomingCall", "incomingCallAnswered")
    ]


async def test_numbers_that_need_quoting_arrive_as_they_are(file: Path, crm: Receiver) -> None:
    async with bench(file, await crm.start() + "?token=a%2Fb") as b:
        await b.tell(replace(ring(), number="+972 3&x=\r\nדנה"))
        await b.settled(1)
    (target,) = crm.targets
    assert target == (
        "/webservice.php?token=a%2Fb&operation=incomingCall&sExt=777"
        "&sNumber=%2B972%203%26x%3D%0D%0A%D7%93%D7%A0%D7%94&ClientId=10"
    )


async def test_after_a_restart_what_waits_is_sent_in_order_with_the_same_key(file: Path, crm: Receiver) -> None:
    crm.default = Reply(status=500)
    url = await crm.start()
    async with bench(file, url) as b:
        await b.tell(ring("c1"), answer("c1"))
        await b.failed(1)
        key = crm.received[0].idempotency_key
    crm.default = Reply()
    clock = TestClock()
    await clock.turn(10)
    async with bench(file, url, clock) as b:
        b.sender.submit(await b.outbox.waiting())
        await b.settled(2)
    assert crm.targets == [RING_TARGET, RING_TARGET, ANSWER_TARGET]
    assert crm.received[1].idempotency_key == key


async def test_after_a_restart_what_is_too_old_is_listed_and_not_sent(file: Path, crm: Receiver) -> None:
    async with open_outbox(file) as outbox:
        await outbox.add([ring("c1"), answer("c1")])
    clock = TestClock()
    await clock.turn(61)
    with capture_logs() as logs:
        async with bench(file, await crm.start(), clock) as b:
            b.sender.submit(await b.outbox.waiting())
            await b.settled(2)
            assert (await b.outbox.counts())[State.EXPIRED] == 1
    assert crm.targets == [ANSWER_TARGET]
    assert [(each["event"], each["attempts"]) for each in logs] == [("crm.expired", 0), ("crm.confirmed", 1)]


BAD_ANSWERS = [
    (Reply(status=500, body=b"oops"), 500, "HTTP 500: oops"),
    (Reply(status=500), 500, "HTTP 500"),
    (Reply(status=429, headers={"Retry-After": "7"}), 429, "HTTP 429"),
    (Reply(status=503, body=b'{"success":false}'), 503, "HTTP 503"),
    (Reply(body=b"<html>Fatal error", headers={"Content-Type": "text/html"}), 200, "<html>Fatal error"),
    (Reply(status=302, headers={"Location": "https://elsewhere/x?y"}), 302, "to https://elsewhere/x: redirects"),
    (Reply(manner=Manner.ENDLESS), 200, "longer than 64 KiB"),
    (Reply(body=b" " * 70_000), 200, "longer than 64 KiB"),
    (Reply(body=gzip.compress(b" " * 10**7), headers={"Content-Encoding": "gzip"}), 200, "longer than 64 KiB"),
    (Reply(body=b"junk", headers={"Content-Encoding": "gzip"}), 200, "junk"),
    (Reply(manner=Manner.ABORT), None, "closed the connection without an answer"),
]


@pytest.mark.parametrize(("reply", "status", "words"), BAD_ANSWERS)
async def test_what_goes_wrong_is_named_and_tried_again(
    file: Path, crm: Receiver, reply: Reply, status: int | None, words: str
) -> None:
    crm.script(reply)
    async with bench(file, await crm.start()) as b:
        (delivery, _) = await b.tell(ring(), answer())
        await b.failed(1)
        (attempt,) = await b.outbox.attempts(delivery.id)
        assert attempt.status == status
        assert words in attempt.outcome
        assert len(crm.targets) == 1, "its answer waits for the ring"
        await b.clock.turn(10)
        await b.settled(2)
        assert (await b.outbox.counts())[State.CONFIRMED] == 2
    assert crm.targets == [RING_TARGET, RING_TARGET, ANSWER_TARGET]
    assert crm.received[0].idempotency_key == crm.received[1].idempotency_key


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b'{"success":false,"error":"no such client"}'),
        Reply(status=404, body=b"<html>no such client"),
        Reply(status=401, body=b"no such client"),
    ],
)
async def test_a_refusal_is_final_and_the_call_goes_on(file: Path, crm: Receiver, reply: Reply) -> None:
    crm.script(reply)
    with capture_logs() as logs:
        async with bench(file, await crm.start()) as b:
            await b.tell(ring(), answer())
            await b.settled(2)
            (listed,) = [each for each in await b.outbox.listing() if each.delivery.state is State.REFUSED]
            assert listed.last
            assert "no such client" in listed.last.outcome
    assert crm.targets == [RING_TARGET, ANSWER_TARGET]
    assert [(each["event"], each["log_level"]) for each in logs] == [
        ("crm.refused", "warning"),
        ("crm.confirmed", "info"),
    ]


async def test_a_compressed_answer_is_read_though_not_asked_for(file: Path, crm: Receiver) -> None:
    crm.default = Reply(body=gzip.compress(b'{"success":true}'), headers={"Content-Encoding": "gzip"})
    async with bench(file, await crm.start()) as b:
        await b.tell(ring())
        await b.settled(1)
        assert b.final[0][1] is State.CONFIRMED


async def test_a_crm_that_never_answers(file: Path, crm: Receiver) -> None:
    crm.script(Reply(manner=Manner.NEVER))
    async with bench(file, await crm.start(), timeout_s=0.3) as b:
        (delivery,) = await b.tell(ring())
        await b.failed(1)
        (attempt,) = await b.outbox.attempts(delivery.id)
        assert attempt.outcome == "no whole answer from 127.0.0.1 within 0.3 s (crm.timeout_s)"
        await b.clock.turn(1)
        await b.settled(1)
    assert crm.targets == [RING_TARGET, RING_TARGET]


async def reason_of(file: Path, url: str) -> str:
    """What an administrator reads after one failed request."""
    async with bench(file, url) as b:
        (delivery,) = await b.tell(ring())
        await b.failed(1)
        return (await b.outbox.attempts(delivery.id))[0].outcome


async def test_a_crm_that_is_not_there(file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        reason = await reason_of(file, f"http://user:geheim@127.0.0.1:{port}/")
    assert reason.startswith(f"cannot connect to 127.0.0.1:{port}: ")
    assert "geheim" not in reason


async def test_a_name_that_has_no_address(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    reason = await reason_of(file, "http://crm.example/")
    assert reason.startswith("no address found for crm.example: check crm.url and this host's DNS (")


async def test_a_name_server_that_is_silent_holds_up_nothing_else(
    file: Path, crm: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the threads that all parts share, nor a stop, which would wait for them."""
    asked, answers = threading.Semaphore(0), threading.Event()
    url = (await crm.start()).replace("127.0.0.1", "crm.example")
    getaddrinfo = socket.getaddrinfo

    def silent(host: str, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401 (getaddrinfo's)
        if host == "crm.example":
            asked.release()
            answers.wait(60)
        return getaddrinfo("127.0.0.1", *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    async with bench(file, url, timeout_s=600.0, stop_grace_s=0.1) as b:
        await b.tell(*(ring(f"c{n}", f"70{n}") for n in range(8)))
        assert await asyncio.to_thread(asked.acquire, timeout=20), "a shared thread is free"
        await b.stop()
        assert not answers.is_set()
        assert len(await b.outbox.waiting()) == 8
    answers.set()
    async with bench(file, url) as b:
        b.clock.wall = AT
        b.sender.submit(await b.outbox.waiting())
        await b.settled(8)
        assert {state for _, state in b.final} == {State.CONFIRMED}


async def test_a_name_that_can_be_none_is_no_address(file: Path) -> None:
    """As another bridge's settings may have it; getaddrinfo raises UnicodeError for it."""
    reason = await reason_of(file, f"http://{'a' * 64}.example/")
    assert reason.startswith("no address found for ")


@asynccontextmanager
async def answering(content: bytes) -> AsyncIterator[str]:
    """Something that answers with these bytes whatever it is asked."""

    async def answer_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer_it, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize(
    "content",
    [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200\xff OK\r\nA\x00: b\r\n\r\n", b"\0" * 99],
)
async def test_something_else_listens_there(file: Path, content: bytes) -> None:
    async with answering(content) as url:
        reason = await reason_of(file, url)
    assert reason.startswith("127.0.0.1 answers, but not with HTTP: ")
    assert reason.isprintable()


async def test_an_answer_that_breaks_off(file: Path) -> None:
    async with answering(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"success":true}') as url:
        assert await reason_of(file, url) == "127.0.0.1 closed the connection within its answer"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody trusts."""
    file = tmp_path_factory.mktemp("tls") / "crm.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=crm", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(file), "-out", str(file.with_suffix(".crt"))),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return file


async def test_a_certificate_that_is_not_trusted_and_one_that_is(file: Path, certificate: Path) -> None:
    public = certificate.with_suffix(".crt")
    serve = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serve.load_cert_chain(public, certificate)
    async with Receiver() as crm:
        url = await crm.start(ssl_context=serve)
        assert "TLS certificate that is not trusted" in await reason_of(file, url)
        assert crm.received == []
        trusting = ssl.create_default_context(cafile=str(public))
        async with bench(file, url, ssl_context=trusting) as b:
            await b.tell(ring("c2"))
            await b.settled(1)
            assert b.final[0][1] is State.CONFIRMED


async def test_cookies_and_redirects_change_nothing(file: Path, crm: Receiver) -> None:
    crm.script(Reply(headers={"Set-Cookie": "session=1"}), Reply(status=307, headers={"Location": "/moved"}))
    # By name: from a bare address no client would take a cookie.
    async with bench(file, (await crm.start()).replace("127.0.0.1", "localhost")) as b:
        await b.tell(ring("c1"))
        await b.settled(1)
        await b.tell(ring("c2"))
        await b.failed(1)
    assert crm.targets == [RING_TARGET, RING_TARGET]
    assert all("Cookie" not in each.headers for each in crm.received)


async def test_order_within_a_call_and_calls_side_by_side(file: Path, crm: Receiver) -> None:
    holds = [asyncio.Event() for _ in range(3)]
    crm.script(*(Reply(hold=hold) for hold in holds))
    async with bench(file, await crm.start(), concurrency=3) as b:
        await b.tell(*(event for n in range(5) for event in (ring(f"c{n}", f"70{n}"), answer(f"c{n}", f"70{n}"))))
        await crm.wait_for(3)
        assert b.sender.stats().under_way == 3
        assert {operation for _, operation in told(crm)} == {"incomingCall"}
        for hold in holds:
            hold.set()
        await b.settled(10)
    assert crm.most_at_once == 3
    for extension in ("700", "701", "702", "703", "704"):
        assert [op for ext, op in told(crm) if ext == extension] == ["incomingCall", "incomingCallAnswered"]


async def test_a_pause_holds_no_slot_and_no_other_call(file: Path, crm: Receiver) -> None:
    crm.script(Reply(status=500))
    async with bench(file, await crm.start(), concurrency=1) as b:
        await b.tell(ring("c1", "701"), answer("c1", "701"))
        await b.failed(1)
        await b.tell(ring("c2", "702"), answer("c2", "702"))
        await b.settled(2)
        assert told(crm)[1:] == [("702", "incomingCall"), ("702", "incomingCallAnswered")]
        await b.clock.turn(1)
        await b.settled(4)
    assert told(crm)[3:] == [("701", "incomingCall"), ("701", "incomingCallAnswered")]


async def test_pauses_grow_and_warnings_do_not_flood(file: Path, crm: Receiver) -> None:
    crm.default = Reply(status=500)
    with capture_logs() as logs:
        async with bench(file, await crm.start()) as b:
            (delivery,) = await b.tell(answer())
            for failures, pause in enumerate([0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0], start=1):
                await b.failed(failures)
                (waiting,) = await b.outbox.waiting()
                assert waiting.next_attempt_at == b.clock.wall + timedelta(seconds=pause)
                assert waiting.attempts == failures
                await b.clock.turn(pause)
            await b.failed(8)
            assert len(await b.outbox.attempts(delivery.id)) == 8
    assert [(each["event"], each["log_level"]) for each in logs] == [("crm.retrying", "warning")]


async def test_only_what_fails_while_others_get_through_pauses_for_long(file: Path, crm: Receiver) -> None:
    async with bench(file, await crm.start()) as b:
        crm.script(Reply(status=500))
        await b.tell(answer("bad", "701"))
        await b.failed(1)
        for failures, pause in enumerate([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0], start=1):
            await b.tell(ring(f"good{failures}", "702"))
            await b.settled(failures)
            crm.script(Reply(status=500))
            (waiting,) = await b.outbox.waiting()
            assert waiting.next_attempt_at == b.clock.wall + timedelta(seconds=pause)
            await b.clock.turn(pause)
            await b.failed(failures + 1)


async def test_retry_after_holds_back_everything(file: Path, crm: Receiver) -> None:
    crm.script(Reply(status=429, headers={"Retry-After": "20"}))
    async with bench(file, await crm.start()) as b:
        await b.tell(ring("c1"))
        await b.failed(1)
        await b.tell(ring("c2"))
        await b.clock.turn(19.9)
        assert b.sender.stats().crm_down
        assert len(crm.targets) == 1
        await b.clock.turn(0.1)
        await b.settled(2)
    assert len(crm.targets) == 3


async def test_while_the_crm_is_down_one_request_at_a_time_probes_it(file: Path, crm: Receiver) -> None:
    crm.default = Reply(status=503)
    with capture_logs() as logs:
        async with bench(file, await crm.start(), concurrency=5) as b:
            await b.tell(*(answer(f"c{n}", str(700 + n)) for n in range(30)))
            await b.failed(5)
            assert len(crm.targets) == 5
            for probes, pause in enumerate([0.5, 1, 2, 4, 5, 5], start=1):
                await b.clock.turn(pause)
                await b.failed(5 + probes)
                assert len(crm.targets) == 5 + probes
            assert b.sender.stats().crm_down
            assert b.sender.stats().oldest_s == 17.5
            crm.default = Reply()
            await b.clock.turn(5)
            await b.settled(30)
            assert (await b.outbox.counts())[State.CONFIRMED] == 30
    events = [each["event"] for each in logs if each["event"] != "crm.confirmed"]
    assert events == ["crm.retrying"] * 4 + ["crm.down", "crm.back"]
    assert {"reason": 'HTTP 503: {"success":true,"result":[]}', "waiting": 30}.items() <= logs[4].items()


async def test_when_the_crm_is_back_the_newest_ring_goes_first(file: Path, crm: Receiver) -> None:
    crm.default = Reply(status=503)
    async with bench(file, await crm.start(), concurrency=1) as b:
        await b.tell(*(answer(f"c{n}", str(700 + n)) for n in range(6)))
        for _ in range(5):
            await b.clock.turn(0)
        await b.failed(5)
        await b.tell(ring("new", "777"))
        crm.default = Reply()
        sent = len(crm.targets)
        await b.clock.turn(0.5)
        await b.settled(7)
    assert told(crm)[sent] == ("777", "incomingCall")


async def test_rings_expire_and_answers_wait_while_the_crm_is_down(file: Path, crm: Receiver) -> None:
    crm.default = Reply(manner=Manner.ABORT)
    with capture_logs() as logs:
        async with bench(file, await crm.start()) as b:
            rung, answered, other = await b.tell(ring("c1"), answer("c1"), ring("c2"))
            await b.failed(2)
            for seconds in (30, 29.9):
                failures = b.sender.stats().failures
                await b.clock.turn(seconds)
                await b.failed(failures + 1)
            assert b.final == []
            await b.clock.turn(0.2)
            await b.clock.until(lambda: len(b.final) == 2)
            assert sorted(b.final) == [(rung.id, State.EXPIRED), (other.id, State.EXPIRED)]
            crm.default = Reply()
            await b.clock.turn(600)
            await b.settled(3)
            assert b.final[2] == (answered.id, State.CONFIRMED)
            assert (await b.outbox.counts())[State.EXPIRED] == 2
    assert [each["log_level"] for each in logs if each["event"] == "crm.expired"] == ["warning"] * 2


async def test_a_request_under_way_when_its_time_is_up_decides_itself(file: Path, crm: Receiver) -> None:
    confirm, fail = asyncio.Event(), asyncio.Event()
    crm.script(Reply(hold=confirm))
    async with bench(file, await crm.start(), timeout_s=30.0) as b:
        (first,) = await b.tell(ring("c1"))
        await crm.wait_for(1)
        crm.script(Reply(status=500, hold=fail))
        (second,) = await b.tell(ring("c2"))
        await crm.wait_for(2)
        await b.clock.turn(61)
        confirm.set()
        await b.clock.until(lambda: len(b.final) == 1)
        fail.set()
        await b.settled(2)
        assert b.final == [(first.id, State.CONFIRMED), (second.id, State.EXPIRED)]
        assert len(await b.outbox.attempts(second.id)) == 1


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_set_by_an_hour_changes_neither_retries_nor_expiry(file: Path, crm: Receiver, hours: int) -> None:
    crm.default = Reply(status=500)
    async with bench(file, await crm.start()) as b:
        await b.tell(ring("c1"), answer("c1"))
        await b.failed(1)
        b.clock.wall += timedelta(hours=hours)
        for failures, pause in enumerate([0.5, 1, 2, 4, *[5] * 10], start=2):
            await b.clock.turn(pause)
            await b.failed(failures)
        assert b.final == []
        crm.default = Reply()
        await b.clock.turn(60 - 57.5 - 0.1)
        await b.clock.turn(0.1)
        await b.settled(2)
        assert b.final[0][1] is State.EXPIRED, "the ring, after a minute and not after an hour or at once"
        assert b.final[1][1] is State.CONFIRMED


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_clock_set_before_a_callback_is_queued_makes_it_neither_old_nor_new(
    file: Path, crm: Receiver, hours: int
) -> None:
    crm.default = Reply(status=500)
    async with bench(file, await crm.start()) as b:
        added = await b.outbox.add([replace(ring(), at=b.clock.wall), replace(answer(), at=b.clock.wall)])
        b.clock.wall += timedelta(hours=hours)
        b.sender.submit(added, 3.0)
        await b.failed(1)
        assert b.sender.stats().oldest_s == 3.0
        failures = 1
        for _ in range(11):  # to 55 s; no pause is longer than this
            await b.clock.turn(5)
            failures += 1
            await b.failed(failures)
        assert b.final == []
        crm.default = Reply()
        await b.clock.turn(2.1)
        await b.settled(2)
        assert [state for _, state in b.final] == [State.EXPIRED, State.CONFIRMED]


async def test_a_stop_finishes_what_is_under_way_and_leaves_the_rest_on_disk(file: Path, crm: Receiver) -> None:
    hold = asyncio.Event()
    crm.script(Reply(hold=hold))
    async with bench(file, await crm.start()) as b:
        (first, second) = await b.tell(ring(), answer())
        await crm.wait_for(1)
        b.sender.stop()
        await asyncio.sleep(0)
        assert not b.task.done()
        hold.set()
        await b.stop()
        assert b.final == [(first.id, State.CONFIRMED)]
        assert [each.id for each in await b.outbox.waiting()] == [second.id]
    assert crm.targets == [RING_TARGET]


async def test_a_stop_does_not_wait_for_ever(file: Path, crm: Receiver) -> None:
    crm.script(Reply(manner=Manner.NEVER), Reply(manner=Manner.NEVER))
    with capture_logs() as logs:
        async with bench(file, await crm.start(), timeout_s=600, stop_grace_s=0.1) as b:
            await b.tell(ring("c1"), ring("c2"), answer("c1"))
            await crm.wait_for(2)
            await b.stop()
            assert len(await b.outbox.waiting()) == 3
    assert [each["event"] for each in logs] == ["crm.stopped_with_requests_under_way"]


async def test_what_is_retried_and_dropped_by_hand(file: Path, crm: Receiver) -> None:
    crm.script(Reply(status=404), *[Reply(status=500)] * 4)
    async with bench(file, await crm.start()) as b, open_outbox(file, sole=False) as command:
        (refused,) = await b.tell(ring("c1", "701"))
        await b.settled(1)
        (failing,) = await b.tell(answer("c2", "702"))
        for failures, pause in enumerate([0.5, 1, 2], start=1):
            await b.failed(failures)
            await b.clock.turn(pause)
        await b.failed(4)
        (other,) = await b.tell(ring("c3", "703"))  # one that gets through, so that the next pause is a long one
        await b.settled(2)
        crm.script(Reply(status=500))
        await b.clock.turn(4)
        await b.failed(5)
        b.clock.wall += timedelta(hours=3)
        assert await command.retry(refused.id, b.clock.wall)
        assert await command.drop(failing.id, b.clock.wall)
        with capture_logs() as logs:
            await b.clock.turn(FOLLOW_OUTBOX_S)
            await b.settled(3)
        by_hand = [(line["event"], line["linkedid"]) for line in logs if line["event"] != "crm.confirmed"]
        assert sorted(by_hand) == [("crm.dropped", "c2"), ("crm.queued_again", "c1")]
        await b.clock.turn(600)
        assert b.final == [
            (refused.id, State.REFUSED),
            (other.id, State.CONFIRMED),
            (refused.id, State.CONFIRMED),
        ]
        assert b.sender.stats().waiting == 0
    assert [ext for ext, _ in told(crm)] == ["701", *["702"] * 4, "703", "702", "701"]


class Paper:
    """An outbox that stores when it is told to, and says what it said before."""

    def __init__(self, queued: list[Delivery] | None = None) -> None:
        self.queued = queued
        self.recorded: list[tuple[int, State]] = []
        self.asked, self.may_store, self.may_tell = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def record(self, delivery_id: int, _: Attempt, state: State, __: datetime | None = None) -> bool:
        self.asked.set()
        await self.may_store.wait()
        self.recorded.append((delivery_id, state))
        return True

    async def expire(self, ids: Sequence[int]) -> None:
        self.recorded += [(each, State.EXPIRED) for each in ids]

    async def changes(self) -> list[Delivery] | None:
        told, self.queued = self.queued, None
        if told is not None:
            await self.may_tell.wait()
        return told


def queued(number: int, event: CallEvent) -> Delivery:
    return Delivery(number, event, State.QUEUED, 0, None)


async def test_a_stop_that_loses_its_patience_keeps_what_the_crm_has_said(crm: Receiver) -> None:
    paper = Paper()
    sender = Sender(Settings(await crm.start(), stop_grace_s=0.0), paper, TestClock())
    sender.submit([queued(1, ring())])
    task = asyncio.create_task(sender.run())
    async with asyncio.timeout(20):
        await paper.asked.wait()
        with capture_logs() as logs:
            sender.stop()
            # A sender that does not wait for the storing has ended by then, with nothing stored.
            asyncio.get_running_loop().call_later(0.05, paper.may_store.set)
            await task
    assert paper.recorded == [(1, State.CONFIRMED)]
    assert [each["event"] for each in logs] == ["crm.confirmed"]


async def test_what_is_settled_while_the_outbox_is_read_is_not_sent_again(crm: Receiver) -> None:
    clock = TestClock()
    old, new = queued(1, ring("c1")), queued(2, ring("c2", "778"))
    paper = Paper(queued=[old, new])
    paper.may_store.set()
    hold = asyncio.Event()
    crm.script(Reply(hold=hold))
    sender = Sender(Settings(await crm.start()), paper, clock)
    sender.submit([old])
    task = asyncio.create_task(sender.run())
    async with asyncio.timeout(20):
        await crm.wait_for(1)
        await clock.turn(FOLLOW_OUTBOX_S)  # the outbox is read now, and says that the first is queued
        hold.set()
        await clock.until(lambda: len(paper.recorded) == 1 and sender.stats().waiting == 0)
        paper.may_tell.set()
        await clock.until(lambda: len(paper.recorded) >= 2 and sender.stats().waiting == 0)
        sender.stop()
        await task
    assert [each["sExt"] for each in crm.received] == ["777", "778"]


async def test_an_outbox_that_fails_ends_the_sender(crm: Receiver) -> None:
    class Failing:
        async def record(self, *_: object) -> bool:
            raise RuntimeError("a bug")

        async def expire(self, *_: object) -> None:
            raise RuntimeError("a bug")

        async def changes(self) -> None:
            return None

    sender = Sender(Settings(await crm.start()), Failing())
    sender.submit([Delivery(1, replace(ring(), at=datetime.now(UTC)), State.QUEUED, 0, None)])
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(20):
            await sender.run()
    assert caught.value.subgroup(RuntimeError)


async def test_whoever_is_told_of_outcomes_and_fails_ends_the_sender(file: Path, crm: Receiver) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    async with open_outbox(file) as outbox:
        sender = Sender(Settings(await crm.start()), outbox, on_outcome=fails)
        (one,) = await outbox.add([replace(ring(), at=datetime.now(UTC))])
        sender.submit([one])
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.timeout(20):
                await sender.run()
        assert caught.value.subgroup(RuntimeError)
        assert await outbox.waiting() == [], "what the CRM said is kept"


async def test_lines_about_the_crm_name_no_pbx_of_whoever_hands_in(file: Path, crm: Receiver) -> None:
    crm.script(Reply(status=503))
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        async with bench(file, await crm.start()) as b:
            with structlog.contextvars.bound_contextvars(pbx="branch"):
                await b.tell(ring())
            await b.failed(1)
            await b.clock.turn(10)
            await b.settled(1)
    assert {each["event"] for each in logs} >= {"crm.retrying", "crm.confirmed"}
    assert not [each for each in logs if "pbx" in each]


async def test_what_is_too_old_when_it_is_handed_in_is_not_sent(file: Path, crm: Receiver) -> None:
    async with bench(file, await crm.start()) as b:
        added = await b.outbox.add([ring("c1"), ring("c2")])
        b.sender.submit(added[:1], 61.0)
        b.sender.submit(added[1:], 59.0)
        await b.settled(2)
        assert sorted(b.final) == [(added[0].id, State.EXPIRED), (added[1].id, State.CONFIRMED)]
    assert len(crm.received) == 1


async def test_a_wrong_address_is_refused_at_once(file: Path) -> None:
    async with open_outbox(file) as outbox:
        with pytest.raises(ValueError, match=r"crm\.url must be a whole web address"):
            Sender(Settings("crm.example"), outbox)


async def test_the_clock_that_is_used_without_a_test() -> None:
    clock, wake = Clock(), asyncio.Event()
    await clock.wait(wake, clock.monotonic() - 1)
    await clock.wait(wake, clock.monotonic() + 0.01)
    assert not wake.is_set()
    wake.set()
    await clock.wait(wake, None)
    assert clock.now().tzinfo is UTC
    assert 0 <= clock.jitter() < 1
