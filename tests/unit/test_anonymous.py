"""A recording that may be given away: the same callbacks but for the numbers, and nothing of who called."""

from __future__ import annotations

import re

from crmbridge.calls.anonymous import Anonymous

KEY = b"of these tests"


def test_a_number_is_the_same_in_every_spelling_and_keeps_its_kind() -> None:
    anonymous = Anonymous((), KEY)
    local = anonymous.number("0521234567")
    assert local != "0521234567"
    assert (local[:3], len(local)) == ("052", 10)
    assert anonymous.number("+972521234567") == "+97252" + local[3:]
    assert anonymous.number("052-123-4567").replace("-", "") == local
    assert anonymous.number("777") == "777"
    assert anonymous.number("0521234568") != local


def test_what_may_hold_anything_is_left_out_and_ids_stay() -> None:
    raw = (
        b"Asterisk Call Manager/5.0.1\r\nResponse: Success\r\nMessage: hello\r\n\r\n"
        b"Event: VarSet\r\nVariable: X\r\nValue: Dana Levi\r\n\r\n"
        b"Event: Newchannel\r\nChannel: PJSIP/0721234567-00000012\r\nCallerIDNum: 052-1234567\r\n"
        b"CallerIDName: Dana Levi\r\nAppData: Dana\r\nAccountCode: Dana\r\nUniqueid: 1764280000.12\r\n\r\nEvent: Hang"
    )
    anonymous = Anonymous(["Newchannel"], KEY)
    whole = b"".join(anonymous.feed(raw[at : at + 7]) for at in range(0, len(raw), 7))
    assert b"Dana" not in whole
    assert b"1234567" not in whole
    assert b"Uniqueid: 1764280000.12\r\n" in whole
    assert re.search(rb"Channel: PJSIP/072\d{7}-00000012\r\n", whole)
    assert whole.startswith(b"Asterisk Call Manager/5.0.1\r\nEvent: Newchannel")
    assert whole.endswith(b"\r\n\r\n")
