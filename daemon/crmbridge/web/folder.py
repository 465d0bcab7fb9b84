"""Opens files of one folder, and none outside of it. All of it blocks: it is for threads (`web.disk`).

A path is first opened as a mere handle (O_PATH: nothing is read, no device or pipe notices), then asked what it is and
where it really lies, and only then opened for reading, through the handle. So nobody can put something else into its
place in between, and what is a link is judged by where it leads. Links that stay inside are followed, whatever the
folder itself is reached by; those that lead out are as good as not there. What is mounted inside belongs to the folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
"""As good as not there. All else is the disk's, or the administrator's, trouble."""

HANDLE = os.O_PATH | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class Opened(NamedTuple):
    """A file that is open for reading, and what it was like then."""

    fd: int
    path: str
    """Below the folder, as it was asked for."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Nanoseconds since 1970, UTC."""
    inode: int


def real(folder: str) -> str:
    """Where the folder really lies. Raises OSError."""
    with _handle(os.open(folder, HANDLE | os.O_DIRECTORY)) as fd:
        return os.fsdecode(_path(fd))


def open_first(folder: str, paths: Iterable[str]) -> Opened | None:
    """The first of these paths below the folder that is a file inside it. Raises OSError.

    The caller closes what is open.
    """
    refused: OSError | None = None
    with _handle(os.open(folder, HANDLE | os.O_DIRECTORY)) as root:
        inside = _path(root).rstrip(b"/") + b"/"
        for path in paths:
            try:
                opened = _open(root, path, inside)
            except OSError as error:
                refused = refused or error
                continue
            if opened is not None:
                return opened
    if refused is not None:
        raise refused
    return None


def _open(root: int, path: str, inside: bytes) -> Opened | None:
    try:
        handle = os.open(path.encode(), HANDLE, dir_fd=root)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    with _handle(handle) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not _path(fd).startswith(inside):
            return None
        reading = os.open(f"/proc/self/fd/{fd}", READ)
    found = os.fstat(reading)
    return Opened(reading, path, found.st_size, found.st_mtime_ns, found.st_ino)


def _path(fd: int) -> bytes:
    """Where an open file lies, with all links followed."""
    return os.readlink(b"/proc/self/fd/%d" % fd)


class _handle:  # noqa: N801  # reads like contextlib's own
    """Closes a handle in the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            os.close(self._fd)
