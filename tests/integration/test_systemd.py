"""What systemd is told by the installed command, over a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.test_bridge import COMMAND, LIMIT_S, trace, write

from crmbridge.calls.events import Delivery
from crmbridge.crm.sender import Sender
from crmbridge.crm.sending import Settings
from crmbridge.demo.receiver import Receiver, Reply
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.pbx.ami import Address, Ami, Timing
from crmbridge.systemd import ServiceManager

READY_AT_ONCE = {"READY": "1", "STATUS": "AMI not connected, 0 calls, 0 waiting"}


class Listener:
    """The service manager's side of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def close(self) -> None:
        self._socket.close()

    async def heard(self) -> dict[str, str]:
        """The next message."""
        async with asyncio.timeout(LIMIT_S):
            raw = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        message = dict(line.partition("=")[::2] for line in raw.decode().splitlines())
        self.messages.append(message)
        return message

    async def until(self, name: str, value: str) -> None:
        """Hear messages until one says this."""
        while (await self.heard()).get(name) != value:
            pass

    async def count(self, name: str, times: int) -> None:
        while sum(name in message for message in self.messages) < times:
            await self.heard()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@crmbridge-test-{secrets.token_hex(8)}"
    listener = Listener(name)
    yield listener
    listener.close()


async def start(config: Path, listener: Listener, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        COMMAND,
        *("run", "--config", str(config)),
        env={**os.environ, "NOTIFY_SOCKET": listener.address, **environment},
        stderr=asyncio.subprocess.DEVNULL,
        stdin=asyncio.subprocess.DEVNULL,
    )


async def end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def test_ready_without_asterisk_then_its_state_and_then_that_it_stops(tmp_path: Path, listener: Listener) -> None:
    async with Receiver() as crm:
        pbx = SimulatedPbx(username="crmbridge", secret="s3cret")
        await pbx.start()
        await pbx.stop()
        config = write(tmp_path, ami_port=pbx.port, url=await crm.start())
        process = await start(config, listener)
        try:
            assert await listener.heard() == READY_AT_ONCE
            await pbx.start(port=pbx.port)
            await listener.until("STATUS", "AMI connected, 0 calls, 0 waiting")
            crm.default = Reply(status=500)
            call = trace("01_did_to_ext_answered")
            await pbx.play(call, speed=10)
            await listener.until("STATUS", "AMI connected, 0 calls, 2 waiting")
            process.terminate()
            await listener.until("STOPPING", "1")
            async with asyncio.timeout(LIMIT_S):
                assert await process.wait() == 0
        finally:
            await end(process)
            await pbx.stop()
    assert not any("WATCHDOG" in message for message in listener.messages), "nobody had asked for it"
    states = [message["STATUS"] for message in listener.messages if "STATUS" in message]
    assert all(one != two for one, two in pairwise(states)), "told only when it changes"


async def test_the_watchdog_hears_from_a_bridge_that_reaches_neither_asterisk_nor_crm(
    tmp_path: Path, listener: Listener
) -> None:
    config = write(tmp_path, ami_port=1, url="http://127.0.0.1:1/webservice.php")
    process = await start(config, listener, WATCHDOG_USEC="400000")
    try:
        assert await listener.heard() == {**READY_AT_ONCE, "WATCHDOG": "1"}
        await listener.count("WATCHDOG", 20)
    finally:
        await end(process)


async def test_a_part_that_hangs_keeps_the_watchdog_from_being_fed_and_is_named(listener: Listener) -> None:
    late = ["sender"]
    manager = ServiceManager(listener.address, watchdog_s=0.1)
    async with manager.kept_told(lambda: "one\nline", lambda: tuple(late)):
        assert await listener.heard() == {"READY": "1", "STATUS": "one line, hangs: sender"}
        late.clear()
        assert await listener.heard() == {"STATUS": "one line", "WATCHDOG": "1"}
        assert await listener.heard() == {"WATCHDOG": "1"}
    await listener.until("STOPPING", "1")


async def test_where_nothing_has_hung_nothing_is_said_to_go_on(listener: Listener) -> None:
    manager = ServiceManager(listener.address, watchdog_s=0.1)
    with capture_logs() as logs:
        async with manager.kept_told(lambda: "one", list):
            assert await listener.heard() == {"READY": "1", "STATUS": "one", "WATCHDOG": "1"}
            assert await listener.heard() == {"WATCHDOG": "1"}
    assert logs == []


async def test_what_the_manager_did_not_hear_is_told_again(tmp_path: Path) -> None:
    address = str(tmp_path / "late")
    manager = ServiceManager(address, watchdog_s=0.1)
    async with manager.kept_told(lambda: "state", tuple):
        await asyncio.sleep(0)  # the first attempt, to nobody
        listener = Listener(address)
        try:
            assert await listener.heard() == {"READY": "1", "STATUS": "state", "WATCHDOG": "1"}
        finally:
            listener.close()


class Rounds:
    """What a part says of itself."""

    def __init__(self) -> None:
        self.promises: list[float] = []
        self._said = asyncio.Event()

    def __call__(self, within_s: float) -> None:
        self.promises.append(within_s)
        self._said.set()

    async def more(self, times: int) -> None:
        """Wait until the part has spoken so many times more."""
        wanted = len(self.promises) + times
        async with asyncio.timeout(LIMIT_S):
            while len(self.promises) < wanted:
                self._said.clear()
                await self._said.wait()


async def test_the_ami_session_goes_round_whether_or_not_there_is_a_pbx() -> None:
    rounds = Rounds()
    pbx = SimulatedPbx(username="crmbridge", secret="s3cret")
    await pbx.start()
    ami = Ami(
        address=Address("127.0.0.1", pbx.port),
        username="crmbridge",
        secret="s3cret",
        wanted=[],
        on_frame=lambda frame, at: None,  # noqa: ARG005
        timing=Timing(ping_s=0.05, first_pause_s=0.01, longest_pause_s=0.01),
        alive=rounds,
    )
    task = asyncio.create_task(ami.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
        await rounds.more(5)
        assert ami.connected
        await pbx.stop()
        await rounds.more(5)
        assert not ami.connected
    finally:
        task.cancel()
        await asyncio.wait([task])
        await pbx.stop()


async def test_a_sender_whose_outbox_hangs_says_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crmbridge.crm.sender.FOLLOW_OUTBOX_S", 0.01)
    rounds, hangs, go_on = Rounds(), asyncio.Event(), asyncio.Event()

    class Outbox:
        asked = 0

        async def record(self, *of_attempt: object) -> bool:
            raise AssertionError(of_attempt)

        async def expire(self, delivery_ids: Sequence[int]) -> None:
            raise AssertionError(delivery_ids)

        async def changes(self) -> Sequence[Delivery] | None:
            self.asked += 1
            if self.asked == 4:
                hangs.set()
                await go_on.wait()
            return None

    sender = Sender(Settings("http://127.0.0.1:1/webservice.php"), Outbox(), alive=rounds)
    task = asyncio.create_task(sender.run())
    async with asyncio.timeout(LIMIT_S):
        await hangs.wait()
        for _ in range(10):
            await asyncio.sleep(0)  # what the last round has set going ends
        said = len(rounds.promises)
        assert said >= 3
        await asyncio.sleep(0.1)  # ten rounds' time
        assert len(rounds.promises) == said
        go_on.set()
        await rounds.more(2)
        sender.stop()
        await task
