"""A PBX's busy hour, made of recorded calls: what Asterisk 16 and 22 said of each, byte by byte (`recorded/`).

Only two things of a call are made anew, so that it can be had any number of times: its ids, and its caller's number.
"""

from __future__ import annotations

import random
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

RECORDED = Path(__file__).parent / "recorded"
VERSIONS = ("16", "22")

Reads = Literal["all", "shipped"]
"""What the AMI user hears: `read = all`, or what the files in `asterisk-conf/` give ours."""

WEIGHTS = {
    "did_answered": 10,
    "caller_gives_up": 4,
    "no_answer_voicemail": 2,
    "busy": 1,
    "ring_group": 10,
    "ivr_then_group": 5,
    "queue_direct_members": 10,
    "queue_local_members": 10,
    "queue_in_turn": 5,
    "queue_abandoned": 2,
    "blind_by_refer": 2,
    "attended_by_refer": 2,
    "outbound": 8,
    "internal": 4,
    "freepbx_did": 8,
    "freepbx_queue": 8,
    "freepbx_ring_group": 6,
    "freepbx_ivr": 3,
}
"""How often each kind of call (`tests/asterisk/scenarios`) is there among a hundred."""

CALLER = b"033004799"
"""The lab's caller."""
_END = b"\r\n\r\n"
_IDS = re.compile(rb"(?<=(?:niqueid|inkedid|niqueID|inkedID): )(?=[0-9a-f])")


@dataclass(frozen=True)
class Template:
    """A recorded call that can be had again, as a call of its own."""

    name: str
    frames: tuple[tuple[bytes, ...], ...]
    """Each in pieces, between which its call's id goes."""

    def call(self, number: int) -> list[bytes]:
        """Its frames, as those of another call; its caller's number is `caller(number)`."""
        mark, own = b"%d-" % number, caller(number)
        return [mark.join(pieces).replace(CALLER, own) for pieces in self.frames]


def caller(number: int) -> bytes:
    """The number from which the call with this number comes."""
    return b"03%07d" % number


@cache
def recorded(version: str, reads: Reads) -> dict[str, Template]:
    """What was recorded of each kind of call."""
    with tarfile.open(RECORDED / f"{version}-{reads}.tar.xz") as archive:
        raws = {Path(one.name).stem: _content(archive, one) for one in archive}
    return {name: _template(name, raw) for name, raw in raws.items()}


def stream(version: str, reads: Reads, *, calls: int, at_once: int = 20, seed: int = 1, first: int = 0) -> list[bytes]:
    """The frames of so many calls, `at_once` of them in progress at any time."""
    rng, kinds = random.Random(seed), recorded(version, reads)
    names = rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=calls)
    coming = (iter(kinds[name].call(first + number)) for number, name in enumerate(names))
    going = [call for call, _ in zip(coming, range(at_once), strict=False)]
    frames: list[bytes] = []
    while going:
        place = rng.randrange(len(going))
        frame = next(going[place], None)
        if frame is not None:
            frames.append(frame)
        elif (following := next(coming, None)) is not None:
            going[place] = following
        else:
            going.pop(place)
    return frames


def held(version: str, reads: Reads, *, calls: int, first: int) -> Iterator[bytes]:
    """The frames of so many calls up to the middle of their conversation: from then on they are in progress."""
    template = recorded(version, reads)["did_answered"]
    joined = [number for number, pieces in enumerate(template.frames) if pieces[0].startswith(b"Event: BridgeEnter")]
    for number in range(first, first + calls):
        yield from template.call(number)[: joined[1] + 1]


def _content(archive: tarfile.TarFile, one: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(one)
    assert file is not None
    return file.read()


def _template(name: str, raw: bytes) -> Template:
    frames = [frame + _END for frame in raw.split(_END)[:-1]]
    return Template(name, tuple(tuple(_IDS.split(frame)) for frame in frames))
