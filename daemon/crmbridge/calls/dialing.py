"""Whether a click of the CRM becomes a call: once, only for whom and to where it may be, and not too often. Pure.

Time is handed in (seconds of a monotonic clock), and so is what became of a click. How a call is placed, and who may
ask over HTTP at all, is not known here.

A click is known by client, extension and dialed number. While one is being placed, and for a while after it was (or may
have been), the same click again is no second call: it shares the first one's fate. Only when the PBX has certainly
placed nothing may it be tried again at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from crmbridge.calls.dialable import Dialable, MalformedError, NotAllowedError
from crmbridge.calls.phone_states import PhoneState
from crmbridge.calls.routing import Phones, nearest


class Code(StrEnum):
    """Why a click is no call, as the CRM is told."""

    MALFORMED = "malformed_parameter"
    UNKNOWN_CLIENT = "unknown_client"
    EXTENSION = "extension_not_allowed"
    AMBIGUOUS = "extension_ambiguous"
    NUMBER = "number_not_allowed"
    UNREACHABLE = "extension_unreachable"
    BUSY = "extension_busy"
    TOO_MANY = "too_many"
    NOT_CONNECTED = "pbx_not_connected"
    REFUSED = "originate_failed"
    UNKNOWN = "originate_unknown"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A click that is no call."""

    code: Code
    message: str
    retry_after_s: float = 0.0
    pbx: str = ""
    """To which it would have gone; empty where it came to none."""


UNKNOWN_CLIENT = Refusal(Code.UNKNOWN_CLIENT, "no client here has this ClientId")
"""The same for a client that is none and for one that somebody else's credentials are for."""


_IN_VAIN = {
    PhoneState.AWAY: Refusal(
        Code.UNREACHABLE, "the extension's phone is not registered or does not answer the PBX (dialer.when_away)"
    ),
    PhoneState.TALKS: Refusal(Code.BUSY, "the extension talks on its phone (dialer.when_talking)"),
}
_LINE_FREE_S = 10.0
"""When it is worth asking again whether one of many calls is over."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of placing a call: it was placed, or a code says why not."""

    code: Code | None = None
    """None: placed, the agent's phone is being rung. UNKNOWN: the PBX didn't answer, it may ring. Others: it was
    certainly not placed."""
    message: str = ""


NOT_PLACED = frozenset({Code.REFUSED, Code.NOT_CONNECTED})
"""Of a result, the codes of what may be tried again at once."""


@dataclass(slots=True, eq=False)
class Click:
    """A click that may be dialed."""

    id: str
    client_id: str
    extension: str
    number: str
    """As it is dialed."""
    pbx: str
    at_s: float
    result: Result | None = None
    """None while it is being placed."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes another one the same click."""
        return (self.client_id, self.extension, self.number)


@dataclass(frozen=True, slots=True)
class DialingRules:
    """What the settings say of clicks."""

    dialable: Mapping[str, Dialable]
    """By PBX."""
    per_extension_per_minute: int
    per_minute: int
    duplicate_window_s: float
    max_calls: int = 30
    """Clicks that may have calls at once."""
    not_rung: Collection[PhoneState] = (PhoneState.AWAY, PhoneState.TALKS)
    """The states of phones that are not rung."""


class Dialing:
    """Decides about clicks for all PBXes of a bridge, each of which has its own phones; the limits are one."""

    def __init__(
        self,
        rules: DialingRules,
        phones: Sequence[Phones],
        *,
        in_progress: Callable[[], int] = lambda: 0,
    ) -> None:
        """`phones`: of each PBX that `rules` name.

        `in_progress`: how many clicks are being placed or have a call that is not over.
        """
        self._rules = rules
        self._phones = phones
        self._in_progress = in_progress
        self._clicks: dict[tuple[str, str, str], Click] = {}
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._all = _Bucket(rules.per_minute)

    def follow(self, rules: DialingRules) -> None:
        """Decide by these rules from now on. Clicks that were admitted stay so, and count."""
        if rules.per_minute != self._rules.per_minute:
            self._all = _Bucket(rules.per_minute)
        if rules.per_extension_per_minute != self._rules.per_extension_per_minute:
            self._buckets.clear()
        self._rules = rules

    @property
    def only(self) -> str | None:
        """The PBX to which every click goes; None where there are several."""
        return self._phones[0].pbx if len(self._phones) == 1 else None

    def __len__(self) -> int:
        """How many clicks are remembered."""
        return len(self._clicks)

    def admit(self, *, client_id: str, extension: str, number: str, click_id: str, now_s: float) -> Click | Refusal:
        """Decide about a click.

        A Click with this `click_id` is to be placed, and then to be settled; one with another id is an earlier one
        that this repeats.
        """
        phones = self._routed(client_id, extension)
        if isinstance(phones, Refusal):
            return phones
        try:
            dialed = self._rules.dialable[phones.pbx].dialed(number)
        except MalformedError as error:
            return Refusal(Code.MALFORMED, f"sNumber: {error}", pbx=phones.pbx)
        except NotAllowedError as error:
            return Refusal(Code.NUMBER, str(error), pbx=phones.pbx)
        if dialed == extension:
            return Refusal(Code.NUMBER, "an extension can't call itself", pbx=phones.pbx)
        self._forget(now_s)
        click = Click(click_id, client_id, extension, dialed, phones.pbx, now_s)
        before = self._clicks.get(click.key)
        if before is not None:
            return before
        refusal = self._start(click, phones.state(extension))
        return replace(refusal, pbx=phones.pbx) if refusal else click

    def settle(self, click: Click, result: Result, now_s: float) -> None:
        """Note what became of a click. What was certainly not placed may be clicked again at once."""
        click.result = result
        click.at_s = now_s
        if result.code in NOT_PLACED:
            self._clicks.pop(click.key, None)

    def _routed(self, client_id: str, extension: str) -> Phones | Refusal:
        """On which PBX this click rings."""
        serving = [one for one in self._phones if one.serves(client_id)]
        if not serving:
            return UNKNOWN_CLIENT
        dialable = self._rules.dialable
        able = [one for one in serving if dialable[one.pbx].is_extension(extension) and one.owns(client_id, extension)]
        if not able:
            return Refusal(Code.EXTENSION, "sExt is no extension of this client (pbx.extensions, crm.clients)")
        found = nearest(able, client_id, extension)
        if len(found) > 1:
            names = ", ".join(one.pbx for one in found)
            why = f"sExt may be a phone of several PBXes ({names}): name it in crm.clients, with the PBX that has it"
            return Refusal(Code.AMBIGUOUS, why)
        return found[0]

    def _start(self, click: Click, state: PhoneState) -> Refusal | None:
        rules = self._rules
        if state in rules.not_rung:
            return _IN_VAIN[state]
        if self._in_progress() >= rules.max_calls:
            why = f"{rules.max_calls} clicks have calls in progress already (dialer.max_calls)"
            return Refusal(Code.TOO_MANY, why, _LINE_FREE_S)
        phone = (click.pbx, click.extension)
        bucket = self._buckets.setdefault(phone, _Bucket(rules.per_extension_per_minute))
        wait_s = max(bucket.wait_s(click.at_s), self._all.wait_s(click.at_s))
        if wait_s > 0:
            return Refusal(Code.TOO_MANY, "too many clicks in the last minute (dialer.per_minute and others)", wait_s)
        bucket.take(click.at_s)
        self._all.take(click.at_s)
        self._clicks[click.key] = click
        return None

    def _forget(self, now_s: float) -> None:
        """Drop what decides nothing any more. What is still being placed stays."""
        for click in [
            one for one in self._clicks.values() if one.result and now_s - one.at_s >= self._rules.duplicate_window_s
        ]:
            del self._clicks[click.key]
        for phone in [one for one, bucket in self._buckets.items() if bucket.is_full(now_s)]:
            del self._buckets[phone]


class _Bucket:
    """A token bucket: so many at once, and so many per minute."""

    __slots__ = ("_at_s", "_per_minute", "_tokens")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._tokens = float(per_minute)
        self._at_s: float | None = None

    def wait_s(self, now_s: float) -> float:
        """How long until one more is allowed; 0 when it is now."""
        self._fill(now_s)
        return max(0.0, 1 - self._tokens) * 60 / self._per_minute

    def take(self, now_s: float) -> None:
        self._fill(now_s)
        self._tokens -= 1

    def is_full(self, now_s: float) -> bool:
        self._fill(now_s)
        return self._tokens >= self._per_minute

    def _fill(self, now_s: float) -> None:
        if self._at_s is not None:
            self._tokens = min(self._per_minute, self._tokens + (now_s - self._at_s) * self._per_minute / 60)
        self._at_s = now_s
