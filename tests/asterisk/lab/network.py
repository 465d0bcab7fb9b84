"""A network of its own for each lab, so that several PBXes stand side by side and none is seen from outside.

The namespace has no name: it lives as long as this process or one that was started in it, so nothing is left behind
however a test ends. Sockets keep the namespace they were made in, and that is how the test process reaches into it: it
makes them on a short-lived thread that has stepped inside, and uses them as any other.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # sched.h
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """A network namespace with nothing but a loopback, all of 127.0.0.0/8. Needs root."""

    def __init__(self) -> None:
        self._fd = _on_thread(_new_namespace)
        self.run("ip", "link", "set", "lo", "up")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    @property
    def path(self) -> str:
        """The namespace as a file, while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def command(self, *command: str) -> list[str]:
        """The command line that runs `command` inside, and ends it when this process ends."""
        return ["setpriv", "--pdeathsig", "KILL", "--", "nsenter", f"--net={self.path}", "--", *command]

    def run(self, *command: str, timeout_s: float = 30) -> str:
        """Run a command inside to its end; its output. Raises CalledProcessError, TimeoutExpired."""
        done = subprocess.run(self.command(*command), check=True, capture_output=True, text=True, timeout=timeout_s)
        return done.stdout

    def new_socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A new socket inside, neither bound nor connected, that does not block."""

        def make() -> socket.socket:
            made = socket.socket(family, kind)
            made.settimeout(0)
            return made

        return self._inside(make)

    def bound(self, address: tuple[str, int], kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket inside, bound to an address; port 0 is any free one. A stream listens."""
        made = self.new_socket(kind=kind)
        try:
            if kind == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            if kind == socket.SOCK_STREAM:
                made.listen()
        except BaseException:
            made.close()
            raise
        return made

    def connected(self, address: tuple[str, int], timeout_s: float = 5) -> socket.socket:
        """A TCP connection to an address inside. Raises OSError."""
        made = self.new_socket()
        try:
            made.settimeout(timeout_s)
            made.connect(address)
            made.settimeout(0)
        except BaseException:
            made.close()
            raise
        return made

    def _inside(self, make: Callable[[], T]) -> T:
        def step_inside() -> T:
            _check(_libc.setns(self._fd, CLONE_NEWNET))
            return make()

        return _on_thread(step_inside)


def _on_thread(work: Callable[[], T]) -> T:
    """Do it on a thread of its own: a thread's namespace is not the process's, and it ends with it."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work).result()


def _new_namespace() -> int:
    _check(_libc.unshare(CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"network namespaces need root: {os.strerror(number)}")
