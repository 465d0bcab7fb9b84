"""Reads the CSV files that Asterisk writes its call records to, however they are rotated.

A file is followed by its inode and the place up to which it was read, with a digest of what stands before that place:
so a file that was truncated, replaced, or copied and truncated is told from one that only grew. What was renamed or
copied away is looked for among the file's siblings (Master.csv.1, Master.csv-20261123, Master.csv.2.gz) and read to its
end before the new one is begun. All functions block; what is in a line is `calls.cdr_csv`'s business.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, cast

import structlog

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.cdr_csv import split
from crmbridge.pbx.cdr_table import SourceError

log = structlog.get_logger("crmbridge.cdr")

PART = 1 << 18
"""Bytes that are read in one go: a thousand records."""
_TAIL = 256
"""Bytes before a place that tell whether it is still the same file."""
_MOST_TOLD = 20
"""Wrong lines that are named; a file of another format has nothing else."""
_NEAR = 1 << 20
_ERRORS = (OSError, EOFError, zlib.error)


class Place(NamedTuple):
    """How far a file was read."""

    device: int
    inode: int
    offset: int
    line: int
    """Lines before it."""
    tail: str
    """Digest of what stands just before it."""

    def text(self, path: Path) -> str:
        """To be kept."""
        return json.dumps({"path": str(path), **self._asdict()})


def place_of(text: str, path: Path) -> Place | None:
    """What was kept, if it was for this path."""
    kept = json.loads(text)
    return Place(**kept) if kept.pop("path") == str(path) else None


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a file."""

    records: list[Cdr]
    place: Place
    more: bool
    """Whether there is more to read just now."""


class CdrFiles:
    """A file of call records, and what it was called before."""

    def __init__(self, path: Path, read: Callable[[str], Cdr | None]) -> None:
        """`read` makes a record of a line (`calls.cdr_csv.from_line`)."""
        self.path = path
        self._read = read
        self._told = 0
        self._unchanged: tuple[object, ...] | None = None
        """What it was like when nothing had been added."""

    # The whole of it

    def all(self) -> list[Path]:
        """The file and its siblings, oldest first. Raises SourceError where there is none."""
        try:
            named = [one for one in self.path.parent.iterdir() if self._is_sibling(one) or one == self.path]
            files = sorted((one.stat().st_mtime, one != self.path, str(one)) for one in named if one.is_file())
        except OSError as error:
            raise self._explained(error) from error
        if not files:
            raise SourceError(
                f"{self.path} is not there: Asterisk makes it with the first call that ends (docs/call-records.md says"
                " how it is told to)"
            )
        return [Path(name) for *_, name in files]

    def span(self) -> tuple[int, int] | None:
        """When the first and the last record start, in epoch seconds. Raises SourceError."""
        starts: list[int] = []
        files = self.all()
        for file in (files[0], files[-1]):
            part = self.part(file, self.beginning(file), whole=True, size=PART)
            starts += [int(one.start_at.timestamp()) for one in part.records]
        last = self.part(files[-1], self._near_end(files[-1]), whole=True)
        starts += [int(one.start_at.timestamp()) for one in last.records]
        return (min(starts), max(starts)) if starts else None

    def beginning(self, file: Path) -> Place:
        """Of this file. Raises SourceError."""
        try:
            stat = file.stat()
        except OSError as error:
            raise self._explained(error) from error
        return Place(stat.st_dev, stat.st_ino, 0, 0, "")

    # Following

    def since(self, at: float) -> Place:
        """From where on the records can be found of calls that ended since then, in epoch seconds. Raises SourceError.

        Not to the byte: a megabyte or so before.
        """
        try:
            file = next((one for one in self.all() if one.stat().st_mtime >= at), self.path)
            begin = self.beginning(file)
            if file.suffix == ".gz":
                return begin
            low, high = 0, file.stat().st_size
        except OSError as error:
            raise self._explained(error) from error
        while high - low > _NEAR:
            middle = (low + high) // 2
            found = self._aligned(file, middle)
            records = self.part(file, found, quiet=True).records if found else []
            if records and records[0].start_at.timestamp() + records[0].duration_s < at:
                low = middle
            else:
                high = middle
        return (self._aligned(file, low) if low else None) or begin

    def read(self, place: Place) -> Part:
        """What follows that place, wherever the file is now. Raises SourceError."""
        try:
            current = self.path.stat() if self.path.exists() else None
            if current and (current.st_dev, current.st_ino) == place[:2] and current.st_size >= place.offset:
                state = (*place, current.st_size, current.st_mtime_ns)
                if state == self._unchanged:
                    return Part([], place, more=False)
                if self._is_same(self.path, place):
                    part = self.part(self.path, place)
                    self._unchanged = state if part.place == place else None
                    return part
            return self._elsewhere(place, gone=current is None)
        except _ERRORS as error:
            raise self._explained(error) from error

    def _elsewhere(self, place: Place, *, gone: bool) -> Part:
        """The file at `path` is another one now."""
        siblings = [one for one in self.all() if one != self.path]
        old = next((one for one in siblings if self._is_same(one, place)), None)
        if old is None:
            if gone:
                raise SourceError(f"{self.path} is not there, nor what was read of it under another name")
            if place.offset:
                hint = "what was written between the last look and then is missing; `crmbridge sync` reads all files"
                log.warning("cdr.file_replaced", file=str(self.path), line=place.line, hint=hint)
            return self.part(self.path, self.beginning(self.path))
        later = siblings[siblings.index(old) + 1 :]
        is_last = gone and not later  # and Asterisk may be writing into it
        part = self.part(old, place, whole=not is_last)
        if part.more or is_last:
            return part
        following = later[0] if later else self.path
        log.info("cdr.file_rotated", file=str(old), lines=part.place.line, next=str(following))
        return Part(part.records, self.beginning(following), more=True)

    # One part

    def part(self, file: Path, place: Place, *, whole: bool = False, size: int = PART, quiet: bool = False) -> Part:
        """What follows a place in this file. Raises SourceError.

        `whole`: its last line is one, even without a line break. `quiet`: wrong lines are not named.
        """
        try:
            with _opened(file) as opened:
                opened.seek(place.offset)
                data = opened.read(size)
                ended = not opened.read(1)
                records, rest = split(data.decode("latin-1"), whole=whole and ended)
                if not records and not ended:
                    return self.part(file, place, whole=whole, size=size * 4, quiet=quiet)
                offset = place.offset + len(data) - len(rest)
                opened.seek(max(0, offset - _TAIL))
                tail = _digest(opened.read(min(_TAIL, offset)))
        except _ERRORS as error:
            raise self._explained(error) from error
        found, line = [], place.line
        for text, lines in records:
            if one := self._record(text, file, line + 1, quiet=quiet):
                found.append(one)
            line += lines
        return Part(found, Place(place.device, place.inode, offset, line, tail), more=not ended)

    def _record(self, text: str, file: Path, line: int, *, quiet: bool) -> Cdr | None:
        try:
            return self._read(text.encode("latin-1").decode("utf-8", errors="replace"))
        except ValueError as error:
            if not quiet:
                self._tell(file, line, str(error))
            return None

    def _tell(self, file: Path, line: int, reason: str) -> None:
        self._told += 1
        if self._told <= _MOST_TOLD:
            more = "further ones are passed over in silence" if self._told == _MOST_TOLD else None
            log.warning("cdr.wrong_line", file=str(file), line=line, reason=reason, hint=more or "it is passed over")

    def _is_same(self, file: Path, place: Place) -> bool:
        """Whether that place is one of this file, renamed, copied or compressed."""
        stat = file.stat()
        if not place.offset:
            return (stat.st_dev, stat.st_ino) == place[:2]
        with _opened(file) as opened:
            begin = max(0, place.offset - _TAIL)
            opened.seek(begin)
            return _digest(opened.read(place.offset - begin)) == place.tail

    def _is_sibling(self, file: Path) -> bool:
        return file.name.startswith((f"{self.path.name}.", f"{self.path.name}-"))

    def _near_end(self, file: Path) -> Place:
        place = self.beginning(file)
        if file.suffix == ".gz" or file.stat().st_size < PART:
            return place
        return self._aligned(file, file.stat().st_size - PART // 2) or place

    def _aligned(self, file: Path, offset: int) -> Place | None:
        """The beginning of a record behind there; None where none is near. Its line is not known."""
        with file.open("rb") as opened:
            opened.seek(offset)
            opened.readline()
            for _ in range(100):
                at = opened.tell()
                line = opened.readline()
                try:
                    if line and self._read(line.decode("utf-8", errors="replace")):
                        opened.seek(max(0, at - _TAIL))
                        return self.beginning(file)._replace(offset=at, tail=_digest(opened.read(min(_TAIL, at))))
                except ValueError:
                    continue
        return None

    def _explained(self, error: Exception) -> SourceError:
        if isinstance(error, PermissionError):
            return SourceError(
                f"{error.filename or self.path} may not be read by the user that crmbridge runs as: give it the group"
                " that may (docs/call-records.md)"
            )
        why = getattr(error, "strerror", None) or error
        return SourceError(f"{self.path} can't be read: {why}; check cdr.source (docs/call-records.md)")


def _opened(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(file))
    return file.open("rb")


def _digest(tail: bytes) -> str:
    return hashlib.sha256(tail).hexdigest()[:32]
