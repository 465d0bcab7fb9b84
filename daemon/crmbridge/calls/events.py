"""What the bridge has found out about calls, in the words that every other part shares.

A `CallEvent` is what the tracker says and the outbox keeps; a `Delivery` is a call event on its way to the CRM; an
`Attempt` is one try to deliver it. They stand here because outbox and sender both need them and may not know one
another.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """What happened. The values are the CRM's operation names (client's questionnaire)."""

    RING = "incomingCall"
    ANSWER = "incomingCallAnswered"


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One fact for the CRM: an extension rings for, or talks with, an outside caller.

    `call` is the Uniqueid of the inbound leg: it outlives transfers and merges, which a Linkedid does not.
    """

    kind: Kind
    pbx: str
    call: str
    extension: str
    number: str
    client_id: str
    at: datetime
    """Aware UTC: when the PBX's event was read."""
    linkedid: str
    uniqueid: str
    """The phone's own leg."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes this the same fact, whoever reports it and however often: PBX, call, extension, kind."""
        return (self.pbx, self.call, self.extension, self.kind.value)


class State(StrEnum):
    """Where a callback stands. QUEUED is the only one from which a callback is still sent by itself."""

    QUEUED = "queued"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    EXPIRED = "expired"
    BY_PEER = "told_by_peer"
    """Another bridge on the same PBX has told it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A call event in the outbox."""

    id: int
    event: CallEvent
    state: State
    attempts: int
    next_attempt_at: datetime | None
    """Aware UTC; None when it is due at once or will not be tried again."""
    requeued_at: datetime | None = None
    """Aware UTC: when it was last queued again by hand; its life counts from here instead of from the event."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to the CRM, as it went."""

    at: datetime
    """Aware UTC: when it was sent."""
    duration_s: float
    status: int | None
    """HTTP status; None when there was no answer."""
    outcome: str
    """What the CRM answered, first bytes only, or what went wrong; fit for an administrator to read."""
