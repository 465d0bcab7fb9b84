"""What becomes of each click: did the agent's phone answer, did the number ring, answer, refuse? Pure.

AMI events in, news about clicks out. A click's id is the ActionID and the ChannelId of its Originate, so the Uniqueid
of the channel that this makes (its root), and the Linkedid of its call. Where the root is a Local, the agent's phone is
behind its other half. What the root dials is the number; everything else is on the phone's side.

The events of one call come in no fixed order: `OriginateResponse` travels another way than those of channels, and an
answer may be told before or after it (seen on 16 and 22, `tests/asterisk/test_clicks.py`). Its Reason tells "no answer"
and little more, so why a phone did not answer is taken from its leg's end. A click that was under way while events were
lost is settled by the next list of channels; what nobody saw is `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from crmbridge.calls.channels import LOCAL
from crmbridge.calls.clicks import News, Outcome, Side
from crmbridge.calls.listing import Headers, Listing

UP, RINGING = "6", "5"
"""Channel states (include/asterisk/channelstate.h)."""
NO_ANSWER, BUSY = "3", "5"
"""OriginateResponse's Reason when the phone rang until the time was up (AST_CONTROL_RINGING, include/asterisk/frame.h),
and when it was busy; 16 and 22 say 0 for that."""

_BUSY_CAUSE, _DECLINED_CAUSE = 17, 21
_MERELY_ENDED = frozenset({0, 16, 18, 19})
"""Causes of a leg that nobody answered: none, normal clearing, no user responding, no answer."""

NOT_SEEN = timedelta(seconds=10)
"""An Originate makes its channel at once; one that is not listed so long after it has come and gone unseen."""

_BY_CAUSE = {
    _BUSY_CAUSE: Outcome.BUSY,
    _DECLINED_CAUSE: Outcome.DECLINED,
    # unallocated, no route (to the network, to the destination), changed, invalid format
    **dict.fromkeys((1, 2, 3, 22, 28), Outcome.WRONG_NUMBER),
}
"""What hangup causes say of a number (include/asterisk/causes.h, Q.850)."""


@dataclass(slots=True, eq=False)
class _Leg:
    above: str = ""
    """Uniqueid of the leg that dialed it, or of the Local's half that it belongs to; empty where none is known."""
    dialed: bool = False
    """By the leg above; else the two are halves of a Local."""
    alive: bool = True


@dataclass(slots=True, eq=False)
class _Call:
    """A click whose call is in progress."""

    news: News
    began_at: datetime
    legs: dict[str, _Leg] = field(default_factory=dict)
    """By Uniqueid, those that are gone among them: events about them may still come."""
    responded: bool = False
    """OriginateResponse has come, or will not come any more."""
    failure: str = ""
    """Why the phone did not answer: a Reason or a DialStatus."""
    status: str = ""
    """DialStatus of the number."""
    rang: bool = False
    answered_at: datetime | None = None

    @property
    def goes_on(self) -> bool:
        return any(leg.alive for leg in self.legs.values())

    @property
    def over(self) -> bool:
        """An answer may be told before any leg is seen, and a failure where there never was one."""
        ended = bool(self.legs) if self.news.phone is Side.ANSWERED else self.responded
        return ended and not self.goes_on

    def is_of_number(self, uniqueid: str) -> bool:
        """Whether this leg was dialed by the root, directly or through Locals; else it is on the phone's side."""
        seen: set[str] = set()
        while uniqueid in self.legs and uniqueid not in seen:
            seen.add(uniqueid)
            leg = self.legs[uniqueid]
            if leg.above == self.news.click_id:
                return leg.dialed
            uniqueid = leg.above
        return False


class ClickCalls:
    """Follows the calls of clicks on one PBX."""

    def __init__(self, *, longest_ring_s: float) -> None:
        """`longest_ring_s`: a click of which nothing was seen for so long is given up."""
        self._patience = timedelta(seconds=longest_ring_s)
        self._calls: dict[str, _Call] = {}
        self._of_leg: dict[str, _Call] = {}
        self._channels = Listing("Uniqueid")
        self._now: datetime
        self._told: list[News] = []

    def __len__(self) -> int:
        """How many clicks are in progress: being placed, or their call not over."""
        return len(self._calls)

    def begin(self, click_id: str, at: datetime) -> None:
        """A click is about to be placed."""
        self._calls[click_id] = _Call(News(click_id, at, Outcome.IN_PROGRESS), at)

    def recall(self, news: News, now: datetime) -> None:
        """A click that was in progress before this began; the first list of channels tells whether it goes on."""
        call = _Call(news, now - NOT_SEEN)
        call.answered_at = news.at if news.number is Side.ANSWERED else None
        self._calls[news.click_id] = call

    def not_placed(self, click_id: str) -> None:
        """The PBX has certainly not placed it."""
        self._forget(self._calls.get(click_id))

    def expire(self, now: datetime) -> list[News]:
        """Give up clicks that nothing was seen of for too long."""
        self._now, self._told = now, []
        for call in list(self._calls.values()):
            if not call.goes_on and now - call.began_at > self._patience:
                self._end(call, unseen=True)
        return self._told

    def handle(self, event: Headers, at: datetime) -> list[News]:
        """Take one AMI event in; the news because of it comes back. `at`: when it was read, aware UTC."""
        if not self._calls:
            return []
        transition = self._TRANSITIONS.get(event.get("Event", ""))
        if transition is None:
            return []
        self._now, self._told = at, []
        transition(self, event)
        return self._told

    # What the events mean

    def _originated(self, event: Headers) -> None:
        call = self._calls.get(event.get("ActionID", "")) or self._calls.get(event.get("Uniqueid", ""))
        if call is None:
            return
        call.responded = True
        if event.get("Response") == "Success":
            self._phone(call, Side.ANSWERED)
        elif event.get("Reason") == NO_ANSWER or not call.failure:
            call.failure = event.get("Reason", "")
        self._look(call)

    def _channel(self, event: Headers) -> None:
        call, uniqueid = self._leg(event), event.get("Uniqueid", "")
        state = event.get("ChannelState")
        if call is None:
            return
        if call.is_of_number(uniqueid):
            if state == RINGING:
                self._number_rings(call)
        elif state == UP and uniqueid == call.news.click_id:
            self._phone(call, Side.ANSWERED)
        elif state == RINGING and not event.get("Channel", "").startswith(f"{LOCAL}/"):
            self._phone(call, Side.RINGS)  # a Local says that it rings, whatever there is behind it

    def _local_bridge(self, event: Headers) -> None:
        call = self._leg(event, "LocalOne")
        if call is None or self._leg(event, "LocalTwo") is not call:
            return
        call.legs[event.get("LocalTwoUniqueid", "")].above = event.get("LocalOneUniqueid", "")

    def _dial_begin(self, event: Headers) -> None:
        call, dialing = self._leg(event, "Dest"), event.get("Uniqueid", "")
        if call is None or dialing not in call.legs:
            return
        dest = event.get("DestUniqueid", "")
        call.legs[dest].above, call.legs[dest].dialed = dialing, True
        if event.get("DestChannelState") == RINGING and call.is_of_number(dest):
            self._number_rings(call)

    def _dial_state(self, event: Headers) -> None:
        call = self._leg(event, "Dest")
        if call is None or event.get("DialStatus") not in ("RINGING", "PROGRESS"):
            return
        if call.is_of_number(event.get("DestUniqueid", "")):
            self._number_rings(call)

    def _dial_end(self, event: Headers) -> None:
        call, status = self._leg(event, "Dest"), event.get("DialStatus", "")
        dest = event.get("DestUniqueid", "")
        if call is None:
            return
        if call.is_of_number(dest):
            self._number_ended(call, status)
        elif dest == call.news.click_id and status == "ANSWER":
            self._phone(call, Side.ANSWERED)
        elif call.news.phone is not Side.ANSWERED and status != "CANCEL":
            # That of the phone's own leg comes before that of a Local in front of it.
            call.failure = call.failure if call.failure == NO_ANSWER else status

    def _bridge_enter(self, event: Headers) -> None:
        call = self._leg(event)
        if call is not None and event.get("Uniqueid") == call.news.click_id:
            self._phone(call, Side.ANSWERED)
            self._number_ended(call, "ANSWER")  # the root is in a bridge only with whom it dialed

    def _hangup(self, event: Headers) -> None:
        call = self._of_leg.get(event.get("Uniqueid", ""))
        if call is None:
            return
        call.legs[event["Uniqueid"]].alive = False
        cause = int(event["Cause"]) if event.get("Cause", "").isdecimal() else 0
        tells = call.is_of_number(event["Uniqueid"]) == (call.news.phone is Side.ANSWERED) or not call.status
        if tells and call.answered_at is None and cause:
            call.news = replace(call.news, cause=cause)
        self._look(call)

    def _listed(self, event: Headers) -> None:
        self._channels.add(event)

    def _all_listed(self, event: Headers) -> None:
        items, whole = self._channels.complete(event)
        if not whole:
            return
        listed = {item.get("Uniqueid", ""): item for item in items}
        for item in items:
            self._leg(item)
        for call in list(self._calls.values()):
            for uniqueid, leg in call.legs.items():
                leg.alive = leg.alive and uniqueid in listed
            root = listed.get(call.news.click_id)
            if root is not None:
                self._take_root(call, root)
            if call.goes_on:
                call.responded = True  # or it was told while nobody listened
            elif call.legs or self._now - call.began_at >= NOT_SEEN:
                self._end(call, unseen=True)

    def _take_root(self, call: _Call, root: Headers) -> None:
        if root.get("ChannelState") == UP:
            self._phone(call, Side.ANSWERED)
        if root.get("BridgeId"):
            self._number_ended(call, "ANSWER")

    # What they amount to

    def _leg(self, event: Headers, prefix: str = "") -> _Call | None:
        """The call of the leg that an event names, which is taken up where it is new and of a click."""
        uniqueid = event.get(prefix + "Uniqueid", "")
        call = self._of_leg.get(uniqueid)
        if call is None and uniqueid:
            call = self._calls.get(event.get(prefix + "Linkedid", "")) or self._calls.get(uniqueid)
            if call is not None:
                call.legs[uniqueid] = _Leg()
                self._of_leg[uniqueid] = call
        return call

    def _phone(self, call: _Call, how: Side) -> None:
        if call.news.phone in (how, Side.ANSWERED):
            return
        # A cause that came before was that of one of several phones.
        self._tell(call, replace(call.news, phone=how, cause=None))

    def _number_rings(self, call: _Call) -> None:
        call.rang = True
        if call.news.number not in (Side.RINGS, Side.ANSWERED):
            self._tell(call, replace(call.news, number=Side.RINGS))

    def _number_ended(self, call: _Call, status: str) -> None:
        if call.answered_at is not None:
            return
        if status == "ANSWER":
            call.answered_at = self._now
            self._tell(call, replace(call.news, number=Side.ANSWERED, cause=None))
        elif status != "CANCEL" or not call.status:  # another one that was dialed at the same time has told more
            call.status = status

    def _tell(self, call: _Call, news: News) -> None:
        call.news = replace(news, at=self._now)
        self._told.append(call.news)

    def _look(self, call: _Call) -> None:
        """Something has ended: is it all over?"""
        if call.over:
            self._end(call)

    def _end(self, call: _Call, *, unseen: bool = False) -> None:
        outcome = _outcome(call, unseen=unseen)
        talk_s = None
        if call.answered_at is not None and not unseen:
            talk_s = round((self._now - call.answered_at).total_seconds())
        phone, number = call.news.phone, call.news.number
        if not unseen:
            phone = phone if phone is Side.ANSWERED else Side.FAILED
            number = Side.FAILED if call.status and number is not Side.ANSWERED else number
        self._tell(call, replace(call.news, outcome=outcome, phone=phone, number=number, talk_s=talk_s))
        self._forget(call)

    def _forget(self, call: _Call | None) -> None:
        if call is not None:
            del self._calls[call.news.click_id]
            for uniqueid in call.legs:
                del self._of_leg[uniqueid]

    _TRANSITIONS: Mapping[str, Callable[[ClickCalls, Headers], None]] = {
        "OriginateResponse": _originated,
        "Newchannel": _channel,
        "Newstate": _channel,
        "LocalBridge": _local_bridge,
        "DialBegin": _dial_begin,
        "DialState": _dial_state,
        "DialEnd": _dial_end,
        "BridgeEnter": _bridge_enter,
        "Hangup": _hangup,
        "CoreShowChannel": _listed,
        "CoreShowChannelsComplete": _all_listed,
    }

    EVENTS = frozenset(_TRANSITIONS)
    """The AMI events that this class wants."""


def _outcome(call: _Call, *, unseen: bool) -> Outcome:
    if call.answered_at is not None:
        return Outcome.ANSWERED
    if unseen and not call.status:
        return Outcome.UNKNOWN
    if call.news.phone is not Side.ANSWERED:
        return _of_phone(call.failure, call.news.cause, rang=call.news.phone is Side.RINGS)
    return _of_number(call.status, call.news.cause or 0, rang=call.rang)


def _of_phone(failure: str, cause: int | None, *, rang: bool) -> Outcome:
    if failure == NO_ANSWER:
        return Outcome.AGENT_NO_ANSWER
    if failure in (BUSY, "BUSY") or cause == _BUSY_CAUSE:
        return Outcome.AGENT_BUSY
    if cause == _DECLINED_CAUSE:
        return Outcome.AGENT_DECLINED
    return Outcome.AGENT_NO_ANSWER if rang else Outcome.AGENT_UNREACHABLE


def _of_number(status: str, cause: int, *, rang: bool) -> Outcome:
    if status == "CANCEL" or (rang and not status):
        return Outcome.GIVEN_UP
    if not status:
        return Outcome.NOT_DIALED
    if status == "BUSY":
        return Outcome.BUSY
    if cause in _BY_CAUSE:
        return _BY_CAUSE[cause]
    return Outcome.NO_ANSWER if status == "NOANSWER" and (rang or cause in _MERELY_ENDED) else Outcome.FAILED
