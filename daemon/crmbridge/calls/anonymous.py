"""Recorded AMI frames without callers' numbers and names, so that they may be given away. Pure.

Of a frame only what says who rings and who talks is left; what else a PBX says (variables, dialed applications, user
events) may hold anything. A number keeps its length and its first digits, and is the same in every spelling.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection

_END = b"\r\n\r\n"
_BANNER = b"Asterisk Call Manager/"
_SESSION = {"FullyBooted"}
_DIGITS = 7
"""From the end: what tells subscribers apart. Before it stand country and area, in whatever spelling."""
_SHORTEST = 6
"""Digits; fewer are an extension."""
_NUMBER = re.compile(r"(?<![0-9A-Za-z.])(?<!\d[-_])\+?\d{6,}(?![0-9A-Za-z]|\.\d)")
"""A number within a value; not a Uniqueid (`1764280000.12`), not a channel name's end (`-0000001a`)."""
_CHANNEL_END = re.compile(r"-[0-9a-f]{8}(?=;|$|<)")
_AS_DIALED = re.compile(r"CallerIDNum|ConnectedLineNum|CallerIDani|Exten$")
_ID = re.compile(r"(?i)(unique|linked|action|bridge)id$")
_NAME = re.compile(r"CallerIDName|ConnectedLineName")
_LEFT_OUT = re.compile(r"AppData|AccountCode|.*Key$|.*Val$|.*Description$")


class Anonymous:
    """Makes one recording's bytes anonymous, as they come."""

    def __init__(self, events: Collection[str], key: bytes) -> None:
        """`events`: names of those that are kept. `key`: random, and thrown away with this object."""
        self._events = _SESSION | set(events)
        self._key = key
        self._rest = b""

    def feed(self, raw: bytes) -> bytes:
        """What may be written of all whole frames that have come; the rest waits for its end."""
        *frames, self._rest = (self._rest + raw).split(_END)
        return b"".join(self._frame(frame) for frame in frames)

    def _frame(self, raw: bytes) -> bytes:
        banner, line_end, after = raw.partition(b"\r\n")
        if banner.startswith(_BANNER):
            return banner + line_end + self._frame(after)
        lines = raw.decode("utf-8", "surrogateescape").split("\r\n")
        if not any(line.startswith("Event: ") and line[7:].strip() in self._events for line in lines):
            return b""
        kept = [kept for line in lines if (kept := self._line(line)) is not None]
        return "\r\n".join(kept).encode("utf-8", "surrogateescape") + _END

    def _line(self, line: str) -> str | None:
        name, colon, value = line.partition(":")
        if not colon or _LEFT_OUT.match(name):
            return None
        if _ID.search(name):
            return line
        value = value.removeprefix(" ")
        return f"{name}: {self._named(value) if _NAME.search(name) else self._value(name, value)}"

    def _value(self, name: str, value: str) -> str:
        if _AS_DIALED.search(name):
            return self.number(value)
        ends = _CHANNEL_END.search(value)
        stem, end = (value[: ends.start()], value[ends.start() :]) if ends else (value, "")
        return _NUMBER.sub(lambda found: self.number(found[0]), stem) + end

    def _named(self, value: str) -> str:
        if value in {"", "<unknown>"}:
            return value
        if re.fullmatch(r"[+\d\-() .]+", value):
            return self.number(value)
        return f"Name {int.from_bytes(self._digest(value)[:2]) % 10_000:04}"

    def number(self, value: str) -> str:
        """The number that stands for this one; an extension stays as it is."""
        digits = "".join(re.findall(r"[0-9]", value))
        if len(digits) < _SHORTEST:
            return value
        last = digits[-_DIGITS:]
        made_up = iter(f"{int.from_bytes(self._digest(last)[:8]) % 10 ** len(last):0{len(last)}}")
        keep = len(digits) - len(last)
        result = []
        for one in value:
            is_digit = one in "0123456789"
            result.append(one if not is_digit or keep > 0 else next(made_up))
            keep -= is_digit
        return "".join(result)

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256)
