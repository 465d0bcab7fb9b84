"""A click, and what can be told of it: how it was asked for, how its phone and its number stand, how it ended.

The words that the dialer, the follower of the calls (`click_calls`), the store and the commands share.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Outcome(StrEnum):
    """How a click ended."""

    REFUSED = "refused"
    """By us: its code says why. Nothing was asked of the PBX."""
    REPEATED = "repeated"
    """The same click as one just before; that one's call is its call."""
    NOT_PLACED = "not_placed"
    """The PBX refused, or was not connected."""
    IN_PROGRESS = "in_progress"
    AGENT_NO_ANSWER = "agent_no_answer"
    AGENT_BUSY = "agent_busy"
    AGENT_DECLINED = "agent_declined"
    AGENT_UNREACHABLE = "agent_unreachable"
    """No phone was rung: not registered, or there is none."""
    ANSWERED = "answered"
    """By the number; agent and number talked."""
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    DECLINED = "declined"
    WRONG_NUMBER = "wrong_number"
    FAILED = "failed"
    """The trunk or the PBX could not reach the number."""
    NOT_DIALED = "not_dialed"
    """The agent answered, and the dialplan dialed nobody: an announcement, a menu, or no phone there."""
    GIVEN_UP = "given_up"
    """The agent hung up before the number answered."""
    UNKNOWN = "unknown"
    """Events were lost in between."""


class Side(StrEnum):
    """How the agent's phone, or the number, stands."""

    RINGS = "rings"
    ANSWERED = "answered"
    FAILED = "failed"
    """Which way, the outcome says."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A click as it was asked for, and what was decided at once."""

    click_id: str
    at: datetime
    """Aware UTC."""
    address: str
    user: str
    client_id: str
    extension: str
    number: str
    """As it was asked for."""
    dialed: str | None
    """As it is dialed; None where it came to no number."""
    outcome: Outcome
    """REFUSED, REPEATED or IN_PROGRESS."""
    code: str | None = None
    reason: str | None = None
    pbx: str = ""
    """On which it is placed, or would have been; empty where it came to none."""


@dataclass(frozen=True, slots=True)
class News:
    """How a click stands from now on."""

    click_id: str
    at: datetime
    """Aware UTC: when the event was read that brought it."""
    outcome: Outcome
    phone: Side | None = None
    number: Side | None = None
    cause: int | None = None
    """Hangup cause of the leg that failed."""
    talk_s: int | None = None
    """Seconds from the number's answer to the end; None where they didn't talk, or nobody knows."""
    code: str | None = None
    reason: str | None = None
