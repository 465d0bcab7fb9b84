"""AMI frames out of a stream of bytes. Knows nothing of sockets, actions or calls.

Frames end with an empty line. Only an event's name is looked at before it is decided whether the frame is parsed at
all: most of what a PBX sends is nobody's concern here. Nothing that comes in makes this raise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar, overload

T = TypeVar("T")

Frame = Mapping[str, str]
"""A frame's headers by name, as Asterisk writes them."""

LONGEST_FRAME = 256 * 1024
"""Bytes. Asterisk builds events without a limit, the longest seen is a few kB; beyond this it is no AMI."""

_EVENT = b"Event: "
_END = b"\r\n\r\n"
_BANNER = b"Asterisk Call Manager/"


class _Frame(Mapping[str, str]):
    """A frame as it came, whose headers are found when they are asked for.

    Of a repeated header the first stands: what is appended by whoever could smuggle a line into a value must not
    replace what Asterisk wrote before it.

    An event has some twenty headers, and whoever follows calls asks for about four of them: cutting all of them out
    took two thirds of the whole intake's time (`make bench`).
    """

    __slots__ = ("_all", "_event", "_text")

    def __init__(self, text: str, event: str | None = None) -> None:
        """`text`: the lines of the frame, with a line end before each that is asked for, but for `event`'s."""
        self._text = text
        self._event = event
        self._all: dict[str, str] | None = None

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str | T, /) -> str | T: ...
    def get(self, name: str, default: object = None, /) -> object:
        """The header's value, without the space that follows its colon."""
        if name == "Event" and self._event is not None:  # with this all begin who look at it: 50 ns in place of 350
            return self._event
        text, needle = self._text, _NEEDLES[name]
        at = text.find(needle)
        if at < 0:
            return default
        at += len(needle)
        try:
            if text[at] == " ":  # a slice, which never fails, takes twice as long: 4 % of the whole intake
                at += 1
        except IndexError:
            return ""
        end = text.find("\r\n", at)
        return text[at:end] if end >= 0 else text[at:]

    def __getitem__(self, name: str) -> str:
        if self._all is not None:
            return self._all[name]
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers())

    def __len__(self) -> int:
        return len(self._headers())

    def __repr__(self) -> str:
        return repr(self._headers())

    def _headers(self) -> dict[str, str]:
        if self._all is None:
            found: dict[str, str] = {}
            for name, colon, value in (line.partition(":") for line in self._text.split("\r\n")):
                if colon:
                    found.setdefault(name, value.removeprefix(" "))
            self._all = found
        return self._all


class _Needles(dict[str, str]):
    """What a header's name looks like in a frame's text. Our own code asks, so these are some dozens; names that came
    from the PBX never get here, or they would pile up."""

    def __missing__(self, name: str) -> str:
        needle = self[name] = f"\r\n{name}:"
        return needle


_NEEDLES = _Needles()


class FrameReader:
    """Cuts one connection's bytes into frames."""

    def __init__(self, wanted: Collection[str] | None = None, *, fallback_encoding: str = "latin-1") -> None:
        """`wanted`: names of the events to parse, None for all; responses are always parsed.

        `fallback_encoding` is for frames that are not UTF-8: Asterisk 16 passes a caller's name on as it came.
        """
        self._wanted = None if wanted is None else {_EVENT + name.encode(): name for name in wanted}
        """By the line with which such a frame begins."""
        self._fallback = fallback_encoding
        self._rest = b""
        self._skipping = False
        self.version: str | None = None
        """The protocol's version from the banner (`11.0.0` is Asterisk 22), None before it came."""
        self.overlong = 0
        """Frames that were thrown away because they had no end."""

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they came; the frames that are complete with them come back, in order."""
        before = len(self._rest)
        chunks = (self._rest + data).split(_END)
        self._rest = chunks.pop()
        if self._skipping and chunks:
            chunks.pop(0)  # the end of the overlong frame
            self._skipping = False
        if len(data) + before > LONGEST_FRAME:
            chunks = self._without_overlong(chunks)
        frames: list[Frame] = []
        wanted, all_wanted = self._wanted or {}, self._wanted is None
        for chunk in chunks:
            end = chunk.find(b"\r\n")
            name = wanted.get(chunk[:end])
            if name is not None and end > 0:
                try:
                    frames.append(_Frame(chunk.decode(), name))  # a call less than by `_text`
                except UnicodeDecodeError:
                    frames.append(_Frame(self._text(chunk), name))
            elif end > 0 and chunk.startswith(_EVENT) and not all_wanted:
                continue
            elif (frame := self._other(chunk)) is not None:
                frames.append(frame)
        if self._skipping or len(self._rest) > LONGEST_FRAME + len(_END) - 1:  # all of its end but the last byte
            self.overlong += not self._skipping
            self._skipping = True
            self._rest = self._rest[-len(_END) + 1 :]  # it may hold the first bytes of the end
        return frames

    def _without_overlong(self, chunks: list[bytes]) -> list[bytes]:
        fit = [chunk for chunk in chunks if len(chunk) <= LONGEST_FRAME]
        self.overlong += len(chunks) - len(fit)
        return fit

    def _other(self, chunk: bytes) -> Frame | None:
        """One that does not begin as wanted events do."""
        text = self._text(chunk)
        if self.version is None and chunk.startswith(_BANNER):
            self.version = text.partition("\r\n")[0].removeprefix(_BANNER.decode()).strip()
        if ":" not in text:
            return None
        frame = _Frame(f"\r\n{text}")
        if self._wanted is None or "Response" in frame:
            return frame
        # Asterisk sometimes ends a frame with one empty line too many, so an event may begin with one.
        return frame if _EVENT + frame.get("Event", "").encode() in self._wanted else None

    def _text(self, chunk: bytes) -> str:
        try:
            return chunk.decode()
        except UnicodeDecodeError:
            return chunk.decode(self._fallback, "replace")
