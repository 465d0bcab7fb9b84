"""What one would read AMI with otherwise, beside ours: each is given the same bytes in the same pieces.

The others parse each event and hand it to one callback that does nothing; ours follows the calls as well.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from panoramisk import Manager
from panoramisk.ami_protocol import AMIProtocol

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.click_calls import ClickCalls
from crmbridge.calls.clients import Clients
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.phone_states import PhoneStates
from crmbridge.calls.tracker import Tracker
from crmbridge.config import PbxSettings
from crmbridge.pbx.wire import FrameReader

EXTENSIONS = r"[17]\d\d"
"""Of the lab's phones."""
WANTED = Tracker.EVENTS | ClickCalls.EVENTS | PhoneStates.EVENTS | {"Cdr", "FullyBooted", "OriginateResponse"}
"""As the daemon has them read (`app`)."""
PACKAGES = Path("build/bench-packages")
REQUIREMENTS = Path("requirements/bench.txt")

Contender = Callable[[Sequence[bytes]], float]
"""Takes pieces as a busy socket gives them; processor seconds."""


def new_tracker() -> Tracker:
    """As the daemon makes it of its defaults."""
    numbers = Numbers(region="IL", form="national", anonymous="anonymous")
    endpoints = Endpoints(extensions=EXTENSIONS, inbound_contexts=PbxSettings().inbound_contexts)
    return Tracker(pbx="pbx", endpoints=endpoints, clients=Clients("10"), caller=numbers.caller)


class Ours:
    """Frame reader and tracker, as in the daemon."""

    def __init__(self) -> None:
        self.reader, self.tracker = FrameReader(WANTED), new_tracker()
        self.told = 0

    def take(self, piece: bytes) -> None:
        now = datetime.now(UTC)
        for frame in self.reader.feed(piece):
            self.told += len(self.tracker.handle(frame, now))


def ours(pieces: Sequence[bytes]) -> float:
    both = Ours()
    began = time.process_time()
    for piece in pieces:
        both.take(piece)
    return time.process_time() - began


def cut_only(pieces: Sequence[bytes]) -> float:
    """Cut frames at their empty lines, and look at nothing."""
    began, rest = time.process_time(), b""
    for piece in pieces:
        chunks = (rest + piece).split(b"\r\n\r\n")
        rest = chunks.pop()
    return time.process_time() - began


def bare_read(pieces: Sequence[bytes]) -> float:
    """Read them from a socket, and do nothing with them: the limit."""
    one, other = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(pieces[0]))
    used = 0.0
    with one, other:
        for piece in pieces:
            one.sendall(piece)
            left, began = len(piece), time.process_time()
            while left:
                left -= len(other.recv(len(piece)))
            used += time.process_time() - began
    return used


def panoramisk(pieces: Sequence[bytes]) -> float:
    """Stock panoramisk 1.4."""
    manager = Manager()
    manager.register_event("*", lambda _manager, _event: None)
    protocol = AMIProtocol()
    protocol.connection_made(None)
    protocol.factory = manager
    began = time.process_time()
    for piece in pieces:
        protocol.data_received(piece)
    return time.process_time() - began


def pyami_asterisk(pieces: Sequence[bytes]) -> float:
    """Stock pyami-asterisk. Raises ImportError where it can't be had."""
    from pyami_asterisk import AMIClient  # noqa: PLC0415  # it may not be there

    return asyncio.run(_pyami(AMIClient, pieces))


async def _pyami(client_class: Callable[[], Any], pieces: Sequence[bytes]) -> float:
    client, loop, count = client_class(), asyncio.get_running_loop(), 0
    events, done = sum(piece.count(b"\r\n\r\n") for piece in pieces), loop.create_future()

    def callback(_event: object) -> None:
        nonlocal count
        count += 1
        if count == events:
            done.set_result(None)

    client.register_event(["*"], callback)
    client._reader, client._connected = asyncio.StreamReader(), True
    began = time.process_time()
    listening = asyncio.create_task(client._event_listener())
    for piece in pieces:
        client._reader.feed_data(piece)
        await asyncio.sleep(0)
    await done
    used = time.process_time() - began
    listening.cancel()
    await asyncio.wait([listening])
    return used


def has_pyami_asterisk() -> bool:
    """Put it where it can be imported from, and nothing of ours is; False where it can't be had (no network)."""
    if not PACKAGES.exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        what = ["--no-deps", "--require-hashes", "--target", str(PACKAGES), "-r", str(REQUIREMENTS)]
        if subprocess.run([*pip, *what], check=False, capture_output=True, timeout=120).returncode:
            return False
    if str(PACKAGES) not in sys.path:
        sys.path.append(str(PACKAGES))
    return True
