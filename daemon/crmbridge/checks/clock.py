"""This machine's clock against others: by how much they may differ, and what a difference costs."""

from __future__ import annotations

from collections.abc import Mapping

from crmbridge.checks.link import Link, good, judged, weak

CLOCK = "clock"

ASTERISK, DATABASE, CRM = "Asterisk", "the CDR database", "the CRM"
LIMITS_S = {ASTERISK: 5, DATABASE: 60, CRM: 60}
"""Seconds. Asterisk's clock stands in every call's id and record; the others tell whose clock is wrong."""
OF = " of "
"""Stands between one of these and the name of one of several PBXes."""
_MEND = "have time synchronised on both (timedatectl, chrony)"


def clock(ahead_s: Mapping[str, float]) -> Link:
    """`ahead_s`: by how many seconds the others are ahead of us."""
    if not ahead_s:
        return weak(CLOCK, "not found out: nothing that could be asked told its time")
    wrong = {
        name: f"{name}'s clock is {abs(value):.0f} s {'ahead of' if value > 0 else 'behind'} ours"
        f" (at most {_limit_s(name)} s are right): {_MEND}"
        for name, value in ahead_s.items()
        if abs(value) > _limit_s(name)
    }
    faults = [told for name, told in wrong.items() if _kind(name) == ASTERISK]
    remarks = [told for name, told in wrong.items() if _kind(name) != ASTERISK]
    told = ", ".join(f"{name} {value:+.0f} s" for name, value in ahead_s.items())
    if not wrong:
        return good(CLOCK, f"differs from ours by: {told.replace('-0 s', '0 s').replace('+0 s', '0 s')}")
    return judged(CLOCK, told, faults=faults, remarks=remarks)


def _kind(name: str) -> str:
    return name.partition(OF)[0]


def _limit_s(name: str) -> int:
    return LIMITS_S[_kind(name)]
