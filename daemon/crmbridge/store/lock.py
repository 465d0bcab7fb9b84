"""Keeps a second daemon away from files that bear only one.

Two daemons on one outbox would tell the CRM each call twice: easily had, by starting `crmbridge run` by hand beside the
service. The lock ends with the process, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crmbridge.store.engine import DiskError, make_file
from crmbridge.store.schema import StoreError


@contextmanager
def sole_use(path: Path) -> Iterator[None]:
    """Hold the lock that goes with this file. Raises StoreError when another process holds it.

    On a disk that is full or read-only, a lock file that is not there yet is done without.
    """
    with suppress(DiskError):
        make_file(path)
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = _opened(lock)
    except OSError as error:
        raise StoreError(f"{lock} cannot be written ({error.strerror}): check its owner and mode") from error
    if descriptor is None:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(
                f"{path} is in use by another crmbridge (process {holder}): stop that one first, or give this one a "
                "store.state_dir of its own"
            ) from None
        with suppress(OSError):  # on a disk that is full: the lock holds without it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _opened(lock: Path) -> int | None:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}:
            raise
        return os.open(lock, os.O_RDONLY | os.O_CLOEXEC) if lock.exists() else None
