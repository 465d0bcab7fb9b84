"""What a test needs of the machine, and what happens where it isn't there: a skip that says why.

With `REQUIRE=all` in the environment it is a failure instead: nothing may be left out in silence.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

TIERS = ("unit", "integration", "asterisk", "system")
"""The folders of tests, cheapest first; that is the order in which they run."""

LIVE = ("asterisk", "system")
"""Those that wait for timers of other programs: a test that fails there is tried once more, and named for it."""


def missing(reason: str) -> NoReturn:
    """Skip the running test, or fail it under REQUIRE=all."""
    if os.environ.get("REQUIRE") == "all":
        pytest.fail(f"{reason} (REQUIRE=all: nothing may be skipped)", pytrace=False)
    pytest.skip(reason)


def lacking(need: str) -> str | None:
    """Why this machine does not have it, None if it has."""
    return _NEEDS[need]()


@cache
def _namespaces() -> str | None:
    """Whether we may make network and mount namespaces, asked of the kernel in a child."""
    if os.geteuid() != 0:
        return "not root: network namespaces and chroots need root"
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.unshare(0x40000000 | 0x00020000) == 0 else 1)  # CLONE_NEWNET | CLONE_NEWNS
    return None if os.waitpid(child, 0)[1] == 0 else "root, but not allowed to make namespaces (CAP_SYS_ADMIN)"


def _programs(*programs: str) -> str | None:
    absent = [program for program in programs if shutil.which(program, path=_path()) is None]
    return f"not installed: {', '.join(absent)} (as root, tests/run installs what is missing)" if absent else None


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _asterisk() -> str | None:
    return _namespaces() or _programs("mmdebstrap", "ip", "nsenter", "unshare", "setpriv")


def _systemd() -> str | None:
    """Whether a host with a systemd of its own can be booted."""
    return _namespaces() or _programs("systemd-nspawn", "mmdebstrap", "ip", "nsenter", "setpriv", "unshare")


@cache
def _php_module(name: str) -> str | None:
    there = subprocess.run(["php", "-m"], capture_output=True, text=True, check=False, timeout=30).stdout.split()
    return None if name in there else f"not installed: PHP's {name} (as root, tests/run installs what is missing)"


def _loop() -> str | None:
    """Whether a file can be mounted as an ext4 disk that can be told to fail."""
    if reason := _mounts() or _programs("mkfs.ext4", "losetup", "findmnt", "fsfreeze"):
        return reason
    ext4 = "ext4" in Path("/proc/filesystems").read_text(encoding="ascii").split()
    there = ext4 and Path("/dev/loop-control").exists() and Path("/sys/fs/ext4").is_dir()
    return None if there else "no loop devices, or no ext4 in this kernel"


def _galera() -> str | None:
    there = Path("/usr/lib/galera/libgalera_smm.so").exists()
    return _NEEDS["mariadb"]() or (None if there else "not installed: galera-4 (as root, tests/run installs it)")


def _mounts() -> str | None:
    return _namespaces() or _programs("unshare", "nsenter", "mount")


_NEEDS: dict[str, Callable[[], str | None]] = {
    "asterisk": _asterisk,
    "loop": _loop,
    "faketime": lambda: _programs("faketime"),
    "curl": lambda: _programs("curl"),
    "mariadb": lambda: _programs("mariadbd", "mariadb-install-db", "mariadb", "setpriv"),
    "mounts": _mounts,
    "galera": _galera,
    "keepalived": lambda: _programs("keepalived"),
    "openssl": lambda: _programs("openssl"),
    "namespaces": lambda: _namespaces() or _programs("ip", "nsenter", "setpriv"),
    "promtool": lambda: _programs("promtool"),
    "php": lambda: _programs("php"),
    "php-mysqli": lambda: _programs("php") or _php_module("mysqli"),
    "shellcheck": lambda: _programs("shellcheck"),
    "sipp": lambda: _programs("sipp"),
    "switch": lambda: _namespaces() or _programs("ip", "nft", "nsenter", "setpriv"),
    "systemd": _systemd,
}
