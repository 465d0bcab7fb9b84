"""RTP that tells who hears whom: each call of a phone sends a byte of its own, and notes the bytes that come in."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections import Counter

from tests.asterisk.lab.changes import Changes
from tests.asterisk.lab.network import Network

PACKET_S, SAMPLES = 0.02, 160
HEARD = 3
"""So many packets of one byte are no chance: Asterisk's own tones and prompts are never flat."""
FIRST_BYTE, LAST_BYTE = 0x10, 0x6F
"""Away from the bytes that are silence in µ-law (0x7F, 0xFF)."""
SILENCE = 0xFF

_bytes = itertools.cycle(range(FIRST_BYTE, LAST_BYTE))


class Audio:
    """The audio of one call, at any free port of an address."""

    def __init__(self, network: Network, address: str) -> None:
        self.byte = next(_bytes)
        """What we send, and nobody else does."""
        self.silent = False
        """Send silence instead: who mixes then lets the others be heard."""
        self._socket = network.bound((address, 0), socket.SOCK_DGRAM)
        self.port: int = self._socket.getsockname()[1]
        self._far: tuple[str, int] | None = None
        self._heard: Counter[int] = Counter()
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._changes = Changes()
        self._packets = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._receive)

    def send_to(self, far: tuple[str, int] | None) -> None:
        """Begin to speak to an address, or go on to another one; None is to be silent."""
        self._far = far
        if self._timer is None and far is not None:
            self._speak()

    def hears(self, other: Audio) -> bool:
        """Whether another one was heard, at any time."""
        return self._heard[other.byte] >= HEARD

    def together_s(self, other: Audio) -> float:
        """For how many seconds the two heard one another: from the later first word to the earlier last one."""
        if not (self.hears(other) and other.hears(self)):
            return 0.0
        began = max(self._first[other.byte], other._first[self.byte])
        ended = min(self._last[other.byte], other._last[self.byte])
        return max(0.0, ended - began)

    async def until_hears(self, other: Audio) -> None:
        """Wait until another one was heard."""
        await self._changes.until(lambda: self.hears(other))

    async def until_hears_again(self, other: Audio) -> None:
        """Wait until another one is heard from now on, whatever was heard before."""
        wanted = self._heard[other.byte] + HEARD
        await self._changes.until(lambda: self._heard[other.byte] >= wanted)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _speak(self) -> None:
        if self._far is None:
            self._timer = None
            return
        self._packets += 1
        stamp = self._packets * SAMPLES
        header = struct.pack("!BBHII", 0x80, 0, self._packets & 0xFFFF, stamp & 0xFFFFFFFF, self.byte)
        self._socket.sendto(header + bytes([SILENCE if self.silent else self.byte]) * SAMPLES, self._far)
        self._timer = self._loop.call_later(PACKET_S, self._speak)

    def _receive(self) -> None:
        try:
            payload = set(self._socket.recv(4096)[12:])
        except (BlockingIOError, ConnectionRefusedError):  # refused: what we sent came back as unreachable
            return
        if len(payload) == 1:
            byte = payload.pop()
            self._heard[byte] += 1
            self._last[byte] = self._loop.time()
            self._first.setdefault(byte, self._last[byte])
            self._changes.notify()
