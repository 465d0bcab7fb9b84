"""The office whose calls `cdr_rows` makes up: its trunks, its callers, its week, and the ids that its Asterisk gives.

Pure but for the random numbers that it is handed.
"""

from __future__ import annotations

from bisect import bisect
from datetime import date, datetime, timedelta
from functools import cache
from itertools import accumulate
from math import expm1, log1p
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo

TIMEZONE = ZoneInfo("Asia/Jerusalem")
FIRST_DAY = date(2023, 11, 5)
"""A Sunday."""
WEEKS = 156

EXTENSIONS = tuple(str(number) for number in range(101, 301))
EXTENSION_PATTERN = r"[12]\d\d|300"
QUEUES = tuple(str(number) for number in range(501, 513))
GROUPS = tuple(str(number) for number in range(601, 621))


class Trunk(NamedTuple):
    """How calls come in, and go out."""

    endpoint: str
    prefix: str
    """Written before a national number in place of its 0."""
    dids: tuple[str, ...]
    caller_id: str
    """What outgoing calls show; empty where each extension shows its own number, so that `src` stays the extension."""


TRUNKS = (
    Trunk("PJSIP/bezeq", "0", tuple(f"03761{n:04}" for n in range(2000, 2100)), "037612000"),
    Trunk("PJSIP/voicenter-2", "0", tuple(f"07720{n:04}" for n in range(5000, 5060)), ""),
    Trunk("PJSIP/partner", "+972", tuple(f"07720{n:04}" for n in range(6000, 6030)), "+972772066000"),
    Trunk("SIP/primario", "972", tuple(f"03527{n:04}" for n in range(1000, 1010)), "035271000"),
)
_TRUNK_SHARES = (0.55, 0.8, 0.92, 1.0)
"""Summed up."""

NUMBERS = 600_000
"""Subscribers who may call or be called."""
_HEAD = 20.0
"""The rank up to which all call about as often; from there on it falls as 1/rank."""
_GROWTH = log1p(NUMBERS / _HEAD)
_PREFIXES = ("050", "052", "053", "054", "058", "050", "052", "054", "03", "03", "04", "08", "09", "077")
_FOREIGN = ("44207", "1212", "7495", "3314", "49302")
_WITHHELD = ("anonymous", "anonymous", "Anonymous", "Restricted", "unknown")
ANONYMOUS = "anonymous"
_NAMES = ("", "", "", "Cohen", "Levi", "ישראל ישראלי", "Office 12", "Мария")


def some_trunk(rng: Random) -> Trunk:
    return TRUNKS[bisect(_TRUNK_SHARES, rng.random())]


def number(rank: int) -> str:
    """The number of this subscriber, as the CRM gets it: national, or E.164 from abroad. No two are the same."""
    # Multiplied with what has no factor in common with ten million: another seven digits for each rank.
    digits = f"{(rank * 7_368_787 + 2_345_678) % 10_000_000:07}"
    if rank % 50 == 7:
        return f"+{_FOREIGN[rank // 50 % len(_FOREIGN)]}{digits}"
    return f"{_PREFIXES[rank % len(_PREFIXES)]}{digits}"


def some_number(rng: Random) -> str:
    """Few call very often, and very many once."""
    return number(int(_HEAD * expm1(_GROWTH * rng.random())))


def some_caller(rng: Random, trunk: Trunk) -> tuple[str, str, str]:
    """Who calls in through this trunk: number as the trunk writes it, name, and number as the CRM gets it."""
    if rng.random() < 0.03:
        return rng.choice(_WITHHELD), "Anonymous", ANONYMOUS
    wanted = some_number(rng)
    if wanted[0] == "+":
        return ("00" + wanted[1:] if trunk.prefix == "0" else wanted), "", wanted
    return trunk.prefix + wanted[1:], _NAMES[int(rng.random() * len(_NAMES))], wanted


def dialed(wanted: str) -> str:
    """How a phone dials this number."""
    return "00" + wanted[1:] if wanted[0] == "+" else wanted


# The week

_WORKDAY = [0.15] * 6 + [0.4, 2, 7, 11, 13, 12, 9, 9, 11, 12, 9, 5, 2, 1, 0.7, 0.4, 0.3, 0.2]
_FRIDAY = [0.15] * 6 + [0.3, 1, 4, 6, 6, 5, 3, 1] + [0.2] * 10
_SATURDAY = [0.12] * 24
_HOURS = list(accumulate(_WORKDAY * 5 + _FRIDAY + _SATURDAY))


def starts(rng: Random, week: int, calls: int) -> list[int]:
    """When the calls of a week begin: epoch seconds, in order."""
    day = FIRST_DAY + timedelta(weeks=week)
    midnight = int(datetime(day.year, day.month, day.day, tzinfo=TIMEZONE).timestamp())
    hours = rng.choices(range(len(_HOURS)), cum_weights=_HOURS, k=calls)
    return sorted(midnight + hour * 3600 + int(rng.random() * 3600) for hour in hours)


_IN_HOUR = tuple(f"{second // 60:02}:{second % 60:02}" for second in range(3600))


@cache
def _hour(hour: int) -> str:
    # Israel's offsets are whole hours.
    return datetime.fromtimestamp(hour * 3600, TIMEZONE).strftime("%Y-%m-%d %H:")


def wall(epoch_s: int) -> str:
    """The PBX's wall time, as in `calldate`."""
    return _hour(epoch_s // 3600) + _IN_HOUR[epoch_s % 3600]


class Asterisk:
    """What Asterisk numbers: all of it begins anew when it restarts."""

    def __init__(self) -> None:
        self._uniqueids = self._sequence = self._locals = 0
        self._channels = {"PJSIP": 0, "SIP": 0}

    def uniqueid(self, epoch_s: int) -> str:
        """Of a channel made now."""
        self._uniqueids += 1
        return f"{epoch_s}.{self._uniqueids - 1}"

    def sequence(self) -> int:
        """Of a call record."""
        self._sequence += 1
        return self._sequence - 1

    def channel(self, endpoint: str) -> str:
        """A new channel's name."""
        technology = endpoint[: endpoint.index("/")]
        self._channels[technology] += 1
        return f"{endpoint}-{self._channels[technology] - 1:08x}"

    def local(self, what: str) -> str:
        """What the names of both halves begin with."""
        self._locals += 1
        return f"Local/{what}-{self._locals - 1:08x};"
