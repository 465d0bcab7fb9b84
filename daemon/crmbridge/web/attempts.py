"""How often an address may fail to log in. Pure: time is handed in (seconds of a monotonic clock).

The first few failures cost nothing: somebody mistypes, a password was changed. Each further one doubles a pause in
which no credentials from there are even looked at, so that guessing gets nowhere, whatever was guessed. Quiet is
forgiven bit by bit; a right login forgives nothing, or whoever has one password could go on guessing another's.

Addresses don't touch one another, so nobody can lock out the CRM from elsewhere. An IPv6 network of 64 bits counts as
one address, since it is what one customer is given. What is remembered is bounded; who comes with more addresses than
that has as many first tries anyway.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address

FREE = 10
"""Failures that lead to no pause."""
LONGEST_S = 60.0
"""The longest pause: at most 1,440 guesses a day, and what a CRM waits for at most once its password is mended."""
FORGIVEN_S = 60.0
"""One failure is forgiven for so much quiet."""
MOST = 10_000
"""Addresses remembered, of some 200 bytes each."""

_MOST_FAILURES = FREE + 7.0  # 2**6 s are more than the longest pause
_NETWORK_BITS = 64


class Attempts:
    """Failed logins of all addresses."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._failures: OrderedDict[tuple[int, int], tuple[float, float]] = OrderedDict()
        """Family and network → failures at that instant, and the instant; longest ago first."""

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._failures)

    def wait_s(self, client: IPv4Address | IPv6Address, now_s: float) -> float:
        """How long credentials from here are not looked at; 0 when they are."""
        failures, at_s = self._failures.get(_key(client), (0.0, now_s))
        return max(0.0, at_s + _pause_s(failures) - now_s)

    def failed(self, client: IPv4Address | IPv6Address, now_s: float) -> float:
        """Note a failed login. Returns the pause that follows it, in seconds."""
        key = _key(client)
        failures = min(_left(self._failures.pop(key, (0.0, now_s)), now_s) + 1, _MOST_FAILURES)
        self._failures[key] = failures, now_s
        self._forget(now_s)
        return _pause_s(failures)

    def _forget(self, now_s: float) -> None:
        while len(self._failures) > self._most or _left(next(iter(self._failures.values())), now_s) == 0:
            self._failures.popitem(last=False)


def _pause_s(failures: float) -> float:
    return 0.0 if failures <= FREE else min(LONGEST_S, 2 ** (failures - FREE - 1))


def _left(noted: tuple[float, float], now_s: float) -> float:
    """What is not forgiven yet. Quiet begins when the pause ends."""
    failures, at_s = noted
    return max(0.0, failures - max(0.0, now_s - at_s - _pause_s(failures)) / FORGIVEN_S)


def _key(client: IPv4Address | IPv6Address) -> tuple[int, int]:
    return client.version, int(client) >> (_NETWORK_BITS if client.version == 6 else 0)
