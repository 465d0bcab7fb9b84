"""What the sender is told, what it needs of the outbox, and what it tells of itself."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from crmbridge.calls.events import Attempt, Delivery, State


class Outbox(Protocol):
    """What the sender needs of the outbox."""

    def record(
        self, delivery_id: int, attempt: Attempt, state: State, next_attempt_at: datetime | None = None
    ) -> Awaitable[bool]:
        """Store an attempt and where the callback stands now; False when somebody has taken it back meanwhile."""

    async def expire(self, delivery_ids: Sequence[int]) -> None:
        """These are too old to be of use."""

    async def changes(self) -> Sequence[Delivery] | None:
        """All that are queued, if another process has changed the outbox since this was last asked; else None."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the CRM, and how hard to try."""

    url: str
    concurrency: int = 8
    """Requests under way at the same time, each of another call."""
    timeout_s: float = 10.0
    ring_expires_s: float = 60.0
    answer_expires_s: float = 3600.0
    stop_grace_s: float = 5.0
    """How long a stop waits for what is under way."""
    ssl_context: ssl.SSLContext | None = None
    """None: the system's certificates."""
    names_pbxes: bool = False
    """Lines of the log say which PBX a callback is from."""


@dataclass(slots=True)
class Stats:
    """What went on since the start, for metrics."""

    outcomes: dict[State, int] = field(
        default_factory=lambda: {state: 0 for state in State if state is not State.QUEUED}
    )
    requests: int = 0
    failures: int = 0
    """Requests that will be, or would have been, tried again."""
    waiting: int = 0
    """Callbacks in memory, those under way included."""
    under_way: int = 0
    oldest_s: float = 0.0
    """Age of the oldest that waits."""
    crm_down: bool = False
    last_confirmed_s: float | None = None
    """Seconds from the last confirmed callback's event to its confirmation."""
    last_failure: str = ""
