"""A small disk in memory that can be filled, for this process and those that it starts."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE_MIB = 8
CLONE_NEWNS = 0x00020000  # sched.h
_FILLING = "filling"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount it over a folder. Needs root; where this process is killed, it is gone with it.

    From then on the calling thread is in a mount namespace of its own. Raises OSError, CalledProcessError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "mount namespaces need root")
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with suppress(OSError), (folder / _FILLING).open("wb", buffering=0) as file:
        for piece in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(piece)) == piece:
                    pass


def free(folder: Path) -> None:
    """Give it all back."""
    os.unlink(folder / _FILLING)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
