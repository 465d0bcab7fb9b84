"""A key that lasts: random bytes in a file of our own, made when there is none.

Who deletes the file and starts the bridge again has another key, and nothing that was signed with the old one counts.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger("crmbridge.store")

LENGTH = 32
"""Bytes: those of SHA-256."""


def lasting_key(path: Path) -> bytes:
    """The key in this file, which is made with mode 0600 where there is none.

    A disk that refuses must not keep the bridge from starting: then it is a key for this process alone, and that is
    logged. A file that is not as we made it is replaced.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    except OSError as error:
        return _for_now(path, error)
    if len(key) == LENGTH:
        with suppress(OSError):
            path.chmod(0o600)
        return key
    key = secrets.token_bytes(LENGTH)
    try:
        _write(path, key)
    except OSError as error:
        return _for_now(path, error)
    return key


def _for_now(path: Path, error: OSError) -> bytes:
    effect = "links to recordings end with this process"
    log.warning("store.key_not_kept", path=str(path), reason=error.strerror or str(error), effect=effect)
    return secrets.token_bytes(LENGTH)


def _write(path: Path, key: bytes) -> None:
    """Whole or not at all, and on disk when this returns."""
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, key)
        os.fsync(fd)
    finally:
        os.close(fd)
    new.replace(path)
