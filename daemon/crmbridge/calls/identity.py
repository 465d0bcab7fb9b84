"""What makes a number and a line of the call list the same one, as 63 bits. Pure.

Computed rather than counted: two bridges that write the same call write the same, a bulk load needs no answer from the
database, and a line that is made anew has the id that it had. That two of ten million numbers share an id has odds of
1 in 180,000; lines are told apart by number and second, too.

The bytes that go in must never change: what is stored is found by them.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b

from crmbridge.calls.history import CallRow

_BITS = (1 << 63) - 1
"""A BIGINT has a sign."""


def number_id(number: str, key: str) -> int:
    """Of a number as the CRM gets it, and what all its spellings have in common."""
    return _hash(f"{number}\0{key}")


def lines(rows: Collection[CallRow]) -> list[tuple[int, CallRow]]:
    """The lines of one call, each with its id.

    An extension may have talked with one number twice in a call: the earlier one is the first, whatever order they are
    given in. How long it was and where its recording lies may change without it becoming another line.
    """
    if len(rows) > 1:
        rows = sorted(rows, key=lambda row: (row.started_at, row.talk_s, row.filename))
    seen: dict[str, int] = {}
    identified = []
    for row in rows:
        same = f"{row.pbx}\0{row.linkedid}\0{row.extension}\0{row.number_key}\0{'in' if row.incoming else 'out'}"
        nth = seen[same] = seen.get(same, -1) + 1
        identified.append((_hash(f"{same}\0{nth}"), row))
    return identified


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") & _BITS
