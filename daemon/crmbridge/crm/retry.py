"""When a callback is tried again, when it is too old, and when the CRM as a whole is left alone.

Pure: policy and facts go in, a decision comes out; time, dates and chance are handed in. It must not know how requests
are sent, nor keep track of callbacks (lanes.py does).

The breaker is a table of three phases:

    CLOSED   --callbacks fail, one after the other, `BREAKER_FAILURES` different ones-->  OPEN
    CLOSED   --the CRM says when to come back (429 or 503 with Retry-After)----------->  OPEN
    OPEN     --its pause is over, one callback is sent----------------------------------->  PROBING
    PROBING  --that callback fails------------------------------------------------------->  OPEN, for longer
    any      --a callback is confirmed or refused: the CRM is alive---------------------->  CLOSED
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

from crmbridge.calls.events import Kind

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Between two tries of one callback while others get through: it is this one that the CRM can't digest. While nothing
gets through, `LONGEST_PROBE_PAUSE_S` is the longest: in a small office hardly ever do enough callbacks fail to open the
breaker, and a popup that waits for half a minute after the CRM is back is of no use."""

BREAKER_FAILURES = 5
"""Different callbacks: one that the CRM can't digest, tried again and again, must not hold up the others."""
LONGEST_PROBE_PAUSE_S = 5.0
"""A popup is worth something for seconds, and one request in five seconds hurts no CRM."""

LONGEST_RETRY_AFTER_S = 300.0
"""A CRM's mistake (or a date far off) must not silence the bridge for a day."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings: how long a callback is of use, in seconds since the event."""

    ring_expires_s: float = 60.0
    answer_expires_s: float = 3600.0

    def life_s(self, kind: Kind) -> float:
        """How long a callback of this kind is sent."""
        return self.ring_expires_s if kind is Kind.RING else self.answer_expires_s


def pause_s(tries: int, jitter: float, longest_s: float = LONGEST_PAUSE_S) -> float:
    """The pause after the `tries`-th failure in a row (1, 2, …), doubling up to `longest_s`.

    `jitter` (0 up to 1) takes away up to half, so that what failed together isn't tried again together.
    """
    doublings = min(max(tries, 1) - 1, 30)
    return float(min(FIRST_PAUSE_S * 2**doublings, longest_s) * (1 - jitter / 2))


def retry_after_s(value: str | None, now: datetime, date: str | None = None) -> float | None:
    """A Retry-After header in seconds, within bounds; None when there is none, it is past, or it is unreadable.

    A date is told by the CRM's clock, and so is `date`, the answer's own Date header. Only without it, `now` (aware) of
    our clock has to do, which may be another.
    """
    text = (value or "").strip()
    # No number of seconds beyond ten digits needs to be told from another.
    seconds = float(text[:10]) if text.isascii() and text.isdigit() else _seconds_until(text, _instant(date) or now)
    return min(seconds, LONGEST_RETRY_AFTER_S) if seconds > 0 else None


def _seconds_until(http_date: str, now: datetime) -> float:
    at = _instant(http_date)
    return (at - now).total_seconds() if at else 0.0


def _instant(http_date: str | None) -> datetime | None:
    """An HTTP date, aware; None where it is none."""
    try:
        at = parsedate_to_datetime(http_date or "")
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


class Phase(Enum):
    """Where the breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class Breaker:
    """The circuit breaker's state. Every method gives the next state; instants are monotonic seconds."""

    phase: Phase = Phase.CLOSED
    failed: frozenset[int] = frozenset()
    """CLOSED: the callbacks that have failed since one last got through."""
    pauses: int = 0
    """How often it has opened in a row."""
    until: float = 0.0
    """OPEN: when the next probe may go out."""
    probe: int | None = None
    """PROBING: the callback that is under way."""

    def may_send(self, now: float) -> bool:
        """Whether a request may go out now."""
        return self.phase is Phase.CLOSED or (self.phase is Phase.OPEN and now >= self.until)

    def sending(self, callback: int) -> Breaker:
        """A request goes out: a probe, unless the breaker is closed."""
        return self if self.phase is Phase.CLOSED else replace(self, phase=Phase.PROBING, probe=callback)

    def alive(self) -> Breaker:
        """The CRM has confirmed or refused something."""
        return Breaker()

    def failed_with(self, callback: int, now: float, jitter: float, retry_after_s: float | None = None) -> Breaker:
        """A request failed. A given `retry_after_s` opens the breaker at once, for at least as long."""
        if self.phase is Phase.CLOSED:
            failed = self.failed | {callback}
            if retry_after_s is None and len(failed) < BREAKER_FAILURES:
                return replace(self, failed=failed)
        elif self.probe != callback:
            # Sent before the breaker opened: it says nothing new, but for an instant to come back at.
            return replace(self, until=max(self.until, now + (retry_after_s or 0.0)))
        pauses = self.pauses + 1
        pause = pause_s(pauses, jitter, LONGEST_PROBE_PAUSE_S)
        return Breaker(phase=Phase.OPEN, pauses=pauses, until=now + max(pause, retry_after_s or 0.0))

    def abandoned(self, callback: int) -> Breaker:
        """A request ended without saying anything about the CRM. Was it the probe, another may go out."""
        return replace(self, phase=Phase.OPEN, probe=None) if self.probe == callback else self
