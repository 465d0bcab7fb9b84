"""What really happened: calls as an AMI session of the harness's own saw them, which no fault touches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter

from tests.asterisk.faults.judge import Call
from tests.asterisk.lab.ami import Ami, Frame


def calls_of(ami: Ami, began: float, until: float | None = None) -> list[Call]:
    """Each call with when its phone rang and talked, from all events of a session, in seconds since `began`.

    `until`: when the session ended; what went on then ended with it.
    """
    calls: dict[str, Call] = {}
    closed: set[int] = set()
    for at, frame in _timed(ami):
        _take(calls, closed, frame, at + ami.began - began)
    if until is not None:
        for call in calls.values():
            _end(call, until - began, closed)
    return list(calls.values())


def _take(calls: dict[str, Call], closed: set[int], frame: Frame, when: float) -> None:
    event, linkedid, channel = frame.get("Event"), frame.get("Linkedid", ""), frame.get("Channel", "")
    if event in ("Newchannel", "CoreShowChannel") and frame["Uniqueid"] == linkedid:
        calls.setdefault(linkedid, Call(frame["CallerIDNum"]))
    call = calls.get(linkedid)
    if call is None:
        return
    if event == "CoreShowChannel":
        _take_up(call, frame, when)
    elif event == "Newstate" and frame["ChannelState"] == "5":
        call.ringing = (when, when)
    elif event == "DialEnd" and call.ringing:
        call.ringing = (call.ringing[0], when)
    elif event == "BridgeEnter" and frame["BridgeNumChannels"] == "2":
        call.talking = (when, when)
    elif event == "HangupRequest" and channel.startswith("PJSIP/trunk"):
        _end(call, when, closed)


def _take_up(call: Call, frame: Frame, when: float) -> None:
    """A channel that was there when we came: for all we know, it does since now what it does."""
    if frame["ChannelState"] == "5" and not call.ringing:
        call.ringing = (when, when)
    elif frame["BridgeId"] and not call.talking:
        call.ringing = call.ringing or (when, when)
        call.talking = (when, when)


def _end(call: Call, when: float, closed: set[int]) -> None:
    """What goes on of a call ends now; only once."""
    if id(call) in closed:
        return
    closed.add(id(call))
    if call.talking:
        call.talking = (call.talking[0], when)
    elif call.ringing and call.ringing[0] == call.ringing[1]:
        call.ringing = (call.ringing[0], when)


def _timed(ami: Ami) -> Iterator[tuple[float, Frame]]:
    offset = 0
    for raw in bytes(ami.raw).split(b"\r\n\r\n")[:-1]:
        offset += len(raw) + 4
        at = ami.timing[bisect_right(ami.timing, offset - 1, key=itemgetter(0)) - 1][1]
        lines = raw.decode(errors="replace").split("\r\n")
        yield at, {name: value for name, _, value in (line.partition(": ") for line in lines)}
