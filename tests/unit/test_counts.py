"""What is counted of sessions with the PBX."""

from __future__ import annotations

from crmbridge.pbx.counts import Counts


def test_a_session_ends_for_one_reason_and_the_next_begins_anew() -> None:
    counts = Counts({"Hangup", "Newchannel"})
    assert counts.events == {"Hangup": 0, "Newchannel": 0}
    counts.began()
    counts.ended(silent=False)
    counts.began()
    counts.stops = True
    counts.ended(silent=False)
    counts.began()
    counts.ended(silent=True)
    assert counts.attempts["session"] == 3
    assert counts.ends == {"lost": 1, "asterisk_stopped": 1, "silent": 1}
