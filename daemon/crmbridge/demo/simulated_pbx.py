"""A PBX that isn't there: an AMI server on loopback that replays recorded calls.

It serves the demo, and tests of faults and of speed. What it sends was recorded from real Asterisks; only ids are made
anew for each play, so that a call can be played twice. What it knows of AMI itself is the little that the bridge asks:
login, ping, Originate, and the lists of channels, bridges and hints. It says nothing about how Asterisk behaves.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import time
from collections.abc import Callable, Mapping
from itertools import count

from crmbridge.demo.traces import Trace
from crmbridge.pbx.wire import Frame, FrameReader

_IDS = re.compile(rb"(?<=(?:niqueid|inkedid|niqueID|inkedID): )[^\r\n]+")
"""Values of Uniqueid, DestLinkedid, BridgeUniqueid, … in raw frames."""

_SNAPSHOT = (
    *("Channel", "ChannelState", "ChannelStateDesc", "CallerIDNum", "CallerIDName", "ConnectedLineNum"),
    *("ConnectedLineName", "AccountCode", "Context", "Exten", "Priority", "Uniqueid", "Linkedid"),
)
"""Headers of a channel in every event about it."""

_CHALLENGE = "161803398"
_END_OF_LIST = {
    "BridgeListItem": "BridgeListComplete",
    "CoreShowChannel": "CoreShowChannelsComplete",
    "ExtensionStatus": "ExtensionStateListComplete",
}
_COMMANDS = {
    "BridgeList": "Get a list of bridges in the system. (Priv: <none>)",
    "CoreShowChannels": "List currently active channels. (Priv: system,reporting,all)",
    "ExtensionStateList": "List the current known extension states. (Priv: call,reporting,all)",
    "Originate": "Originate a call. (Priv: originate,all)",
    "Ping": "Keepalive command. (Priv: <none>)",
}
"""Of what a real Asterisk lists for a user with `write = originate,reporting`, the part that we answer."""

Rewrite = Callable[[bytes], bytes]


class SimulatedPbx:
    """An AMI server for any number of clients; each gets every frame that is played while it is logged in."""

    def __init__(self, *, username: str, secret: str, click: Trace | None = None) -> None:
        """`click`: the recording that answers an Originate, as if it were that call."""
        self._username, self._secret = username, secret
        self._click = click
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._channels: dict[str, dict[str, str]] = {}
        self._ids = count(1)
        self._server: asyncio.Server | None = None
        self._logged_in = asyncio.Event()
        self.hints: list[Frame] = []
        """What ExtensionStateList lists: Exten, Context and Hint each."""
        self.core: dict[str, str] = {}
        """What CoreSettings says; unknown where it is empty."""
        self.originated: list[Frame] = []
        """Every Originate that was asked for."""
        self.port = 0

    async def start(self, *, port: int = 0, sock: socket.socket | None = None) -> None:
        """Listen on loopback, or on a socket that is bound already."""
        if sock is not None:
            self._server = await asyncio.start_server(self._serve, sock=sock)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and end all sessions and plays."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def logged_in(self) -> None:
        """Wait until a client has logged in."""
        await self._logged_in.wait()

    def cut(self) -> None:
        """Cut every session off, as a network does. `logged_in` waits for the next."""
        self._logged_in.clear()
        for writer in list(self._writers):
            writer.transport.abort()

    async def play(self, trace: Trace, *, speed: float = 1.0, prefix: str = "") -> str:
        """Play one recorded call in its own rhythm, `speed` times as fast; the prefix of the ids it got comes back.

        `prefix`: that of an earlier play which this one goes on with.
        """
        prefix = prefix or self._prefix()
        await self._play(trace, speed=speed, rewrite=lambda raw: _with_ids(raw, prefix))
        return prefix

    async def send(self, raw: bytes) -> None:
        """Send frames as they are. Those who ask for channels are told nothing of them."""
        for writer in list(self._writers):
            writer.write(raw)
            await writer.drain()

    def _prefix(self) -> str:
        return f"{time.time():.0f}.{next(self._ids)}-"

    async def _play(self, trace: Trace, *, speed: float, rewrite: Rewrite) -> None:
        reader = FrameReader()
        for wait_s, frame_as_recorded in trace.frames():
            await asyncio.sleep(wait_s / speed)
            raw = rewrite(frame_as_recorded)
            for frame in reader.feed(raw):
                self._follow(frame)
            for writer in self._writers:
                writer.write(raw)

    def _follow(self, frame: Frame) -> None:
        """Keep the list of channels that a client may ask for."""
        uniqueid = frame.get("Uniqueid", "")
        event = frame.get("Event")
        if event == "Newchannel":
            self._channels[uniqueid] = {name: frame[name] for name in _SNAPSHOT if name in frame}
        elif event == "Hangup":
            self._channels.pop(uniqueid, None)
        elif (channel := self._channels.get(uniqueid)) is not None:
            if event == "Newstate":
                channel["ChannelState"] = frame["ChannelState"]
            elif event in ("BridgeEnter", "BridgeLeave"):
                channel["BridgeId"] = frame["BridgeUniqueid"] if event == "BridgeEnter" else ""
        if event == "DialBegin" and (dialed := self._channels.get(frame.get("DestUniqueid", ""))) is not None:
            dialed["Application"] = "AppDial"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs a handler in a task
        self._handlers.add(task)
        try:
            writer.write(b"Asterisk Call Manager/11.0.0\r\n")
            while raw := await reader.readuntil(b"\r\n\r\n"):
                for action in FrameReader().feed(raw):
                    self._answer(action, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            self._handlers.discard(task)
            self._writers.discard(writer)
            writer.close()

    def _answer(self, action: Frame, writer: asyncio.StreamWriter) -> None:
        name = action.get("Action", "").lower()
        if name == "challenge":
            _send(writer, {"Response": "Success", "Challenge": _CHALLENGE}, action)
        elif name == "login":
            self._login(action, writer)
        elif writer not in self._writers:
            _send(writer, {"Response": "Error", "Message": "Permission denied"}, action)
        elif told := self._told(name):
            _send(writer, {"Response": "Success", **told}, action)
        elif name == "coreshowchannels":
            self._list(action, writer, "CoreShowChannel", [*self._channels.values()])
        elif name == "bridgelist":
            self._list(action, writer, "BridgeListItem", [])
        elif name == "extensionstatelist":
            self._list(action, writer, "ExtensionStatus", self.hints)
        elif name == "originate":
            self._originate(action, writer)
        else:
            _send(writer, {"Response": "Error", "Message": "Invalid/unknown command"}, action)

    def _told(self, name: str) -> Mapping[str, str]:
        """What an action is answered whose answer is a single frame; nothing for one that we don't know."""
        ping = {"Ping": "Pong", "Timestamp": f"{time.time():.6f}"}
        return {"ping": ping, "listcommands": _COMMANDS, "coresettings": self.core}.get(name, {})

    def _login(self, action: Frame, writer: asyncio.StreamWriter) -> None:
        key = hashlib.md5((_CHALLENGE + self._secret).encode(), usedforsecurity=False).hexdigest()
        is_right = action.get("Secret") == self._secret or action.get("Key") == key
        if action.get("Username") != self._username or not is_right:
            _send(writer, {"Response": "Error", "Message": "Authentication failed"}, action)
            writer.close()
            return
        _send(writer, {"Response": "Success", "Message": "Authentication accepted"}, action)
        _send(writer, {"Event": "FullyBooted", "Privilege": "system,all", "Status": "Fully Booted"}, {})
        self._writers.add(writer)
        self._logged_in.set()

    def _list(self, action: Frame, writer: asyncio.StreamWriter, item: str, items: list[Frame]) -> None:
        _send(writer, {"Response": "Success", "EventList": "start", "Message": "List will follow"}, action)
        for one in items:
            _send(writer, {"Event": item, **one}, action)
        _send(writer, {"Event": _END_OF_LIST[item], "EventList": "Complete", "ListItems": str(len(items))}, action)

    def _originate(self, action: Frame, writer: asyncio.StreamWriter) -> None:
        self.originated.append(action)
        _send(writer, {"Response": "Success", "Message": "Originate successfully queued"}, action)
        if self._click is None:
            return
        rewrite = _as_asked(self._click, action, prefix=self._prefix())
        task = asyncio.create_task(self._play(self._click, speed=1.0, rewrite=rewrite))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)


def _with_ids(raw: bytes, prefix: str, root: bytes = b"", root_becomes: bytes = b"") -> bytes:
    """Give all ids a prefix, but for `root`, which becomes another one."""

    def renamed(found: re.Match[bytes]) -> bytes:
        if found[0] == b"<unknown>":
            return found[0]
        return root_becomes if found[0] == root and root_becomes else prefix.encode() + found[0]

    return _IDS.sub(renamed, raw)


def _as_asked(recorded: Trace, action: Frame, *, prefix: str) -> Rewrite:
    """Make the recorded click (777 calls 0521111111) the one that was asked for."""
    extension = re.sub(r"^[^/]*/|@.*$", "", action.get("Channel", "")).encode()
    number, channel_id = action.get("Exten", "").encode(), action.get("ChannelId", "").encode()
    root = _IDS.search(recorded.raw)

    def rewrite(raw: bytes) -> bytes:
        raw = raw.replace(b"0521111111", number).replace(b"/777", b"/" + extension)
        return _with_ids(raw, prefix, root[0] if root else b"", channel_id)

    return rewrite


def _send(writer: asyncio.StreamWriter, headers: Mapping[str, str], action: Mapping[str, str]) -> None:
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    if "ActionID" in action:
        lines.insert(1, f"ActionID: {action['ActionID']}\r\n")
    writer.write("".join([*lines, "\r\n"]).encode())
