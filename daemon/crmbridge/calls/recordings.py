"""Where a recording may lie, from what a call record says of it, and what it is. Pure.

A record names a recording as whoever wrote it pleased: FreePBX the file's name alone, a dialplan of one's own a path.
Everything here is a name: whether there is such a file, and whether a link leads out of the folder, is found out by
opening it (`web.folder`). Nothing that comes out of here is absolute or goes up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import product

from crmbridge.calls.cdr import LONGEST_PATH

FORMATS = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "gsm": "audio/x-gsm",
    "ulaw": "audio/basic",
    "alaw": "audio/x-alaw-basic",
    "g722": "audio/G722",
    "wav49": "audio/wav",
    "wav16": "audio/wav",
    "m4a": "audio/mp4",
    "flac": "audio/flac",
    "sln": "application/octet-stream",
    "sln16": "application/octet-stream",
    "raw": "application/octet-stream",
    "g729": "application/octet-stream",
}
"""Extensions, in the order in which they are looked for, and what a browser is told. Nothing else is a recording.

What has no media type is samples without a header. audio/basic is µ-law at 8,000 Hz without one (RFC 2046, 4.2).
"""

_LARGEST_EMPTY = {"wav": 44, "wav16": 44, "wav49": 60, "WAV": 60}
"""Bytes of a file that holds a header and no sound (Asterisk's format_wav.c and format_wav_gsm.c)."""

_WRITTEN_AS = {"wav49": ("WAV",)}
"""MixMonitor(x.wav49) makes x.WAV (format_wav_gsm.c: "WAV|wav49")."""

_DAY = re.compile(r"(?<![0-9])([0-9]{4})([0-9]{2})([0-9]{2})-[0-9]{6}(?![0-9])", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def name_of(filename: str, folders: Iterable[str]) -> str | None:
    """A recording's name below the folder, the same for all spellings of it; None where it can't lie there.

    `folders`: absolute spellings of the folder, one of which an absolute `filename` begins with (its first slash may be
    missing: proxies merge two of them into one).
    """
    if len(filename) > LONGEST_PATH or _CONTROL.search(filename):
        return None
    whole = f"/{filename.lstrip('/')}"
    for folder in folders:
        if whole.startswith(prefix := f"{folder.rstrip('/')}/"):
            filename = whole.removeprefix(prefix)
            break
    else:
        if filename.startswith("/"):
            return None
    parts = [part for part in filename.split("/") if part]
    return "/".join(parts) if parts and not {".", ".."} & set(parts) else None


def places(name: str) -> Iterator[str]:
    """The paths below the folder at which a recording may lie, the likeliest first.

    The file that the record names comes first, in its day's folder and then in the folder itself; then the same name
    with another extension, since recordings are converted at night by many.
    """
    base = name.rpartition("/")[2]
    for spelled, folder in product(dict.fromkeys(_spellings(base)), folders_of(name)):
        yield f"{folder}/{spelled}" if folder else spelled


def folders_of(name: str) -> list[str]:
    """Where it is looked for, below the folder; an empty one is the folder itself."""
    above, slash, base = name.rpartition("/")
    return [above] if slash else [*_days(base), ""]


def _days(base: str) -> list[str]:
    """FreePBX's folder of a day. Its names end in date, time and Uniqueid; a number before them may look like a date.

    `in-TRUNK-0521234567-20261123-055257-1795413177.274.wav` → 2026/11/23. The record's own time does not tell: a call
    may begin before midnight and its recording after it.
    """
    days = []
    for found in reversed(list(_DAY.finditer(base))):
        year, month, day = found.groups()
        try:
            date(int(year), int(month), int(day))
        except ValueError:
            continue
        days.append(f"{year}/{month}/{day}")
    return days


def _spellings(base: str) -> Iterator[str]:
    stem, extension = _split(base)
    if extension:
        yield from (f"{stem}.{other}" for other in _WRITTEN_AS.get(extension.lower(), ()))
        yield from (base, f"{stem}.{extension.lower()}", f"{stem}.{extension.upper()}")
    for other in FORMATS:
        yield f"{stem}.{other}"
        yield f"{stem}.{other.upper()}"


def _split(base: str) -> tuple[str, str]:
    """Name and extension, where it is one of ours: the Uniqueid at the end of a name has a dot, too."""
    stem, _, extension = base.rpartition(".")
    return (stem, extension) if stem and extension.lower() in FORMATS else (base, "")


def media_type(path: str) -> str:
    """What a browser is told that it gets."""
    return FORMATS.get(path.rpartition(".")[2].lower(), "application/octet-stream")


def is_empty(path: str, size: int) -> bool:
    """Whether a file of so many bytes holds no sound."""
    extension = path.rpartition(".")[2]
    return size <= _LARGEST_EMPTY.get(extension, _LARGEST_EMPTY.get(extension.lower(), 0))
