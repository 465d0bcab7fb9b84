"""Something to hear in the demo: a recording for each call that the simulated PBX plays, of a made-up sound."""

from __future__ import annotations

import io
import math
import os
import re
import struct
import wave
from collections.abc import Iterable
from pathlib import Path

from crmbridge.demo.traces import Trace

RATE = 8000
"""Samples per second: Asterisk's own for `wav`."""
SECONDS = 2

_RECORDING = re.compile(rb"^RecordingFile: ([A-Za-z0-9._-]+\.wav)\r$", re.MULTILINE)


def put_recordings(folder: Path, traces: Iterable[Trace]) -> None:
    """Make the folder, with every recording that these calls' records name; all are one file."""
    folder.mkdir()
    tone = folder / "tone.wav"
    tone.write_bytes(_dial_tone())
    for name in {found[1].decode() for trace in traces for found in _RECORDING.finditer(trace.raw)}:
        os.link(tone, folder / name)


def _dial_tone() -> bytes:
    """The dial tone of North America (350 and 440 Hz), which says that nobody is there."""
    samples = (
        int(6000 * (math.sin(2 * math.pi * 350 * at / RATE) + math.sin(2 * math.pi * 440 * at / RATE)))
        for at in range(RATE * SECONDS)
    )
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(b"".join(struct.pack("<h", one) for one in samples))
    return content.getvalue()
