"""Frames out of bytes: however they are cut, whatever stands in them."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.frames import corpus, streams, verify

from crmbridge.pbx import wire
from crmbridge.pbx.wire import LONGEST_FRAME, Frame, FrameReader

STREAM = (
    "Asterisk Call Manager/11.0.0\r\n"
    "Response: Success\r\nActionID: 1\r\nMessage: Authentication accepted\r\n\r\n"
    "Event: Newchannel\r\nChannel: PJSIP/777-1\r\nCallerIDName: משה כהן\r\nAccountCode: \r\n\r\n"
    "\r\n"  # Asterisk 22 sends one empty line too many after some events
    "Event: VarSet\r\nVariable: X\r\nValue: a: b\r\n\r\n"
    "Event: Hangup\r\nCause-txt: Normal Clearing\r\n\r\n"
).encode()


def whole() -> list[Frame]:
    return FrameReader().feed(STREAM)


def test_frames_and_version() -> None:
    reader = FrameReader()
    response, newchannel, varset, hangup = reader.feed(STREAM)
    assert reader.version == "11.0.0"
    assert response["Message"] == "Authentication accepted"
    assert newchannel == {
        "Event": "Newchannel",
        "Channel": "PJSIP/777-1",
        "CallerIDName": "משה כהן",
        "AccountCode": "",
    }
    assert varset["Value"] == "a: b"
    assert hangup["Cause-txt"] == "Normal Clearing"


def test_only_wanted_events_are_parsed_but_every_response() -> None:
    reader = FrameReader({"Hangup", "Newchannel"})
    assert [frame.get("Event", "response") for frame in reader.feed(STREAM)] == ["response", "Newchannel", "Hangup"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_the_same_in_pieces_of_any_size(size: int) -> None:
    """A Hebrew letter is two bytes: it is cut in half here."""
    reader = FrameReader()
    pieces = [STREAM[i : i + size] for i in range(0, len(STREAM), size)]
    assert [frame for piece in pieces for frame in reader.feed(piece)] == whole()


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = FrameReader()
    frames = [f for begin, end in pairwise(edges) for f in reader.feed(STREAM[begin:end])]
    assert frames == whole()


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_nothing_makes_it_raise(pieces: list[bytes]) -> None:
    reader = FrameReader()
    for piece in pieces:
        reader.feed(piece)


@given(st.data())
def test_a_frame_after_any_garbage_is_read(data: st.DataObject) -> None:
    garbage = data.draw(st.binary(max_size=300))
    frames = FrameReader().feed(garbage + b"\r\n\r\nEvent: Hangup\r\nUniqueid: 1.1\r\n\r\n")
    assert frames[-1] == {"Event": "Hangup", "Uniqueid": "1.1"}


def test_a_name_that_is_not_utf8_is_read_in_the_fallback() -> None:
    raw = "Event: Newchannel\r\nCallerIDName: Müller\r\n\r\n"
    assert FrameReader().feed(raw.encode("latin-1"))[0]["CallerIDName"] == "Müller"
    hebrew = raw.replace("Müller", "משה").encode("iso-8859-8")
    assert FrameReader(fallback_encoding="iso-8859-8").feed(hebrew)[0]["CallerIDName"] == "משה"


def test_of_a_repeated_header_the_first_stands() -> None:
    (frame,) = FrameReader().feed(b"Event: Newchannel\r\nUniqueid: 1.1\r\nEvent: Hangup\r\nUniqueid: 2.2\r\n\r\n")
    assert frame == {"Event": "Newchannel", "Uniqueid": "1.1"}


def test_a_frame_without_end_is_dropped_in_bounded_memory_and_the_next_is_read() -> None:
    reader = FrameReader()
    endless = b"Event: Newchannel\r\nCallerIDName: " + b"x" * 1000
    for _ in range(3 * LONGEST_FRAME // len(endless)):
        assert reader.feed(endless) == []
        assert len(reader._rest) <= LONGEST_FRAME + len(endless)
    assert reader.feed(b"x\r\n\r\nEvent: Hangup\r\n\r\n") == [{"Event": "Hangup"}]
    assert reader.overlong == 1


@pytest.mark.parametrize("cut", range(1, 5))
def test_the_end_of_an_overlong_frame_may_itself_be_cut(cut: int) -> None:
    reader = FrameReader()
    end = b"\r\n\r\n"
    reader.feed(b"y" * (LONGEST_FRAME + 1) + end[:cut])
    assert reader.feed(end[cut:] + b"Event: Hangup\r\n\r\n") == [{"Event": "Hangup"}]


def test_an_overlong_frame_that_comes_whole_is_dropped() -> None:
    reader = FrameReader()
    raw = b"Event: Newchannel\r\nCallerIDName: " + b"x" * LONGEST_FRAME + b"\r\n\r\nEvent: Hangup\r\n\r\n"
    assert reader.feed(raw) == [{"Event": "Hangup"}]
    assert reader.overlong == 1


def test_a_frame_that_is_just_not_too_long_is_read_wherever_it_is_cut() -> None:
    frame = b"Event: Hangup\r\nX: ".ljust(LONGEST_FRAME, b"x")
    for cut in range(5):
        reader = FrameReader()
        assert reader.feed(frame + b"\r\n\r\n"[:cut]) == (
            [{"Event": "Hangup", "X": "x" * (LONGEST_FRAME - 18)}] * (cut == 4)
        )
        assert len(reader.feed(b"\r\n\r\n"[cut:])) == (cut != 4)
        assert reader.overlong == 0


@contextmanager
def keeping_at_most(most: int) -> Iterator[None]:
    """What is done within may keep so many bytes."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        yield
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before <= most


ODD = {
    "a line without end": b"Event: Newchannel\r\nCallerIDName: " + b"x" * 10_000_000,
    "lines without end": b"Event: Newchannel\r\n" + b"X: y\r\n" * 1_500_000,
    "line feeds only": b"Event: Newchannel\n\n" * 500_000,
    "carriage returns only": b"\r" * 10_000_000,
    "NULs": b"\0" * 10_000_000,
    "half a letter": "ש".encode()[:1] * 10_000_000,
}


@pytest.mark.parametrize("name", ODD)
def test_ten_megabytes_without_an_end_keep_no_memory_and_what_follows_is_read(name: str) -> None:
    raw = ODD[name]
    reader = FrameReader()
    with keeping_at_most(10_000):
        for at in range(0, len(raw), 1 << 16):
            assert reader.feed(raw[at : at + (1 << 16)]) == []
        assert [dict(frame) for frame in reader.feed(b"\r\n\r\nEvent: Hangup\r\nX: 1\r\n\r\n")] == [
            {"Event": "Hangup", "X": "1"}
        ]
    assert reader.overlong == 1


def test_ten_megabytes_at_once_keep_no_memory() -> None:
    raw = ODD["a line without end"] + b"\r\n\r\nEvent: Hangup\r\n\r\n"
    reader = FrameReader()
    with keeping_at_most(10_000):
        assert len(reader.feed(raw)) == 1


def test_names_that_the_pbx_makes_up_do_not_pile_up() -> None:
    before = len(wire._NEEDLES)
    for number in range(100):
        (frame,) = FrameReader().feed(b"Event: UserEvent\r\nName%d: x\r\n: nameless\r\n\r\n" % number)
        assert dict(frame) == {"Event": "UserEvent", f"Name{number}": "x", "": "nameless"}
        assert str(frame) == str(dict(frame))
        assert frame["Event"] == "UserEvent"
    assert len(wire._NEEDLES) <= before + 1


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (b"X: a\rb\nc", {"X": "a\rb\nc"}),
        (b"X: a\0b", {"X": "a\0b"}),
        (b"X", {}),
        (b"X\r\nY: 1", {"Y": "1"}),
        (b": 1", {"": "1"}),
        (b"X:", {"X": ""}),
        (b"X: ", {"X": ""}),
        (b"X:  a ", {"X": " a "}),
        (b"X:1\r\nX: 2", {"X": "1"}),
        (b"X: caf\xe9", {"X": "café"}),
        ("X: דנה".encode()[:-1], {"X": "×\x93× \xd7".replace(" ", "\xa0")}),
        (b"X: a\r\n", {"X": "a"}),
    ],
)
def test_odd_lines(raw: bytes, headers: dict[str, str]) -> None:
    frames = [dict(frame) for frame in FrameReader().feed(b"Event: A\r\n" + raw + b"\r\n\r\nEvent: B\r\n\r\n")]
    assert frames == [{"Event": "A", **headers}, {"Event": "B"}]


def test_damaged_frames_are_read_alike_whole_and_in_pieces() -> None:
    """`make fuzz` does it with a million."""
    rng = random.Random(20261123)
    read = sum(verify(raw, rng) for raw in streams(corpus()[::50], 5_000, rng))
    assert read > 5_000
