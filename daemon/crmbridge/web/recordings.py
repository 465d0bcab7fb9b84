"""Recordings over HTTP: `GET /recordings/{filename}`, with what the call list shows as `filename`, or by a signed link.

A link (`web.links`) needs no credentials: it is for the browser of whoever looks at the calls. With credentials that
are for every client, all recordings are open; with those of single clients none is but by the links in their own call
list, since the name of a file does not tell whose call it was.

Errors, besides those of every request: 403 `link_expired`, `link_invalid`, `link_needed`; 404 `recording_not_found`,
`recording_empty`; 412 `precondition_failed`; 416 `range_not_satisfiable`; 429 `too_many_downloads`; 503
`recordings_unavailable` (the disk is away, or the daemon's user may not read there).

A recording that is still being written is sent as far as it has come, with a header that says how far that is: whoever
clicks on it wants to hear it, and a call is listed only when it, or a part of it, is over. Nobody keeps a copy
(`no-store`), so that the next click gets all of it, and its ETag changes, so that the parts of two states are never put
together.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

import structlog
from aiohttp import web

from crmbridge.calls import recordings
from crmbridge.web import folder, parameters, ranges
from crmbridge.web.answers import SERVER, ProblemError
from crmbridge.web.connection import CLIENT, GRANT
from crmbridge.web.disk import BusyError, Disk, HangingError
from crmbridge.web.links import PARAMETERS, PATH, Bad, Links
from crmbridge.web.outage import Outage

log = structlog.get_logger("crmbridge.recordings")

DISK_S = 10.0
"""How long the disk may take to open a file, or to read a chunk of one."""
STALL_S = 30.0
"""How long a client may take to accept a chunk. A paused player takes longer; it asks for the rest when it goes on."""
LONGEST_S = 3600.0
"""How long one download may take in all."""
MOST_DOWNLOADS = 64
"""At once; each costs a file descriptor, two connection buffers and a chunk."""
MOST_PER_ADDRESS = 16
"""At once: an office behind one address, or a CRM that hands recordings on."""
LATEST_S = 2**33
"""Unix time that is taken for a file's at most, in the year 2242: some file systems keep any nonsense."""
CHUNK = 128 * 1024
"""Bytes read at once: eight seconds of sound (8,000 samples of 16 bits a second)."""

_KNOWN = PARAMETERS | {"download"}


class Recordings:
    """Serves the recordings in one folder."""

    needs_credentials = True

    def __init__(self, *, folder: Path, links: Links, prefix: str = "", clock: Callable[[], float] = time.time) -> None:
        """`prefix`: what stands before the names of this folder's recordings. `clock`: seconds of Unix time."""
        self._prefix = prefix
        self._folder = str(folder)
        self._spellings: tuple[str, ...] = (self._folder,)
        self._links = links
        self._clock = clock
        self._disk = Disk()
        self._outage = Outage("recordings")
        self._downloads: Counter[str] = Counter()
        self._disk.later(self._learn)

    def routes(self) -> Iterable[web.RouteDef]:
        """One path; HEAD is answered, too."""
        yield web.get(PATH + "{filename:.+}", self.serve)

    async def close(self) -> None:
        """What is under way has ended with its request."""
        self._disk.close()

    def link(self, filename: str, client_id: str) -> str | None:
        """A path that opens this recording for a while; None where it lies elsewhere, or is none."""
        name = recordings.name_of(filename.removeprefix(self._prefix), self._spellings)
        return self._links.link(self._prefix + name, client_id, self._clock()) if name else None

    def follows(self, request: web.Request) -> bool:
        """Whether the request is a link that opens what it asks for.

        Raises ProblemError for a link that does not; where credentials are shown, too, these count then.
        """
        if "signature" not in request.query:
            return False
        bad = self._links.judge(self._prefix + (self._name(request) or ""), request.query, self._clock())
        if bad is not None and "Authorization" not in request.headers:
            if bad is Bad.EXPIRED:
                raise ProblemError(403, "link_expired", "this link has expired: open the list of calls again")
            raise ProblemError(403, "link_invalid", "this link is not as the bridge has made it")
        return bad is None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send what is asked for. Raises ProblemError."""
        values = request.query
        parameters.known({one: "" for one in values if one not in parameters.CREDENTIALS}, _KNOWN)
        for one in PARAMETERS:
            parameters.optional(values, one)
        download = parameters.optional(values, "download")
        if download not in {None, "0", "1"}:
            raise parameters.malformed("download", "must be 1 or 0")
        grant = request.get(GRANT)
        if grant is not None and grant.client_ids is not None:
            message = "these credentials open recordings by the links in the call list only"
            raise ProblemError(403, "link_needed", message)
        with self._place(request.get(CLIENT, "")):
            opened, header = await self._open(self._name(request))
            file = _File(self._disk, opened.fd, header)
            try:
                return await self._answer(request, opened, file, as_attachment=download == "1")
            finally:
                file.close()

    def _name(self, request: web.Request) -> str | None:
        """What is asked for; None for what can't be a recording's name."""
        filename = asked(request)
        return filename and recordings.name_of(filename.removeprefix(self._prefix), self._spellings)

    @contextmanager
    def _place(self, client: str) -> Iterator[None]:
        """Hold one of the places for downloads. Raises ProblemError where there is none."""
        if self._downloads.total() >= MOST_DOWNLOADS or self._downloads[client] >= MOST_PER_ADDRESS:
            message = "too many recordings are being sent at once; try again in a moment"
            raise ProblemError(429, "too_many_downloads", message, {"Retry-After": "5"})
        self._downloads[client] += 1
        try:
            yield
        finally:
            self._downloads[client] -= 1
            self._downloads += Counter()  # forgets those at zero

    async def _open(self, name: str | None) -> _Found:
        """The file, open for reading. Raises ProblemError."""
        if name is None:
            raise ProblemError(404, "recording_not_found", "no recording has such a name")
        try:
            found = await self._disk.run(lambda: self._look(name), within_s=DISK_S, forget=_close)
        except (HangingError, OSError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)  # names of files hold numbers
            self._outage.begins(f"{self._folder}: {why}; can the daemon's user read it (groups), is its disk there?")
            message = "the recordings can't be read at present; the bridge's log says why"
            raise ProblemError(503, "recordings_unavailable", message, {"Retry-After": "10"}) from None
        self._outage.ends()
        if found is None:
            where = " and ".join(one or "the recordings' folder itself" for one in recordings.folders_of(name))
            raise ProblemError(404, "recording_not_found", f"there is no such recording (looked in {where})")
        if recordings.is_empty(found.file.path, found.file.size):
            self._disk.later(lambda: _close(found))
            raise ProblemError(404, "recording_empty", "this recording holds no sound (or none yet)")
        return found

    def _look(self, name: str) -> _Found | None:
        self._learn()
        opened = folder.open_first(self._folder, recordings.places(name))
        if opened is None:
            return None
        try:
            header = os.read(opened.fd, recordings.HEADER)
        except OSError:
            _close_fd(opened.fd)
            raise
        return _Found(opened, recordings.mended(header, opened.size))

    def _learn(self) -> None:
        """Learn where the folder really lies: records may name it so. Blocks."""
        with suppress(OSError):
            self._spellings = (self._folder, folder.real(self._folder))

    async def _answer(
        self, request: web.Request, opened: folder.Opened, file: _File, *, as_attachment: bool
    ) -> web.StreamResponse:
        etag = f'"{opened.inode:x}-{opened.mtime_ns:x}-{opened.size:x}"'
        modified_at = datetime.fromtimestamp(min(max(opened.mtime_ns // 10**9, 0), LATEST_S), UTC)
        verdict = ranges.judge(
            request.headers, etag=etag, modified_at=modified_at, size=opened.size, is_get=request.method == "GET"
        )
        if verdict.status == 412:
            raise ProblemError(412, "precondition_failed", "the recording is another than the one that is asked for")
        if verdict.status == 416:
            message = f"the recording has {opened.size} bytes, and none in this range"
            headers = {"Content-Range": f"bytes */{opened.size}"}
            raise ProblemError(416, "range_not_satisfiable", message, headers)
        response = web.StreamResponse(status=verdict.status, headers={
            "Server": SERVER,
            "Cache-Control": "private, no-store",
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Last-Modified": format_datetime(modified_at, usegmt=True),
            "X-Content-Type-Options": "nosniff",
        })  # fmt: skip
        if verdict.status != 304:
            response.headers["Content-Type"] = recordings.media_type(opened.path)
            response.headers["Content-Disposition"] = _disposition(opened.path, as_attachment=as_attachment)
            response.content_length = verdict.length
        if verdict.status == 206:
            last = verdict.first + verdict.length - 1
            response.headers["Content-Range"] = f"bytes {verdict.first}-{last}/{opened.size}"
        await self._send(request, response, file, verdict)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, file: _File, verdict: ranges.Verdict
    ) -> None:
        """Send head and body. What goes wrong on the way ends the connection, so that the client sees it."""
        at, end = verdict.first, verdict.first + verdict.length
        try:
            async with asyncio.timeout(LONGEST_S):
                await response.prepare(request)
                while request.method == "GET" and at < end:
                    chunk = await file.read(min(CHUNK, end - at), at)
                    at += len(chunk)
                    async with asyncio.timeout(STALL_S):
                        await response.write(chunk)
        except (HangingError, OSError) as error:  # OSError: of the disk, the connection, or a time that is up
            tell = log.debug if isinstance(error, ConnectionError) else log.info  # browsers do that all the time
            tell(
                "recordings.cut_off",
                address=request.get(CLIENT),
                reason=str(error) or "the client takes nothing, or too long",
                bytes_sent=at - verdict.first,
                bytes_left=end - at,
            )
            response.force_close()
            if request.transport is not None:
                request.transport.abort()


def asked(request: web.Request) -> str | None:
    """What stands behind `/recordings/`, unescaped once and no more; None where it is no text."""
    try:
        return unquote_to_bytes(request.rel_url.raw_path.split("/", 2)[2]).decode()
    except UnicodeError:
        return None


class _Found(NamedTuple):
    file: folder.Opened
    header: bytes
    """What to send in place of the file's own; empty where that is right."""


class _File:
    """A file that is open for reading."""

    def __init__(self, disk: Disk, fd: int, header: bytes) -> None:
        """`header`: what is read in place of the file's own beginning."""
        self._disk = disk
        self._fd = fd
        self._header = header
        self._is_ours = True

    async def read(self, count: int, at: int) -> bytes:
        """Up to so many bytes from there on, at least one. Raises OSError and HangingError."""
        fd = self._fd
        self._is_ours = False  # should nobody wait for it any more, it is closed when the read is over, not before
        try:
            chunk = await self._disk.run(
                lambda: os.pread(fd, count, at), within_s=DISK_S, forget=lambda _: _close_fd(fd)
            )
        except (OSError, BusyError):
            self._is_ours = True
            raise
        self._is_ours = True
        if not chunk:
            raise OSError("the recording has become shorter meanwhile")
        header = self._header[at : at + len(chunk)]
        return header + chunk[len(header) :]

    def close(self) -> None:
        """Have it closed; that may hang as well as reading."""
        if self._is_ours:
            self._disk.later(lambda: _close_fd(self._fd))


def _close(found: _Found | None) -> None:
    if found is not None:
        _close_fd(found.file.fd)


def _close_fd(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


def _disposition(path: str, *, as_attachment: bool) -> str:
    """Content-Disposition (RFC 6266): the file's name, in ASCII for old clients, in full for all others."""
    base = path.rpartition("/")[2]
    plain = "".join(one if " " <= one <= "~" and one not in '"\\%' else "_" for one in base)
    kind = "attachment" if as_attachment else "inline"
    full = "" if plain == base else f"; filename*=UTF-8''{quote(base, safe='')}"
    return f'{kind}; filename="{plain}"{full}'
