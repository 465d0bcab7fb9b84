"""`make fuzz`: recorded frames, damaged at random, through the frame reader.

Every stream is read whole and in random pieces, and compared with a reading that is as plain as can be; what follows a
damaged frame's next empty line must be read right. A unit test does it with some thousand frames, this with a million.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Callable, Iterator

from crmbridge.demo.traces import shipped
from crmbridge.pbx.wire import LONGEST_FRAME, FrameReader

END = b"\r\n\r\n"
BATCH = 50
"""Damaged frames in one stream."""
TOKENS = (
    *(b"\0", b"\r", b"\n", b"\r\n", END, b":", b": ", b" ", b"\xff", b"\xd7", "ש".encode(), b"\xe2\x80", b"\x85"),
    *(b"Event: ", b"\r\nEvent: Hangup", b"Response: Success\r\n", b"\r\n: nameless", b"\r\nno colon", b"\r\n:\r\n"),
    b"\r\nUniqueid: again",
)
"""What is put in where it hurts."""

Damage = Callable[[random.Random, bytes], bytes]


def flip(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]


def insert(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.choice(TOKENS) + raw[at:]


def remove(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + raw[at + rng.randrange(1, 40) :]


def repeat(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + raw[at : at + 60] * rng.randrange(2, 5) + raw[at + 60 :]


def swell(rng: random.Random, raw: bytes) -> bytes:
    """Seldom, to a frame that is too long."""
    at = rng.randrange(len(raw))
    return raw[:at] + b"x" * (LONGEST_FRAME + 1 if rng.random() < 0.002 else 500) + raw[at:]


DAMAGES: tuple[Damage, ...] = (*[flip, insert, remove, repeat] * 5, swell)


def corpus() -> list[bytes]:
    """Every recorded frame once."""
    return sorted({frame for trace in shipped() for _, frame in trace.frames()})


def streams(frames: list[bytes], count: int, rng: random.Random) -> Iterator[bytes]:
    """So many damaged frames, some to a stream; each stream ends with a sound one."""
    for number in range(0, count, BATCH):
        damaged = []
        for frame in rng.choices(frames, k=min(BATCH, count - number)):
            raw = frame
            for _ in range(rng.choice((1, 1, 2, 5))):
                raw = rng.choice(DAMAGES)(rng, raw) or b"\r\n"
            damaged.append(raw)
        yield b"".join(damaged) + END + b"Event: Hangup\r\nUniqueid: %d.1\r\n\r\n" % number


def pieces(rng: random.Random, raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        size = rng.choice((1, 2, 3, 100, 1400, 16384))
        yield raw[at : at + size]
        at += size


def plainly(raw: bytes) -> list[dict[str, str]]:
    """What a stream holds, read without any care for speed or memory."""
    found = []
    for chunk in raw.split(END)[:-1]:
        try:
            text = chunk.decode()
        except UnicodeDecodeError:
            text = chunk.decode("latin-1")
        frame: dict[str, str] = {}
        for line in text.split("\r\n"):
            name, colon, value = line.partition(":")
            if colon and name not in frame:
                frame[name] = value[1:] if value[:1] == " " else value
        if frame and len(chunk) <= LONGEST_FRAME:
            found.append(frame)
    return found


def verify(raw: bytes, rng: random.Random) -> int:
    """Read a stream in all ways; how many frames it held. Raises AssertionError where one differs."""
    expected = plainly(raw)
    whole, cut = FrameReader(), FrameReader()
    frames = whole.feed(raw)
    assert [frame.get("Event") for frame in frames] == [frame.get("Event") for frame in expected]
    assert [dict(frame) for frame in frames] == expected
    read = [frame for piece in pieces(rng, raw) for frame in cut.feed(piece)]
    assert [dict(frame) for frame in read] == expected
    assert expected[-1].keys() == {"Event", "Uniqueid"}, "what follows the damage is read right"
    some = FrameReader({"Hangup"})
    assert all(frame.get("Event") == "Hangup" or "Response" in frame for frame in some.feed(raw))
    return len(expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    rng, frames, began, read = random.Random(seed), corpus(), time.monotonic(), 0
    peaks: list[int] = []
    for raw in streams(frames, asked.frames, rng):
        read += verify(raw, rng)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    took, grown = time.monotonic() - began, peaks[-1] - peaks[len(peaks) // 10]
    print(f"{asked.frames} damaged frames, {read} frames read, all alike, in {took:.0f} s; after the first tenth,")
    print(f"the process grew by {grown} kB at most")


if __name__ == "__main__":
    main()
