"""Call records of made-up calls of every kind, and what the call list must say of each. Pure, seeded.

A week is made from the seed and its number alone, so that several processes make the same rows as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from random import Random

from tests.bench import cdr_incoming as incoming
from tests.bench import cdr_outgoing as outgoing
from tests.bench.cdr_making import Call, Making
from tests.bench.cdr_office import WEEKS, Asterisk, starts

ROWS_A_CALL = 1.91
"""On average; a test holds it against what is made."""
RESTARTS = 0.3
"""Of the weeks: Asterisk restarts within them, too, and not only before each."""

SHARES: dict[Callable[[Making], None], float] = {
    incoming.did_answered: 19,
    incoming.did_missed: 4,
    incoming.did_busy: 1.5,
    incoming.did_voicemail: 4.5,
    incoming.ring_group: 9,
    incoming.queue_of_locals: 7,
    incoming.queue_of_devices: 6,
    incoming.queue_of_nobody: 1,
    incoming.menu_answered: 7,
    incoming.menu_missed: 1.5,
    incoming.menu_left: 2,
    incoming.blind_transfer: 2,
    incoming.attended_transfer: 2,
    incoming.pickup: 1.5,
    incoming.followme_mobile: 1.5,
    incoming.followme_phone: 0.5,
    outgoing.out_answered: 13,
    outgoing.out_missed: 3,
    outgoing.out_busy: 1,
    outgoing.out_busy_unanswered: 0.5,
    outgoing.out_by_second_trunk: 1.5,
    outgoing.out_handed_on: 0.5,
    outgoing.click_local: 1.5,
    outgoing.click_local_missed: 0.5,
    outgoing.click_device: 2,
    outgoing.internal_answered: 5,
    outgoing.internal_missed: 1.5,
}
"""Of all calls, how many are of which kind."""
_KINDS = list(SHARES)
_SUMMED = list(accumulate(SHARES.values()))


def week(seed: int, week: int, rows: int) -> Iterator[Call]:
    """The calls of this week, about so many rows, in the order in which they begin."""
    rng = Random(f"{seed}/{week}")
    begun = starts(rng, week, round(rows / ROWS_A_CALL))
    restart = rng.randrange(len(begun)) if begun and rng.random() < RESTARTS else -1
    kinds = rng.choices(_KINDS, cum_weights=_SUMMED, k=len(begun))
    for place, (start_s, kind) in enumerate(zip(begun, kinds, strict=True)):
        if place in {0, restart}:
            asterisk = Asterisk()
        making = Making(rng, asterisk, start_s)
        kind(making)
        yield Call(kind.__name__, making.rows, making.ends_s, making.lines)


def shares(rows: int) -> list[int]:
    """How many rows each week has, all together so many."""
    return [rows * (week + 1) // WEEKS - rows * week // WEEKS for week in range(WEEKS)]
