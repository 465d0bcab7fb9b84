"""The judge of recorded calls must itself be right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crmbridge.demo.traces import Told, Trace

RING_777: Told = ("incomingCall", "777", "033004799")
TALK_777: Told = ("incomingCallAnswered", "777", "033004799")
RING_778: Told = ("incomingCall", "778", "033004799")


def trace() -> Trace:
    return Trace(
        name="x",
        scenario="",
        asterisk="22",
        raw=b"Asterisk Call Manager/11.0.0\r\nResponse: Success\r\n\r\nEvent: FullyBooted\r\n\r\n"
        b"Event: A\r\n\r\nEvent: B\r\n\r\n\r\n\r\nEvent: C\r\n\r\n",
        timing=(),
        expected=(RING_777, RING_778, TALK_777),
        optional=(),
        inbound_contexts=(),
        trunks=(),
        extensions="",
        endpoints={},
    )


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ([RING_777, RING_778, TALK_777], True),
        ([RING_778, RING_777, TALK_777], True),  # phones that ring together may be told in any order
        ([TALK_777, RING_777, RING_778], False),
        ([RING_777, TALK_777], False),
        ([RING_777, RING_777, RING_778, TALK_777], False),
        ([], False),
    ],
)
def test_right(told: list[Told], right: bool) -> None:  # a table's column
    assert trace().right(told) is right


def test_what_is_optional_may_be_told_once() -> None:
    lenient = replace(trace(), expected=(RING_777,), optional=(RING_778,))
    assert lenient.right([RING_777])
    assert lenient.right([RING_778, RING_777])
    assert not lenient.right([RING_777, RING_778, RING_778])


def test_frames_come_without_the_login_and_with_their_own_pauses() -> None:
    raw = trace().raw
    b, c = raw.index(b"Event: B"), raw.index(b"Event: C")
    timed = replace(trace(), timing=((0, 0.0), (b - 3, 1.0), (c, 4.0)))  # the chunk at 1.0 begins inside the end of A
    assert timed.frames() == [
        (0.0, b"Event: A\r\n\r\n"),
        (0.0, b"Event: B\r\n\r\n"),
        (3.0, b"Event: C\r\n\r\n"),
    ]
    assert [frame for _, frame in trace().frames()] == [frame for _, frame in timed.frames()]
