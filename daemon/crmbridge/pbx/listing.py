"""Lists of all that there is on the PBX, and the events around them: what goes on to the tracker, and in which order.

Pure: no sockets, no clock. After a login, and whenever events were lost, a list is newer than whatever was known and
than the events that came before it; so these are held until it is complete and go on after it. A list goes on whole or
not at all: half of one would look as if all other channels had gone. Whoever asks again while a list is under way gets
another one afterwards; where events were lost meanwhile, the one under way is dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from crmbridge.pbx.actions import Action
from crmbridge.pbx.wire import Frame

Taken = tuple[Frame, datetime]
"""A frame and the instant it was read."""


@dataclass(frozen=True, slots=True)
class List:
    """A list that we ask for."""

    action: str
    complete: str
    """The event that ends it."""
    item: str = ""
    """The event that comes in this list only; empty where it comes by itself, too."""
    family: str = ""
    """What of Asterisk's database."""
    of_phones: bool = False
    """It says whose phone is which, and may be another one after a reload."""
    optional: bool = False
    """Not every PBX has it."""

    def asked(self, action_id: str) -> Action:
        """The action that asks for it."""
        family = {"Family": self.family} if self.family else {}
        return {"Action": self.action, **family, "ActionID": action_id}


LISTS = (
    List("ExtensionStateList", "ExtensionStateListComplete", of_phones=True),
    # FreePBX's devices; Asterisk before 16.28 and 18.14 has no DBGetTree: there the hints do.
    List("DBGetTree", "DBGetTreeComplete", "DBGetTreeResponse", family="DEVICE", of_phones=True, optional=True),
    # By res_manager_devicestate, which may not be loaded: then clicks are tried, whatever state the phone is in.
    List("DeviceStateList", "DeviceStateListComplete", optional=True),
    List("BridgeList", "BridgeListComplete", "BridgeListItem"),
    List("CoreShowChannels", "CoreShowChannelsComplete", "CoreShowChannel"),
)
"""In the order in which they are asked for. Asterisk answers one action after the other, so the last is complete
last (main/manager.c, session_do)."""

PHONES = tuple(one for one in LISTS if one.of_phones)

OF_LISTS = frozenset(name for one in LISTS for name in (one.item, one.complete) if name)
"""Events that only ever answer an action; no event filter concerns these."""

_PREFIX = "resync-"
"""How the ActionIDs begin, and so those of all frames that answer; then the round's number and the action."""


class Listing:
    """The lists under way, and the events that wait for them."""

    def __init__(self, apart: Collection[str] = ()) -> None:
        """`apart`: events that have nothing to do with what is listed; they never wait."""
        self._apart = frozenset(apart)
        self._round = 0
        self._awaited: dict[str, List] = {}
        self._items: dict[str, list[Taken]] = {}
        self._held: list[Taken] | None = None
        self._due: dict[str, List] = {}
        self._given_up = False
        self.progress = 0
        """Frames of lists that have come; where it stands still, no list is coming."""

    @property
    def awaited(self) -> list[str]:
        """The actions whose lists have not come."""
        return [] if self._given_up else list(self._awaited)

    def begin(self) -> None:
        """A session begins: what was under way comes no more, and events wait for the first list."""
        self._round += 1
        self._awaited, self._items, self._due, self._held = {}, {}, {}, []

    def ask(self, lists: Iterable[List] = LISTS) -> list[Action]:
        """The actions that ask for these lists; none as long as others are under way: `due` has them then."""
        asked = {one.action: one for one in lists}
        if self.awaited:
            self._due |= asked
            return []
        return self._start(asked)

    def ask_after_loss(self, not_given: Iterable[Taken] = ()) -> list[Action]:
        """The actions that ask for all lists since events were lost; what comes meanwhile waits for them.

        `not_given`: frames that were handed out, but did not get where they should.
        """
        waiting = [taken for taken in not_given if not _is_answer(taken[0])]
        self._held = waiting + (self._held or [])
        self._due = {}
        return self._start({one.action: one for one in LISTS})

    @property
    def is_due(self) -> bool:
        """Whether `due` has any."""
        return bool(self._due) and not self.awaited

    def due(self) -> list[Action]:
        """The actions that ask for what was asked for while other lists were under way, once those are in."""
        if not self.is_due:
            return []
        due, self._due = self._due, {}
        return self._start(due)

    def take(self, frame: Frame, at: datetime) -> list[Taken]:
        """Take a frame; those whose turn it is now come back, in order."""
        if self._awaited and _is_answer(frame):
            return self._take_answer(frame, at)
        event = frame.get("Event")
        if event is None:
            return []
        if self._held is not None and event not in self._apart:
            self._held.append((frame, at))
            return []
        return [(frame, at)]

    def give_up(self) -> list[Taken]:
        """Wait no longer: the frames that waited. A list that still comes, whole, is taken all the same."""
        self._given_up = True
        held, self._held = self._held or [], None
        return held

    def _start(self, asked: dict[str, List]) -> list[Action]:
        self._round += 1
        self._given_up = False
        self._awaited, self._items = dict(asked), {action: [] for action in asked}
        # Another ActionID each time: the rest of an old list must not be taken for a new one.
        return [one.asked(f"{_PREFIX}{self._round}-{one.action}") for one in asked.values()]

    def _take_answer(self, frame: Frame, at: datetime) -> list[Taken]:
        number, _, action = frame["ActionID"].removeprefix(_PREFIX).partition("-")
        awaited = self._awaited.get(action)
        if number != str(self._round) or awaited is None:
            return []  # of a list that nobody waits for any more
        self.progress += 1
        if frame.get("Response") == "Error":
            return self._close(action, [])
        if "Event" not in frame:
            return []
        self._items[action].append((frame, at))
        return self._close(action, self._items[action]) if frame["Event"] == awaited.complete else []

    def _close(self, action: str, items: list[Taken]) -> list[Taken]:
        """A list is in, or was refused. With the last one no earlier one can come any more."""
        is_last = action == list(self._awaited)[-1]
        del self._awaited[action]
        if not is_last:
            return items
        self._awaited = {}
        held, self._held = self._held or [], None
        return items + held


def refusal(frame: Frame) -> str | None:
    """The action that this frame refuses, where it is one that asks for a list that every PBX has."""
    if frame.get("Response") != "Error" or not _is_answer(frame):
        return None
    action = frame["ActionID"].removeprefix(_PREFIX).partition("-")[2]
    return None if any(one.optional for one in LISTS if one.action == action) else action


def _is_answer(frame: Frame) -> bool:
    return frame.get("ActionID", "").startswith(_PREFIX)
