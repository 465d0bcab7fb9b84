"""AMI frames out of a stream of bytes. Knows nothing of sockets, actions or calls.

Frames end with an empty line. Only an event's name is looked at before it is decided whether the frame is parsed at
all: most of what a PBX sends is nobody's concern here. Nothing that comes in makes this raise.
"""

from __future__ import annotations

from collections.abc import Collection

Frame = dict[str, str]
"""A frame's headers by name, as Asterisk writes them. Of a repeated header the first stands: what is appended by
whoever could smuggle a line into a value must not replace what Asterisk wrote before it."""

LONGEST_FRAME = 256 * 1024
"""Bytes. Asterisk builds events without a limit, the longest seen is a few kB; beyond this it is no AMI."""

_EVENT = b"Event: "
_END = b"\r\n\r\n"
_BANNER = b"Asterisk Call Manager/"


class FrameReader:
    """Cuts one connection's bytes into frames."""

    def __init__(self, wanted: Collection[str] | None = None, *, fallback_encoding: str = "latin-1") -> None:
        """`wanted`: names of the events to parse, None for all; responses are always parsed.

        `fallback_encoding` is for frames that are not UTF-8: Asterisk 16 passes a caller's name on as it came.
        """
        self._wanted = None if wanted is None else frozenset(name.encode() for name in wanted)
        self._fallback = fallback_encoding
        self._rest = b""
        self._skipping = False
        self.version: str | None = None
        """The protocol's version from the banner (`11.0.0` is Asterisk 22), None before it came."""
        self.overlong = 0
        """Frames that were thrown away because they had no end."""

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they came; the frames that are complete with them come back, in order."""
        chunks = (self._rest + data).split(_END)
        self._rest = chunks.pop()
        if self._skipping and chunks:
            chunks.pop(0)  # the end of the overlong frame
            self._skipping = False
        frames = []
        for chunk in chunks:
            if len(chunk) > LONGEST_FRAME:
                self.overlong += 1
            elif self._is_wanted(chunk) and (frame := self._parse(chunk)):
                frames.append(frame)
        if self._skipping or len(self._rest) > LONGEST_FRAME:
            self.overlong += not self._skipping
            self._skipping = True
            self._rest = self._rest[-len(_END) + 1 :]  # it may hold the first bytes of the end
        return frames

    def _is_wanted(self, chunk: bytes) -> bool:
        if self._wanted is None or not chunk.startswith(_EVENT):
            return True
        end = chunk.find(b"\r\n")
        name = chunk[len(_EVENT) : end] if end >= 0 else chunk[len(_EVENT) :]
        return name in self._wanted

    def _parse(self, chunk: bytes) -> Frame:
        try:
            text = chunk.decode()
        except UnicodeDecodeError:
            text = chunk.decode(self._fallback, "replace")
        frame: Frame = {}
        for line in text.split("\r\n"):
            name, colon, value = line.partition(":")
            if colon and name not in frame:
                frame[name] = value[1:] if value.startswith(" ") else value
            elif not colon and self.version is None and chunk.startswith(_BANNER):
                self.version = name.removeprefix(_BANNER.decode()).strip()
        # Asterisk sometimes ends a frame with one empty line too many, so an event may begin with one.
        if self._wanted is not None and frame.get("Event", "").encode() not in self._wanted and "Response" not in frame:
            return {}
        return frame
