"""Tells systemd that the bridge is ready, how it stands, and that it is alive (sd_notify(3), `Type=notify`).

A datagram to the socket that $NOTIFY_SOCKET names, and no library: the protocol is these few lines, and systemd
promises that it stays. Where that is unset, nobody listens and nothing is sent. It must not know what is told.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger("crmbridge.systemd")

ROUND_S = 1.0
"""How often the state is looked at: it is told at most that often, and only when it has changed."""


class ServiceManager:
    """The service manager that has started this process."""

    def __init__(self, address: str, watchdog_s: float | None = None) -> None:
        """`address`: of its socket, @ for one in the abstract namespace. `watchdog_s`: as long may pass in silence."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._round_s = min(ROUND_S, watchdog_s / 4) if watchdog_s else ROUND_S
        self._watchdog = watchdog_s is not None
        self._ready = False
        self._told = ""
        self._late: list[str] = []
        self._unheard = False

    @asynccontextmanager
    async def kept_told(self, status: Callable[[], str], late: Callable[[], Sequence[str]]) -> AsyncIterator[None]:
        """On the way in we are ready, on the way out we stop. In between: how we stand, and that no part is `late`."""
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(self._keep_told(status, late), name="systemd")
            try:
                yield
            finally:
                telling.cancel()
                self._send({"STOPPING": "1", "STATUS": "stopping: what is under way is finished"})

    async def _keep_told(self, status: Callable[[], str], late: Callable[[], Sequence[str]]) -> None:
        while True:
            self._tell(status(), late())
            await asyncio.sleep(self._round_s)

    def _tell(self, status: str, late: Sequence[str]) -> None:
        if list(late) != self._late:
            self._late = list(late)
            self._log_late()
        if late:
            status = f"{status}, hangs: {', '.join(late)}"
        message = {} if self._ready else {"READY": "1"}
        if status != self._told:
            message["STATUS"] = status
        if self._watchdog and not late:
            message["WATCHDOG"] = "1"
        if message and self._send(message):  # what could not be told is told next time
            self._ready = True
            self._told = status

    def _log_late(self) -> None:
        if self._late:
            hint = "without a sign of life systemd ends this process and starts it again"
            log.error("watchdog.part_hangs", parts=self._late, hint=hint)
        else:
            log.warning("watchdog.parts_go_on")

    def _send(self, message: Mapping[str, str]) -> bool:
        text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in message.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._unheard:
                log.warning("systemd.does_not_listen", error=str(error), hint="$NOTIFY_SOCKET can't be written to")
            self._unheard = True
            return False
        self._unheard = False
        return True


def service_manager(environment: Mapping[str, str] = os.environ) -> ServiceManager | None:
    """Who has started this process and wants to be told; None where nobody does."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return None
    if not address.startswith(("/", "@")):
        log.warning("systemd.unknown_socket", hint="$NOTIFY_SOCKET is neither a path nor an @name; nothing is told")
        return None
    return ServiceManager(address, watchdog_s(environment, os.getpid()))


def watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which we must be heard from ($WATCHDOG_USEC), None where nobody waits for it."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
