"""One connection to Asterisk's Manager Interface, from the greeting to its end. It is not made again from here.

The only module that knows panoramisk. Of it we use the actions (ActionIDs, waiting for an answer) and the protocol that
sends them. Ours are the reading of frames (`wire`: its own reader decodes each TCP read by itself and runs patterns on
every event) and the connection's life (its own sends unanswered actions again after a reconnect: a click would ring
minutes later; and retries a refused login for ever, silently). `tests/integration/test_ami.py` shows each of these.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog
from panoramisk.actions import Action as PanoramiskAction
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.message import Message

from crmbridge.pbx import filters
from crmbridge.pbx.actions import Action, checked
from crmbridge.pbx.pauses import Timing
from crmbridge.pbx.wire import Frame, FrameReader

log = structlog.get_logger("crmbridge.ami")

_GREETING = b"Asterisk Call Manager/"
_UNANSWERED = 3
"""So many pings in a row without an answer end a connection over which other things still come."""
_NOT_REFUSED = {
    "Asterisk is shutting down": "it is tried again",
    "Login Already In Use": "another session of this user is still open, and allowmultiplelogin is no in manager.conf",
}
"""Answers to a login that refuse nothing (main/manager.c, process_message), and what they mean."""


class LoginRefusedError(Exception):
    """Asterisk does not let us in. Trying again at once would only get the address banned (fail2ban)."""


class NotConnectedError(Exception):
    """There is no working connection to Asterisk; the action was not sent, and will not be."""


class ConnectionLostError(Exception):
    """The connection ended before the answer came. The action may have been carried out; it is not repeated."""


class ActionTimeoutError(Exception):
    """Asterisk did not answer an action in time. It may or may not have been carried out."""


PASSING = (OSError, TimeoutError, NotConnectedError, ConnectionLostError, ActionTimeoutError)
"""What a connection may fail with that may be over by itself (`explain` has words for each)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Asterisk answered to an action."""

    success: bool
    message: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Address:
    """Where Asterisk's manager listens."""

    host: str
    port: int
    tls: bool = False
    ca_file: Path | None = None
    """Whose certificates are believed in; None: whose the system believes in."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    async def connect(self, factory: Callable[[], Connection]) -> Connection:
        """Connect. Raises OSError, ssl.SSLError among them, and NotConnectedError. `ca_file` is read anew each time."""
        _, connection = await asyncio.get_running_loop().create_connection(
            factory, self.host, self.port, ssl=self.context() if self.tls else None
        )
        return connection

    def context(self) -> ssl.SSLContext:
        """How certificates are checked: against our authority, and for our name of the host.

        Raises NotConnectedError where the authority's file can't be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError:
            raise NotConnectedError(f"ami.ca_file {self.ca_file} holds no certificate (PEM)") from None
        except OSError as error:
            raise NotConnectedError(f"ami.ca_file {self.ca_file} can't be read: {error.strerror}") from None
        # What Asterisk's own ast_tls_cert makes lacks extensions that newer Pythons insist upon; who it is is checked.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


@asynccontextmanager
async def connected(
    address: Address,
    timing: Timing,
    *,
    wanted: Collection[str],
    on_frame: Callable[[Frame], None],
    on_bytes: Callable[[bytes], None] | None = None,
) -> AsyncIterator[Connection]:
    """A connection over which Asterisk has greeted us; `on_bytes` gets all as it comes.

    Raises OSError, TimeoutError and NotConnectedError.
    """
    reader = FrameReader(wanted)
    async with asyncio.timeout(timing.connect_s):
        connection = await address.connect(lambda: Connection(reader, timing, on_frame, on_bytes))
    try:
        try:
            async with asyncio.timeout(timing.connect_s):
                await connection.greeted
        except TimeoutError:
            raise NotConnectedError(_no_greeting("Asterisk says nothing", tls=address.tls)) from None
        except ConnectionLostError:
            raise NotConnectedError(_no_greeting("the connection was ended at once", tls=address.tls)) from None
        yield connection
    finally:
        connection.abort()
        await connection.lost()


async def log_in(connection: Connection, address: Address, username: str, secret: str) -> None:
    """Log in. Raises what `Connection.login` does; LoginRefusedError says what to look at."""
    try:
        await connection.login(username, secret, events=filters.CLASSES)
    except LoginRefusedError as error:
        raise LoginRefusedError(
            f"Asterisk at {address} refuses the AMI login ({error}): check ami.username and ami.secret"
            " in crmbridge's settings, and secret, deny and permit of that user in Asterisk's manager.conf"
            " (manager_custom.conf on FreePBX, manager.d/crmbridge.conf if you took our file)"
        ) from None


class Connection(AMIProtocol):  # type: ignore[misc]  # panoramisk has no types
    """Frames that answer an action of ours go to it; all others go to `on_frame`, in order."""

    def __init__(
        self,
        reader: FrameReader,
        timing: Timing,
        on_frame: Callable[[Frame], None],
        on_bytes: Callable[[bytes], None] | None = None,
    ) -> None:
        self._on_bytes = on_bytes
        self._reader = reader
        self._timing = timing
        self._on_frame = on_frame
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the other end has shown that it is an Asterisk. Fails with ConnectionLostError."""
        self._first = b""
        self._received = 0
        self.was_silent = False
        """It was given up because nothing came any more."""
        self.encoding = "utf-8"

    @property
    def version(self) -> str | None:
        return self._reader.version

    @version.setter
    def version(self, value: None) -> None:
        """panoramisk sets it to None when the connection is made; the frame reader knows it."""

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._on_bytes is not None:
            self._on_bytes(data)
        if not self.greeted.done():
            self._greet(data)
        for frame in self._reader.feed(data):
            if self.responses and frame.get("ActionID") in self.responses:
                self._answer(frame)
            else:
                self._on_frame(frame)

    def _greet(self, data: bytes) -> None:
        self._first += data
        if self._first.startswith(_GREETING):
            self.greeted.set_result(None)
        elif not _GREETING.startswith(self._first):
            self.abort()  # no Asterisk, or one that wants TLS

    def _answer(self, frame: Frame) -> None:
        try:
            self.handle_message(Message(dict(frame)))
        except Exception:
            # One answer that panoramisk can't take costs its action, which times out, and nothing else.
            log.exception("ami.answer_failed", linkedid=frame.get("Linkedid"), frame=dict(frame))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.closed = True
        for future in (self.greeted, *(action.future for action in self.responses.values())):
            if not future.done():
                future.set_exception(ConnectionLostError("the connection to Asterisk was lost"))
                future.exception()  # it may be that nobody waits any more
        self.responses.clear()
        if not self._lost.done():
            self._lost.set_result(None)

    async def lost(self) -> None:
        """Wait until the connection is gone."""
        await asyncio.shield(self._lost)

    def abort(self) -> None:
        """End the connection without waiting for the far side, which may not be there any more."""
        self.transport.abort()

    async def login(self, username: str, secret: str, *, events: str) -> None:
        """Log in, and ask for events of these classes.

        Raises LoginRefusedError, and what `send` does; NotConnectedError, too, for a login that may succeed later.
        """
        fields: Action = {"Action": "Login", "Username": username, "Events": events}
        challenge = await self.send({"Action": "Challenge", "AuthType": "MD5"})
        _raise_passing(challenge)
        if challenge.success and "Challenge" in challenge.headers:
            key = (challenge.headers["Challenge"] + secret).encode()
            fields |= {"AuthType": "MD5", "Key": hashlib.md5(key, usedforsecurity=False).hexdigest()}
        else:
            fields["Secret"] = secret  # a proxy in between may know only this
        answer = await self.send(fields)
        _raise_passing(answer)
        if not answer.success:
            raise LoginRefusedError(answer.message)

    async def keep_alive(self) -> None:
        """A connection that looks open may be dead: ask, and end it where nothing comes."""
        unanswered = 0
        while True:
            await asyncio.sleep(self._timing.ping_s)
            before = self._received
            try:
                await self.send({"Action": "Ping"}, timeout_s=self._timing.ping_s)
            except ActionTimeoutError:
                unanswered += 1
                if self._received == before or unanswered >= _UNANSWERED:
                    log.warning("ami.silent", hint="no answer to a ping; the connection is given up")
                    self.was_silent = True
                    self.abort()
                    return
            except (NotConnectedError, ConnectionLostError):
                return
            else:
                unanswered = 0

    async def send(self, fields: Action, *, timeout_s: float | None = None) -> Answer:
        """Send one action and wait for its answer, `Timing.action_s` if nothing else is said.

        Raises NotConnectedError, ConnectionLostError, ActionTimeoutError; ValueError for a value that could be read
        as a second header.
        """
        self._must_be_open(fields)
        limit_s = self._timing.action_s if timeout_s is None else timeout_s
        action = PanoramiskAction(dict(fields))
        future = cast("asyncio.Future[Any]", super().send(action, as_list=False))
        try:
            async with asyncio.timeout(limit_s):
                message = await future
        except TimeoutError:
            raise ActionTimeoutError(f"Asterisk did not answer {fields['Action']} within {limit_s:g} s") from None
        finally:
            self.responses.pop(action.id, None)
        return Answer(success=bool(message.success), message=str(message.message), headers=dict(message))

    def post(self, fields: Action) -> None:
        """Send one action whose answer comes as frames. Raises ValueError as `send` does."""
        self.transport.write(_encode(fields))

    def _must_be_open(self, fields: Action) -> None:
        _encode(fields)
        if self.transport.is_closing():
            raise NotConnectedError("the connection to Asterisk was lost")


def _no_greeting(told: str, *, tls: bool) -> str:
    if tls:
        return f"{told}: is ami.port that of Asterisk's manager?"
    return f"{told}: is ami.port that of Asterisk's manager, and does it want TLS there (ami.tls = true)?"


def _raise_passing(answer: Answer) -> None:
    for told, meaning in _NOT_REFUSED.items():
        if not answer.success and answer.message == told:
            raise NotConnectedError(f"Asterisk does not let us in at present ({told}): {meaning}")


def _encode(fields: Action) -> bytes:
    """An action as bytes. Raises ValueError where a value would be read as more than one header, or be cut."""
    lines = []
    for name, value in checked(fields).items():
        lines += [f"{name}: {item}\r\n" for item in (value if isinstance(value, list) else [value])]
    return "".join([*lines, "\r\n"]).encode()
