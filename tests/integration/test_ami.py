"""The AMI session over real sockets: what panoramisk's own connection gets wrong must go right here."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime

import pytest
import structlog

from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.pbx.ami import (
    ActionTimeoutError,
    Address,
    Ami,
    ConnectionLostError,
    LoginRefusedError,
    NotConnectedError,
    Timing,
)
from crmbridge.pbx.connection import Connection
from crmbridge.pbx.visit import visit
from crmbridge.pbx.wire import Frame

LIMIT_S = 10
QUICK = Timing(list_wait_s=0.5, first_pause_s=0.01, longest_pause_s=0.05, refused_pause_s=0.05)
"""For servers that list nothing, or that have to be reached often."""
BANNER = b"Asterisk Call Manager/11.0.0\r\n"
ACCEPTED = b"Response: Success\r\nActionID: %s\r\nMessage: Authentication accepted\r\n\r\nEvent: FullyBooted\r\n\r\n"

Actions = AsyncIterator[dict[bytes, bytes]]
Script = Callable[[Actions, asyncio.StreamWriter], Awaitable[None]]


class Events:
    """What the session hands on, with a way to wait for it."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._arrived = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, frame: Frame, at: datetime) -> None:
        assert at.tzinfo is not None
        if frame.get("Fail") == "yes":
            raise RuntimeError("a frame that nobody can digest")
        self.frames.append(frame)
        task = asyncio.ensure_future(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._arrived:
            self._arrived.notify_all()

    async def wait_for(self, name: str, times: int = 1) -> list[Frame]:
        async with self._arrived, asyncio.timeout(LIMIT_S):
            await self._arrived.wait_for(lambda: len(self.named(name)) >= times)
        return self.named(name)

    def named(self, name: str) -> list[Frame]:
        return [frame for frame in self.frames if frame.get("Event") == name]


async def _actions(reader: asyncio.StreamReader) -> Actions:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while raw := await reader.readuntil(b"\r\n\r\n"):
            yield dict(line.split(b": ", 1) for line in raw.strip().split(b"\r\n"))


@asynccontextmanager
async def asterisk(*scripts: Script) -> AsyncIterator[int]:
    """A server whose n-th connection follows the n-th script (the last one again and again); its port."""
    waiting = list(scripts)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writer.write(BANNER)
        script = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        try:
            await script(_actions(reader), writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def session(
    port: int, events: Events, *, secret: str = "s3cret", apart: Collection[str] = (), timing: Timing = QUICK
) -> AsyncIterator[Ami]:
    ami = Ami(
        address=Address("127.0.0.1", port),
        username="crmbridge",
        secret=secret,
        wanted=["Newchannel", "OriginateResponse", "CoreShowChannelsComplete"],
        on_frame=events.take,
        apart=apart,
        timing=timing,
    )
    task = asyncio.create_task(ami.run())
    try:
        yield ami
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def logged_in(actions: Actions, writer: asyncio.StreamWriter) -> None:
    async for action in actions:
        if action[b"Action"] == b"Challenge":
            writer.write(b"Response: Error\r\nActionID: %s\r\nMessage: No such thing\r\n\r\n" % action[b"ActionID"])
        if action[b"Action"] == b"Login":
            assert action[b"Secret"] == b"s3cret"
            writer.write(ACCEPTED % action[b"ActionID"])
        if action[b"Action"] == b"ListCommands":
            writer.write(b"Response: Success\r\nActionID: %s\r\nPing: (Priv: <none>)\r\n\r\n" % action[b"ActionID"])
            return


async def test_after_the_login_all_channels_are_asked_for(pbx: SimulatedPbx) -> None:
    events = Events()
    async with session(pbx.port, events) as ami:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
        assert ami.connected
        assert ami.version == "11.0.0"
        await events.wait_for("CoreShowChannelsComplete")
        assert (await ami.action({"Action": "Ping"})).success
        refused = await ami.action({"Action": "NoSuchAction"})
        assert (refused.success, refused.message) == (False, "Invalid/unknown command")


async def test_a_refused_login_is_an_error_that_names_what_to_mend(pbx: SimulatedPbx) -> None:
    with pytest.raises(LoginRefusedError, match=r"ami\.secret.*manager\.conf") as caught:
        async with asyncio.timeout(LIMIT_S), visit(Address("127.0.0.1", pbx.port), "u", "wrong"):
            pass
    assert "wrong" not in str(caught.value)


async def test_a_refused_login_is_tried_again_and_said_once_and_so_is_that_it_was_accepted() -> None:
    async def refuses(actions: Actions, writer: asyncio.StreamWriter) -> None:
        async for action in actions:
            writer.write(
                b"Response: Error\r\nActionID: %s\r\nMessage: Authentication failed\r\n\r\n" % action[b"ActionID"]
            )

    async def hold(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for _ in actions:
            pass

    with structlog.testing.capture_logs() as logs:
        async with asterisk(refuses, refuses, refuses, hold) as port, session(port, Events()) as ami:
            async with asyncio.timeout(LIMIT_S):
                await ami.ready()
    assert ami.counts.attempts == {"session": 1, "refused": 3, "unreachable": 0}
    errors = [line for line in logs if line["log_level"] == "error"]
    assert [line["event"] for line in errors] == ["ami.login_refused"]
    assert errors[0]["username"] == "crmbridge"
    assert "manager_custom.conf" in errors[0]["error"]
    assert "s3cret" not in str(logs)
    assert [line["times"] for line in logs if line["event"] == "ami.login_still_refused"] == [2, 3]
    assert [line["refused_before"] for line in logs if line["event"] == "ami.login_accepted"] == [3]


async def test_what_is_tried_every_few_seconds_is_complained_of_once() -> None:
    async def cuts(_actions: Actions, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def hold(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for _ in actions:
            pass

    with structlog.testing.capture_logs() as logs:
        async with asterisk(cuts, cuts, cuts, hold) as port, session(port, Events()) as ami, asyncio.timeout(LIMIT_S):
            await ami.ready()
    tries = [line["log_level"] for line in logs if line["event"] == "ami.unreachable"]
    assert tries == ["warning", "debug", "debug"]
    assert ami.counts.attempts == {"session": 1, "refused": 0, "unreachable": 3}


async def test_while_a_login_is_refused_the_session_says_why() -> None:
    refused = asyncio.Event()

    async def refuses(actions: Actions, writer: asyncio.StreamWriter) -> None:
        async for action in actions:
            writer.write(
                b"Response: Error\r\nActionID: %s\r\nMessage: Authentication failed\r\n\r\n" % action[b"ActionID"]
            )
        refused.set()

    async with asterisk(refuses) as port, session(port, Events(), timing=Timing()) as ami:
        async with asyncio.timeout(LIMIT_S):
            await refused.wait()
        assert not ami.connected
        assert "Authentication failed" in ami.trouble
        assert "every 15 minutes" in ami.trouble
        with pytest.raises(NotConnectedError):
            await ami.action({"Action": "Ping"})


@pytest.mark.parametrize("told", [b"Asterisk is shutting down", b"Login Already In Use"])
@pytest.mark.parametrize("answers", [b"Challenge", b"Login"])
async def test_a_login_that_comes_at_a_bad_moment_was_not_refused(told: bytes, answers: bytes) -> None:
    async def not_now(actions: Actions, writer: asyncio.StreamWriter) -> None:
        async for action in actions:
            assert answers == b"Login" or b"Secret" not in action
            is_it = action[b"Action"] == answers
            message = told if is_it else b"No such thing"
            writer.write(b"Response: Error\r\nActionID: %s\r\nMessage: %s\r\n\r\n" % (action[b"ActionID"], message))

    async def hold(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for _ in actions:
            pass

    soon = replace(QUICK, refused_pause_s=10 * LIMIT_S)
    async with asterisk(not_now, hold) as port, session(port, Events(), timing=soon) as ami:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x46"])
async def test_whoever_does_not_greet_as_asterisk_does_is_told_nothing(greeting: bytes) -> None:
    heard: list[bytes] = []
    visits = asyncio.Semaphore(0)

    async def somebody_else(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        with suppress(ConnectionError):
            heard.append(await reader.read())
        writer.close()
        visits.release()

    server = await asyncio.start_server(somebody_else, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with session(port, Events(), timing=replace(QUICK, connect_s=0.1)) as ami:
        async with asyncio.timeout(LIMIT_S):
            await visits.acquire()
            await visits.acquire()
        assert "ami.tls" in ami.trouble
    assert set(heard) == {b""}
    server.close()


async def test_the_secret_itself_is_not_sent_where_the_pbx_can_challenge() -> None:
    logins: list[dict[bytes, bytes]] = []

    async def challenges(actions: Actions, writer: asyncio.StreamWriter) -> None:
        async for action in actions:
            if action[b"Action"] == b"Challenge":
                writer.write(b"Response: Success\r\nActionID: %s\r\nChallenge: 42\r\n\r\n" % action[b"ActionID"])
            if action[b"Action"] == b"Login":
                logins.append(action)
                writer.write(ACCEPTED % action[b"ActionID"])
            if action[b"Action"] == b"ListCommands":
                writer.write(b"Response: Success\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])

    async with asterisk(challenges) as port, session(port, Events()) as ami:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
    (login,) = logins
    assert b"Secret" not in login
    assert login[b"AuthType"] == b"MD5"
    assert login[b"Key"] == hashlib.md5(b"42s3cret").hexdigest().encode()


async def test_a_lost_connection_comes_back_and_takes_the_channels_as_they_are(pbx: SimulatedPbx) -> None:
    events = Events()
    async with session(pbx.port, events):
        await events.wait_for("CoreShowChannelsComplete")
        for times in (2, 3):
            pbx.cut()
            await events.wait_for("CoreShowChannelsComplete", times=times)


async def test_the_list_of_channels_comes_before_what_happened_since_the_login() -> None:
    """Also where an event was on its way already: the list is newer than it, and what was known before is neither."""

    async def busy(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        writer.write(b"Event: Newchannel\r\nNo: 1\r\n\r\n")
        async for action in actions:
            if action[b"Action"] == b"CoreShowChannels":
                action_id = action[b"ActionID"]
                writer.write(b"Event: Newchannel\r\nNo: 2\r\n\r\n")
                writer.write(b"Event: CoreShowChannelsComplete\r\nActionID: %s\r\n\r\n" % action_id)
                writer.write(b"Event: Newchannel\r\nNo: 3\r\n\r\n")

    events = Events()
    async with asterisk(busy) as port, session(port, events):
        assert [one["No"] for one in await events.wait_for("Newchannel", times=3)] == ["1", "2", "3"]
        names = [frame["Event"] for frame in events.frames if frame["Event"] != "FullyBooted"]
        assert names == ["CoreShowChannelsComplete", "Newchannel", "Newchannel", "Newchannel"]


async def test_who_logs_on_to_a_phone_makes_us_ask_for_the_phones_anew() -> None:
    """FreePBX says so by a UserEvent; the channels are no others for it."""
    asked: list[tuple[bytes, bytes]] = []

    async def logs_on(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for action in actions:
            if b"List" not in action[b"Action"] and action[b"Action"] not in (b"DBGetTree", b"CoreShowChannels"):
                continue
            asked.append((action[b"Action"], action[b"ActionID"]))
            writer.write(b"Event: %sComplete\r\nActionID: %s\r\n\r\n" % asked[-1])
            if action[b"Action"] == b"CoreShowChannels":
                writer.write(b"Event: UserEvent\r\nUserEvent: Advert\r\n\r\n")
                writer.write(b"Event: UserEvent\r\nUserEvent: UserDeviceAdded\r\nData: 105\\,9105\r\n\r\n")
            elif len(asked) == 7:
                writer.write(b"Event: Newchannel\r\nUniqueid: 1.1\r\n\r\n")

    events = Events()
    async with asterisk(logs_on) as port, session(port, events):
        await events.wait_for("Newchannel")
    names = [name for name, _ in asked]
    phones = [b"ExtensionStateList", b"DBGetTree"]
    assert names == [*phones, b"DeviceStateList", b"BridgeList", b"CoreShowChannels", *phones]
    assert len({action_id for _, action_id in asked}) == 7, "no list must be taken for the rest of another"


async def test_without_a_list_of_channels_events_are_handed_on_all_the_same() -> None:
    async def refuses(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        writer.write(b"Event: Newchannel\r\nNo: 1\r\n\r\n")
        async for action in actions:
            writer.write(b"Response: Error\r\nActionID: %s\r\nMessage: Permission denied\r\n\r\n" % action[b"ActionID"])

    events = Events()
    async with asterisk(refuses) as port, session(port, events, timing=Timing()):
        assert [one["No"] for one in await events.wait_for("Newchannel")] == ["1"]


async def test_a_list_without_an_end_is_not_given_and_does_not_hold_the_session_up() -> None:
    """It is cut, or it goes on and on; a later one is taken."""

    async def endless(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        writer.write(b"Event: Newchannel\r\nNo: 1\r\n\r\n")
        sending: list[asyncio.Task[None]] = []
        async for action in actions:
            if action[b"Action"] == b"CoreShowChannels" and not sending:
                sending.append(asyncio.ensure_future(items(action[b"ActionID"], writer)))
            elif action[b"Action"] == b"CoreShowChannels":
                sending[0].cancel()
                writer.write(b"Event: CoreShowChannelsComplete\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])

    async def items(action_id: bytes, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"Event: CoreShowChannel\r\nActionID: %s\r\n\r\n" % action_id)
            await asyncio.sleep(0.005)

    events = Events()
    timing = replace(QUICK, list_wait_s=0.05, list_most_s=0.3)
    async with asterisk(endless) as port, session(port, events, timing=timing) as ami:
        assert [one["No"] for one in await events.wait_for("Newchannel")] == ["1"]
        assert not events.named("CoreShowChannel")
        ami.resync()
        await events.wait_for("CoreShowChannelsComplete")
        assert not events.named("CoreShowChannel")


async def test_a_resync_in_the_middle_holds_what_comes_before_its_list() -> None:
    async def busy(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        number = 0
        async for action in actions:
            if action[b"Action"] == b"CoreShowChannels":
                number += 1
                action_id = action[b"ActionID"]
                writer.write(b"Event: Newchannel\r\nNo: %d\r\n\r\n" % number)
                writer.write(b"Event: CoreShowChannelsComplete\r\nActionID: %s\r\n\r\n" % action_id)

    events = Events()
    async with asterisk(busy) as port, session(port, events) as ami:
        await events.wait_for("Newchannel")
        ami.resync()
        await events.wait_for("Newchannel", times=2)
        names = [frame.get("No", frame["Event"]) for frame in events.frames if frame["Event"] != "FullyBooted"]
        assert names == ["CoreShowChannelsComplete", "1", "CoreShowChannelsComplete", "2"]


async def test_who_lost_events_in_the_middle_of_a_batch_gets_the_rest_of_it_after_the_list() -> None:
    """The intake asks for a resync while it is handed frames that came in one piece with others."""

    async def sends(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        rounds = 0
        async for action in actions:
            if action[b"Action"] == b"CoreShowChannels":
                rounds += 1
                if rounds == 1:
                    for number in range(1, 6):
                        writer.write(b"Event: Newchannel\r\nNo: %d\r\n\r\n" % number)
                writer.write(b"Event: CoreShowChannelsComplete\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])

    class Overrun(Events):
        def take(self, frame: Frame, at: datetime) -> None:
            super().take(frame, at)
            if frame.get("No") == "2" and len(self.named("Newchannel")) == 2:
                ami.resync()

    events = Overrun()
    async with asterisk(sends) as port, session(port, events) as ami:
        await events.wait_for("Newchannel", times=5)
        names = [frame.get("No", frame["Event"]) for frame in events.frames if frame["Event"] != "FullyBooted"]
        assert names == ["CoreShowChannelsComplete", "1", "2", "CoreShowChannelsComplete", "3", "4", "5"]


async def test_a_reload_asks_for_the_phones_only_and_a_late_boot_for_everything() -> None:
    asked: list[bytes] = []

    async def reloads(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for action in actions:
            if b"List" not in action[b"Action"] and action[b"Action"] not in (b"DBGetTree", b"CoreShowChannels"):
                continue
            asked.append(action[b"Action"])
            writer.write(b"Event: %sComplete\r\nActionID: %s\r\n\r\n" % (action[b"Action"], action[b"ActionID"]))
            if len(asked) == 5:
                writer.write(b"Event: Reload\r\nModule: All\r\n\r\n")
            if len(asked) == 7:
                writer.write(b"Event: FullyBooted\r\n\r\n")

    events = Events()
    async with asterisk(reloads) as port, session(port, events):
        await events.wait_for("CoreShowChannelsComplete", times=2)
    phones = [b"ExtensionStateList", b"DBGetTree"]
    everything = [*phones, b"DeviceStateList", b"BridgeList", b"CoreShowChannels"]
    assert asked == [*everything, *phones, *everything]


async def test_a_call_record_waits_for_no_list() -> None:
    async def hangs(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        writer.write(b"Event: OriginateResponse\r\n\r\n")
        async for _ in actions:
            pass

    events = Events()
    timing = replace(QUICK, list_wait_s=10 * LIMIT_S)
    async with asterisk(hangs) as port, session(port, events, apart=["OriginateResponse"], timing=timing):
        await events.wait_for("OriginateResponse")


async def test_an_action_that_was_not_answered_fails_and_is_not_sent_again() -> None:
    seen: list[bytes] = []

    async def drops_after_originate(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for action in actions:
            seen.append(action[b"Action"])
            if action[b"Action"] == b"Originate":
                return

    async def answers(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for action in actions:
            seen.append(action[b"Action"])
            if action[b"Action"] == b"CoreShowChannels":
                writer.write(b"Event: CoreShowChannelsComplete\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])

    events = Events()
    async with asterisk(drops_after_originate, answers) as port, session(port, events) as ami:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
        with pytest.raises(ConnectionLostError):
            await ami.action({"Action": "Originate", "Channel": "PJSIP/777"})
        await events.wait_for("CoreShowChannelsComplete")
    assert seen.count(b"Originate") == 1


async def test_an_action_has_a_time_out_and_leaves_nothing_behind() -> None:
    async def deaf(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for _ in actions:
            pass

    async with asterisk(deaf) as port, session(port, Events()) as ami:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
        with pytest.raises(ActionTimeoutError, match="Originate"):
            await ami.action({"Action": "Originate"}, timeout_s=0.01)
        assert ami._connection is not None
        assert not ami._connection.responses


async def test_a_connection_that_only_looks_open_is_given_up() -> None:
    again = asyncio.Event()

    async def silent(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for _ in actions:
            pass

    async def second(actions: Actions, writer: asyncio.StreamWriter) -> None:
        again.set()
        await silent(actions, writer)

    async with asterisk(silent, second) as port, session(port, Events(), timing=replace(QUICK, ping_s=0.02)) as ami:
        async with asyncio.timeout(LIMIT_S):
            await again.wait()
    assert ami.counts.ends["silent"] >= 1
    assert ami.counts.ends["lost"] == 0


async def test_a_slow_answer_is_no_reason_to_give_up_a_connection_that_lives() -> None:
    """A ping's answer may stand behind a great many events."""
    pings = asyncio.Semaphore(0)
    connections = 0

    async def busy(actions: Actions, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await logged_in(actions, writer)
        unanswered = None
        async for action in actions:
            if action[b"Action"] == b"Ping":
                writer.write(b"Event: Newchannel\r\n\r\n")
                if unanswered:  # each second one is answered, much too late
                    writer.write(b"Response: Success\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])
                unanswered = None if unanswered else action[b"ActionID"]
                pings.release()

    async with asterisk(busy) as port, session(port, Events(), timing=replace(QUICK, ping_s=0.05)):
        async with asyncio.timeout(LIMIT_S):
            for _ in range(10):
                await pings.acquire()
    assert connections == 1


async def test_an_answer_that_cannot_be_taken_costs_its_action_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for action in actions:
            writer.write(b"Response: Success\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])

    async with asterisk(answers) as port, session(port, Events()) as ami:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
        taken = Connection.handle_message

        def cannot(self: Connection, message: object) -> None:
            del self, message
            raise RuntimeError("what panoramisk does with an answer that it did not expect")

        monkeypatch.setattr(Connection, "handle_message", cannot)
        with pytest.raises(ActionTimeoutError):
            await ami.action({"Action": "Ping"}, timeout_s=0.05)
        monkeypatch.setattr(Connection, "handle_message", taken)
        assert (await ami.action({"Action": "Ping"})).success


async def test_a_user_who_may_set_a_filter_does() -> None:
    filtered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def may_filter(actions: Actions, writer: asyncio.StreamWriter) -> None:
        async for action in actions:
            if action[b"Action"] == b"Challenge":
                writer.write(b"Response: Error\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])
            if action[b"Action"] == b"Login":
                assert action[b"Events"] == b"call,cdr,system,user"
                writer.write(ACCEPTED % action[b"ActionID"])
            if action[b"Action"] == b"ListCommands":
                writer.write(b"Response: Success\r\nActionID: %s\r\nFilter: x\r\n\r\n" % action[b"ActionID"])
            if action[b"Action"] == b"Filter":
                filtered.set_result(action[b"Filter"])
                writer.write(b"Response: Success\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])

    async with asterisk(may_filter) as port, session(port, Events()), asyncio.timeout(LIMIT_S):
        pattern = b"^Event: (FullyBooted|Newchannel|OriginateResponse|Reload|Shutdown|UserEvent)[[:cntrl:]]"
        assert await filtered == pattern


async def test_one_bad_frame_costs_itself_only() -> None:
    async def sends(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        writer.write(
            b"Event: Newchannel\r\nFail: yes\r\n\r\nnonsense\r\n\r\nEvent: Newchannel\r\nEvent: X\r\nNo: 1\r\n\r\n"
            b"Event: Newchannel\r\nNo: 2\r\nNo: 3\r\n\r\n"
        )
        async for _ in actions:
            pass

    events = Events()
    async with asterisk(sends) as port, session(port, events):
        assert [frame["No"] for frame in await events.wait_for("Newchannel", times=2)] == ["1", "2"]


async def test_an_event_with_the_id_of_an_answered_action_is_handed_on() -> None:
    async def originates(actions: Actions, writer: asyncio.StreamWriter) -> None:
        await logged_in(actions, writer)
        async for action in actions:
            if action[b"Action"] == b"Originate":
                writer.write(b"Response: Success\r\nActionID: %s\r\n\r\n" % action[b"ActionID"])
                writer.write(b"Event: OriginateResponse\r\nActionID: %s\r\nReason: 4\r\n\r\n" % action[b"ActionID"])

    events = Events()
    async with asterisk(originates) as port, session(port, events) as ami:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
        assert (await ami.action({"Action": "Originate"})).success
        assert (await events.wait_for("OriginateResponse"))[0]["Reason"] == "4"


async def test_it_ends_when_it_is_asked_to_while_the_connection_ends(pbx: SimulatedPbx) -> None:
    """At whatever step of the loss the cancellation comes."""
    for steps in range(12):
        events = Events()
        ami = Ami(
            address=Address("127.0.0.1", pbx.port),
            username="crmbridge",
            secret="s3cret",
            wanted=[],
            on_frame=events.take,
        )
        task = asyncio.create_task(ami.run())
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
            assert ami._connection is not None
            ami._connection.abort()
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled()


@pytest.mark.parametrize("value", ["1\r\nAction: Hangup", "1\nX: y", "1\r", "1\0", "9" * 2000])
async def test_no_value_can_become_a_second_header(pbx: SimulatedPbx, value: str) -> None:
    async with session(pbx.port, Events()) as ami:
        async with asyncio.timeout(LIMIT_S):
            await ami.ready()
        with pytest.raises(ValueError, match="Exten"):
            await ami.action({"Action": "Originate", "Exten": value})
        with pytest.raises(ValueError, match="Variable"):
            await ami.action({"Action": "Originate", "Variable": ["a=1", value]})
    assert pbx.originated == []


async def test_without_a_connection_an_action_fails_at_once() -> None:
    ami = Ami(address=Address("127.0.0.1", 1), username="u", secret="s", wanted=[], on_frame=Events().take)
    with pytest.raises(NotConnectedError):
        await ami.action({"Action": "Ping"})
