"""Which callback goes next: in order within a call, side by side between calls.

Pure bookkeeping, without a clock: instants are monotonic seconds and are handed in, so that a wall clock set by an hour
changes nothing. It must not know what a request is, how long pauses are, or where callbacks are kept.

Each call has a lane. Only the head of a lane may be sent, and while it is under way or pausing the rest of its lane
waits. A pausing lane is in nobody's way. Among lanes that are ready the one whose head came last goes first: behind a
backlog of an hour, the phone that rings now is what somebody looks at.

The heaps are not searched: what has become untrue stays in them and is skipped when it comes up.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from crmbridge.calls.events import Delivery

LaneKey = tuple[str, str]


@dataclass(slots=True, eq=False)
class Entry:
    """A callback in memory."""

    delivery: Delivery
    born: float
    """When the event was seen, on the monotonic clock (before this process's time, after a restart)."""
    deadline: float
    """When it is too old to be of use."""
    order: int
    """The how-manieth it is that was handed in."""
    attempts: int
    due: float | None = None
    """Pausing until then; None: ready as soon as it heads its lane."""
    under_way: bool = False
    through: int = 0
    """How many callbacks had got through when this one last failed."""

    @property
    def lane(self) -> LaneKey:
        """The call that it belongs to."""
        return (self.delivery.event.pbx, self.delivery.event.call)


class Lanes:
    """All callbacks that wait, pause or are under way."""

    def __init__(self) -> None:
        """Nothing waits yet."""
        self._entries: dict[int, Entry] = {}
        self._lanes: dict[LaneKey, deque[Entry]] = {}
        self._ready: list[tuple[int, int]] = []
        self._pausing: list[tuple[float, int]] = []
        self._deadlines: list[tuple[float, int]] = []
        self._handed_in = 0

    def __len__(self) -> int:
        """How many there are, those under way included."""
        return len(self._entries)

    def __contains__(self, delivery_id: int) -> bool:
        """Whether this one is here."""
        return delivery_id in self._entries

    def ids(self) -> set[int]:
        """All that are here."""
        return set(self._entries)

    def oldest(self) -> Entry | None:
        """The one handed in first of all that are here."""
        return next(iter(self._entries.values()), None)

    def add(self, delivery: Delivery, born: float, deadline: float, due: float | None = None) -> None:
        """Put a callback at the end of its call's lane. One that is here already is left as it is."""
        if delivery.id in self._entries:
            return
        self._handed_in += 1
        entry = Entry(delivery, born, deadline, self._handed_in, delivery.attempts, due)
        self._entries[delivery.id] = entry
        lane = self._lanes.setdefault(entry.lane, deque())
        lane.append(entry)
        heapq.heappush(self._deadlines, (deadline, delivery.id))
        if lane[0] is entry:
            self._enqueue(entry)

    def take(self, now: float) -> Entry | None:
        """The next one to send, from now on under way; None when none is ready."""
        while self._pausing and (self._pausing[0][0] <= now or not self._pauses(*self._pausing[0])):
            due, delivery_id = heapq.heappop(self._pausing)
            if self._pauses(due, delivery_id):
                entry = self._entries[delivery_id]
                entry.due = None
                self._enqueue(entry)
        while self._ready:
            head = self._entries.get(heapq.heappop(self._ready)[1])
            if head and self._is_idle_head(head) and head.due is None:
                head.under_way = True
                return head
        return None

    def pause(self, entry: Entry, due: float) -> None:
        """Give back one that was under way; it heads its lane again at `due`."""
        entry.under_way = False
        entry.due = due
        self._enqueue(entry)

    def remove(self, entry: Entry) -> None:
        """It is done with, or somebody took it back: the next of its lane may go."""
        del self._entries[entry.delivery.id]
        lane = self._lanes[entry.lane]
        was_head = lane[0] is entry
        lane.remove(entry)
        if not lane:
            del self._lanes[entry.lane]
        elif was_head:
            self._enqueue(lane[0])
        self._shrink()

    def remove_idle(self, delivery_id: int) -> Entry | None:
        """Take back one that is not under way; None where there is none."""
        entry = self._entries.get(delivery_id)
        if entry is None or entry.under_way:
            return None
        self.remove(entry)
        return entry

    def take_overdue(self, now: float) -> list[Entry]:
        """All that are too old, from now on under way: the caller removes them once that is stored.

        One under way already stays where it is: what it comes back with decides.
        """
        overdue = []
        while self._deadlines and self._deadlines[0][0] <= now:
            entry = self._entries.get(heapq.heappop(self._deadlines)[1])
            if entry and not entry.under_way:
                entry.under_way = True
                overdue.append(entry)
        return overdue

    def end_pauses(self) -> None:
        """The CRM is back: what waited for its own next try needn't."""
        pausing, self._pausing = self._pausing, []
        for due, delivery_id in pausing:
            if self._pauses(due, delivery_id):
                self._entries[delivery_id].due = None
                self._enqueue(self._entries[delivery_id])

    def next_at(self) -> float | None:
        """When time alone will next make a difference: a pause over, or one too old."""
        while self._pausing and not self._pauses(*self._pausing[0]):
            heapq.heappop(self._pausing)
        while self._deadlines and self._deadlines[0][1] not in self._entries:
            heapq.heappop(self._deadlines)
        instants = [heap[0][0] for heap in (self._pausing, self._deadlines) if heap]
        return min(instants, default=None)

    def _enqueue(self, entry: Entry) -> None:
        if entry.due is not None:
            heapq.heappush(self._pausing, (entry.due, entry.delivery.id))
        else:
            heapq.heappush(self._ready, (-entry.order, entry.delivery.id))

    def _is_idle_head(self, entry: Entry) -> bool:
        return not entry.under_way and self._lanes[entry.lane][0] is entry

    def _pauses(self, due: float, delivery_id: int) -> bool:
        entry = self._entries.get(delivery_id)
        return entry is not None and entry.due == due and self._is_idle_head(entry)

    def _shrink(self) -> None:
        # An answer confirmed in a second would else be remembered for an hour.
        if len(self._deadlines) > 2 * len(self._entries) + 1000:
            self._deadlines = [(entry.deadline, key) for key, entry in self._entries.items()]
            heapq.heapify(self._deadlines)
