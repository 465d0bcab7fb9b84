"""How long the AMI session waits: for answers, and before it tries again. Pure.

The pauses after a refused login are long on purpose. A fail2ban that watches Asterisk's log bans an address after so
many failures within so much time, and one refused login can be three failures in that log; docs/decisions.md has the
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """All of it, in seconds."""

    connect_s: float = 10.0
    """Until there is a connection, TLS and AMI's greeting included."""
    action_s: float = 10.0
    """Until an action is answered."""
    ping_s: float = 5.0
    """Between one ping's answer and the next ping, and until a ping is answered: a connection that only looks open is
    ended within twice this."""
    boot_wait_s: float = 2.0
    """How long `FullyBooted` may take after a login before we go on without it (it needs `read = system`)."""
    list_wait_s: float = 5.0
    """How long the lists of all channels may stand still before we go on without them."""
    list_most_s: float = 60.0
    """How long they may take in all."""
    first_pause_s: float = 0.5
    longest_pause_s: float = 5.0
    stable_s: float = 60.0
    """Reconnecting: pauses double from the first to the longest, and begin anew only after a session that held this
    long, so that a PBX that ends every session at once is not hammered. A popup is worth something for seconds: longer
    pauses would cost those of every call in them, and one connection in some seconds costs nobody anything."""
    refused_pause_s: float = 900.0
    """After a refused login; at least this."""


class Pauses:
    """How long to wait before the next attempt."""

    def __init__(self, timing: Timing, chance: Callable[[], float]) -> None:
        """`chance` gives numbers from 0 to 1: they spread the attempts of many bridges after one outage."""
        self._timing = timing
        self._chance = chance
        self._next_s = timing.first_pause_s

    def after(self, *, held_s: float, refused: bool = False) -> float:
        """Seconds to wait after an attempt whose session held so long (0: there was none), or was refused."""
        if refused:
            return self._timing.refused_pause_s * (1 + self._chance() / 10)
        if held_s > self._timing.stable_s:
            self._next_s = self._timing.first_pause_s
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, self._timing.longest_pause_s)
        return pause_s * (0.5 + self._chance() / 2)
