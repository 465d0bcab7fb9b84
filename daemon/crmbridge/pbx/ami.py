"""The connection to Asterisk's Manager Interface: always trying, never blocking, nothing sent twice.

The only module that knows panoramisk. Of it we use the actions (ActionIDs, collecting the answers of a list) and the
protocol that sends them. Ours are the reading of frames (`wire`: its own reader decodes each TCP read by itself and
runs patterns on every event) and the connection's life (its own sends unanswered actions again after a reconnect: a
click would ring minutes later; and retries a refused login for ever, silently). `tests/integration/test_ami.py` shows
each of these.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, cast

import structlog
from panoramisk.actions import Action as PanoramiskAction
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.message import Message

from crmbridge.pbx.actions import Action, checked
from crmbridge.pbx.wire import Frame, FrameReader

log = structlog.get_logger("crmbridge.ami")

_PHONES: tuple[Action, ...] = ({"Action": "ExtensionStateList"}, {"Action": "DBGetTree", "Family": "DEVICE"})
"""Hints, and FreePBX's devices; older Asterisks than 16.28 and 18.14 have no DBGetTree: there the hints do."""
_LISTS: tuple[Action, ...] = (*_PHONES, {"Action": "BridgeList"}, {"Action": "CoreShowChannels"})
_PHONES_CHANGED = frozenset({"UserDeviceAdded", "UserDeviceRemoved"})
"""Somebody has logged on to a phone or off: FreePBX has changed the hints, and says so by a UserEvent (its core's
agi-bin/user_login_out.agi); Asterisk itself says nothing."""
_LAST = "CoreShowChannelsComplete"
_OF_LIST = "resync-"
"""How the ActionIDs of these begin, and so those of all events that answer them."""

CONNECT_TIMEOUT_S = 10.0
ACTION_TIMEOUT_S = 10.0
PING_INTERVAL_S = 5.0
BOOT_WAIT_S = 2.0
"""How long `FullyBooted` may take after a login before we go on without it (it needs the user's `read = system`)."""
LIST_WAIT_S = 5.0
"""How long the list of all channels may take before we go on without it."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, STABLE_S = 0.5, 30.0, 60.0
"""Reconnecting: pauses double from the first to the longest, and begin anew only after a connection that held this
long, so that a PBX that ends every session at once is not hammered."""


class LoginRefusedError(Exception):
    """Asterisk does not let us in. Trying again at once would only get the address banned (fail2ban)."""


class NotConnectedError(Exception):
    """There is no working connection to Asterisk; the action was not sent, and will not be."""


class ConnectionLostError(Exception):
    """The connection ended before the answer came. The action may have been carried out; it is not repeated."""


class ActionTimeoutError(Exception):
    """Asterisk did not answer an action in time. It may or may not have been carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Asterisk answered to an action."""

    success: bool
    message: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Probe:
    """What one login showed."""

    version: str
    """AMI version."""
    fully_booted: bool
    """Asterisk said so; it does after each login once it has started, to users with `read = system`."""
    actions: frozenset[str]
    """The actions that the user may use."""


class _Protocol(AMIProtocol):  # type: ignore[misc]  # panoramisk has no types
    """One connection. Frames that answer an action of ours go to it; all others go to `on_frame`, in order."""

    def __init__(self, reader: FrameReader, on_frame: Callable[[Frame], None]) -> None:
        self._reader = reader
        self._on_frame = on_frame
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.encoding = "utf-8"

    @property
    def version(self) -> str | None:
        return self._reader.version

    @version.setter
    def version(self, value: None) -> None:
        """panoramisk sets it to None when the connection is made; the frame reader knows it."""

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            if frame.get("ActionID") in self.responses:
                self.handle_message(Message(dict(frame)))
            else:
                self._on_frame(frame)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.closed = True
        for action in self.responses.values():
            if not action.future.done():
                action.future.set_exception(ConnectionLostError("the connection to Asterisk was lost"))
                action.future.exception()  # it may be that nobody waits any more
        self.responses.clear()
        if not self._lost.done():
            self._lost.set_result(None)

    async def lost(self) -> None:
        """Wait until the connection is gone."""
        await asyncio.shield(self._lost)

    def abort(self) -> None:
        """End the connection without waiting for the far side, which may not be there any more."""
        self.transport.abort()


class Ami:
    """The AMI session of one PBX."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        username: str,
        secret: str,
        wanted: Collection[str],
        on_frame: Callable[[Frame, datetime], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`wanted`: the events to hand on. `on_frame` is called for each, in order, with the instant it was read.

        It must not block: Asterisk ends the session of a client that doesn't read.
        """
        self._host, self._port = host, port
        self._username, self._secret = username, secret
        self._wanted = frozenset(wanted) | {"FullyBooted", "Reload", "Shutdown", "UserEvent", _LAST}
        self._deliver = on_frame
        self._tls = tls
        self._protocol: _Protocol | None = None
        self._asked = count(1)
        self._booted = asyncio.Event()
        self._ready = asyncio.Event()
        self._held: list[tuple[Frame, datetime]] | None = []
        """Events since the login, as long as the list of channels has not come; None from then on."""

    @property
    def connected(self) -> bool:
        """Logged in, and actions can be sent."""
        return self._protocol is not None

    @property
    def version(self) -> str | None:
        """AMI version of the PBX as in its banner, None while not connected."""
        return self._protocol.version if self._protocol else None

    async def ready(self) -> None:
        """Wait until the session is up and a first look at all channels was asked for."""
        await self._ready.wait()

    async def run(self) -> None:
        """Hold the session until cancelled. Raises LoginRefusedError; every other trouble is tried again."""
        loop = asyncio.get_running_loop()
        pauses = _pauses()
        while True:
            began = loop.time()
            try:
                async with self._connection() as protocol:
                    await self._session(protocol)
                log.warning("ami.lost", host=self._host, port=self._port)
            except (OSError, TimeoutError, NotConnectedError, ConnectionLostError, ActionTimeoutError) as error:
                log.warning("ami.unreachable", host=self._host, port=self._port, error=explain(error))
            if loop.time() - began > STABLE_S:
                pauses = _pauses()
            pause = next(pauses)
            log.info("ami.retry", in_s=round(pause, 1))
            await asyncio.sleep(pause)

    async def probe(self) -> Probe:
        """Log in once and out again. Raises LoginRefusedError, OSError, and what `action` does."""
        async with self._connection() as protocol:
            await self._login(protocol)
            may = await self._send(protocol, {"Action": "ListCommands"}, timeout_s=ACTION_TIMEOUT_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(BOOT_WAIT_S):
                    await self._booted.wait()
            return Probe(protocol.version or "unknown", self._booted.is_set(), frozenset(may.headers))

    async def action(self, fields: Action, *, timeout_s: float = ACTION_TIMEOUT_S) -> Answer:
        """Send one action and wait for its answer. It is sent once, whatever happens.

        Raises NotConnectedError, ConnectionLostError, ActionTimeoutError, and ValueError for a value that could be
        read as a second header.
        """
        if self._protocol is None:
            raise NotConnectedError("not connected to Asterisk")
        return await self._send(self._protocol, fields, timeout_s=timeout_s)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Protocol]:
        reader = FrameReader(self._wanted)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, protocol = await asyncio.get_running_loop().create_connection(
                lambda: _Protocol(reader, self._on_frame), self._host, self._port, ssl=self._tls
            )
        try:
            yield protocol
        finally:
            self._protocol = None
            self._ready.clear()
            protocol.abort()
            await protocol.lost()

    async def _session(self, protocol: _Protocol) -> None:
        self._booted.clear()
        self._held = []
        await self._login(protocol)
        self._protocol = protocol
        log.info("ami.connected", host=self._host, port=self._port, ami_version=protocol.version)
        with suppress(TimeoutError):
            async with asyncio.timeout(BOOT_WAIT_S):
                await self._booted.wait()
        if not self._booted.is_set():
            log.warning("ami.no_fully_booted", hint="Asterisk still starts, or the AMI user lacks read = system")
        self.resync()
        patience = asyncio.get_running_loop().call_later(LIST_WAIT_S, self._release)
        self._ready.set()
        keeper = asyncio.create_task(self._keep_alive(protocol))
        try:
            await protocol.lost()
        finally:
            patience.cancel()
            keeper.cancel()
            # Not by awaiting it: that would swallow the cancellation of this task, should it come just then.
            await asyncio.wait([keeper])

    async def _login(self, protocol: _Protocol) -> None:
        fields: Action = {"Action": "Login", "Username": self._username, "Events": "on"}
        challenge = await self._send(protocol, {"Action": "Challenge", "AuthType": "MD5"}, timeout_s=CONNECT_TIMEOUT_S)
        if challenge.success and "Challenge" in challenge.headers:
            secret = (challenge.headers["Challenge"] + self._secret).encode()
            fields |= {"AuthType": "MD5", "Key": hashlib.md5(secret, usedforsecurity=False).hexdigest()}
        else:
            fields["Secret"] = self._secret  # a proxy in between may know only this
        answer = await self._send(protocol, fields, timeout_s=CONNECT_TIMEOUT_S)
        if not answer.success:
            raise LoginRefusedError(
                f"Asterisk at {self._host}:{self._port} refused the AMI login of user {self._username!r}"
                f" ({answer.message}): check ami.username and ami.secret here, and secret, deny and permit"
                " of that user in Asterisk's manager.conf (manager_custom.conf on FreePBX)"
            )

    def resync(self) -> None:
        """Ask for all phones, bridges and channels. The answers come as events, in order with all others."""
        self._ask_for(_LISTS)

    def _ask_for(self, lists: Iterable[Action]) -> None:
        if self._protocol is None:
            return
        for action in lists:
            # Another ActionID each time: what was cut off must not be taken for the beginning of the next list.
            action_id = f"{_OF_LIST}{next(self._asked)}-{action['Action']}"
            self._protocol.transport.write(_encode({**action, "ActionID": action_id}))

    async def _keep_alive(self, protocol: _Protocol) -> None:
        """A connection that looks open may be dead: ask, and end it where no answer comes."""
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            try:
                await self._send(protocol, {"Action": "Ping"}, timeout_s=PING_INTERVAL_S)
            except ActionTimeoutError:
                log.warning("ami.silent", hint="no answer to a ping; the connection is given up")
                protocol.abort()
                return
            except (NotConnectedError, ConnectionLostError):
                return

    async def _send(self, protocol: _Protocol, fields: Action, *, timeout_s: float) -> Answer:
        _encode(fields)
        if protocol.transport.is_closing():
            raise NotConnectedError("the connection to Asterisk was lost")
        action = PanoramiskAction(dict(fields))
        future = cast("asyncio.Future[Any]", protocol.send(action, as_list=False))
        try:
            async with asyncio.timeout(timeout_s):
                message = await future
        except TimeoutError:
            raise ActionTimeoutError(f"Asterisk did not answer {fields['Action']} within {timeout_s:g} s") from None
        finally:
            protocol.responses.pop(action.id, None)
        return Answer(success=bool(message.success), message=str(message.message), headers=dict(message))

    def _on_frame(self, frame: Frame) -> None:
        event = frame.get("Event")
        if event == "FullyBooted":
            self._booted.set()
            if self._ready.is_set():
                self.resync()  # it came late: when we first looked, there were no channels yet
        elif event == "Reload" and self._ready.is_set():
            log.info("ami.asterisk_reloaded", module=frame.get("Module"))
            self.resync()  # hints may be others now
        elif event == "UserEvent" and frame.get("UserEvent") in _PHONES_CHANGED:
            self._ask_for(_PHONES)
        elif event == "Shutdown":
            log.info("ami.asterisk_stops", restart=frame.get("Restart"))
        if event is not None:
            self._hand_on(frame, datetime.now(UTC))
        elif frame.get("Response") == "Error" and frame.get("ActionID", "").startswith(_OF_LIST):
            action = frame["ActionID"].rpartition("-")[2]
            if action != "DBGetTree":  # an old Asterisk has none, and not every PBX is a FreePBX
                log.warning("ami.list_refused", action=action, reason=frame.get("Message"))

    def _hand_on(self, frame: Frame, at: datetime) -> None:
        """After a login the list of all channels comes first, then what happened since: the list is newer than that."""
        if self._held is None or frame.get("ActionID", "").startswith(_OF_LIST):
            self._give(frame, at)
            if frame.get("Event") == _LAST:
                self._release()
        else:
            self._held.append((frame, at))

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for frame, at in held:
            self._give(frame, at)

    def _give(self, frame: Frame, at: datetime) -> None:
        try:
            self._deliver(frame, at)
        except Exception:
            # One event that can't be taken must not end the connection, nor take those behind it along.
            log.exception("ami.frame_failed", event_name=frame.get("Event"), frame=frame)


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_S
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311  # spreads reconnects, keeps no secret
        pause = min(pause * 2, LONGEST_PAUSE_S)


def explain(error: BaseException) -> str:
    """What a connection error means, and where to look."""
    if isinstance(error, TimeoutError):
        return "no answer: does Asterisk run there, and does a firewall let us through?"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: does Asterisk run, with enabled = yes and this port in manager.conf?"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error}): check ami.tls, ami.ca_file and Asterisk's tlscertfile"
    return str(error) or type(error).__name__


def _encode(fields: Action) -> bytes:
    """An action as bytes. Raises ValueError where a value would be read as more than one header, or be cut."""
    lines = []
    for name, value in checked(fields).items():
        lines += [f"{name}: {item}\r\n" for item in (value if isinstance(value, list) else [value])]
    return "".join([*lines, "\r\n"]).encode()
