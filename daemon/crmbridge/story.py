"""All that happened to a call, in the order of time: what the CRM was told, clicks, lines of the call list.

It is put together from what outbox, clicks and call list keep, not from the log: those are there when the journal has
long been rotated away. Reads nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from crmbridge.calls.clicks import Outcome
from crmbridge.calls.events import Attempt, Delivery, Kind, State
from crmbridge.calls.history import CallRow
from crmbridge.store.clicks import Listed

_SAYS = {Kind.RING: "rings for", Kind.ANSWER: "talks with"}
_BECAME = {
    State.QUEUED: "waits to be told",
    State.CONFIRMED: "told",
    State.REFUSED: "refused by the CRM",
    State.EXPIRED: "not told in time",
    State.BY_PEER: "told by another bridge",
}
_DECIDED_AT_ONCE = {Outcome.REFUSED: "refused", Outcome.REPEATED: "the same click again"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened."""

    at: datetime
    """Aware UTC."""
    pbx: str
    linkedid: str
    source: str
    """`callback`, `request` (to the CRM), `click` or `call list`."""
    extension: str
    number: str
    what: str


@dataclass(frozen=True, slots=True)
class Told:
    """A callback with every attempt to deliver it."""

    delivery: Delivery
    attempts: Sequence[Attempt]
    dropped: bool
    """By hand."""


def timeline(told: Iterable[Told], clicks: Iterable[Listed], lines: Iterable[CallRow]) -> list[Entry]:
    """Oldest first; what happened at the same instant stays in the order callback, request, click, call list."""
    entries = [entry for one in told for entry in _callback(one)]
    entries += [entry for one in clicks for entry in _click(one)]
    entries += [_line(one) for one in lines]
    return sorted(entries, key=lambda entry: entry.at)


def _callback(one: Told) -> Iterator[Entry]:
    event = one.delivery.event
    about = event.pbx, event.linkedid, event.extension, event.number
    became = "dropped by hand" if one.dropped else _BECAME[one.delivery.state]
    yield _entry(event.at, "callback", *about, f"{_SAYS[event.kind]} the caller, ClientId {event.client_id}: {became}")
    for attempt in one.attempts:
        what = f"{event.kind.value}: {attempt.outcome} ({attempt.duration_s * 1000:.0f} ms)"
        yield _entry(attempt.at, "request", *about, what)


def _click(one: Listed) -> Iterator[Entry]:
    asked, news = one.asked, one.news
    about = asked.pbx, asked.click_id, asked.extension, asked.dialed or asked.number
    who = ":".join(filter(None, (asked.user, asked.address)))
    decided = _DECIDED_AT_ONCE.get(news.outcome)
    why = f", {news.code}: {news.reason}" if news.code else ""
    asked_for = f"asked for by {who}, ClientId {asked.client_id}"
    yield _entry(asked.at, "click", *about, f"{asked_for}: {decided}{why}" if decided else asked_for)
    if not decided and news.outcome is not Outcome.IN_PROGRESS:
        talk = f", they talked {news.talk_s} s" if news.talk_s is not None else ""
        cause = f", hangup cause {news.cause}" if news.cause is not None else ""
        yield _entry(news.at, "click", *about, f"ended: {news.outcome.value}{talk}{cause}{why}")


def _line(row: CallRow) -> Entry:
    direction = "incoming" if row.incoming else "outgoing"
    how = f"talked {row.talk_s} s" if row.talk_s else "nobody talked"
    recording = f", recorded as {row.filename}" if row.filename else ""
    what = f"{direction}, {how}, ClientId {row.client_id}{recording}"
    return _entry(row.started_at, "call list", row.pbx, row.linkedid, row.extension, row.number, what)


def _entry(at: datetime, source: str, pbx: str, linkedid: str, extension: str, number: str, what: str) -> Entry:
    return Entry(at, pbx, linkedid, source, extension, number, what)
