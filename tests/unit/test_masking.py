"""What of a log line is hidden where numbers are masked, and what stays."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.masking import mask, masked, masked_text


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("033004799", "******799"),
        ("+972-52-987-6543", "+***-**-***-*543"),
        ("12345", "***45"),
        ("777", "**7"),
        ("12", "*2"),
        ("1", "*"),
        ("", ""),
        ("anonymous", "anonymous"),
        (972529876543, "*********543"),
    ],
)
def test_of_a_number_the_last_three_digits_are_shown_and_never_more_than_half(number: object, shown: str) -> None:
    assert mask(number) == shown
    assert masked(number, "number") == shown


@pytest.mark.parametrize(
    "text",
    [
        "033004799",
        "03-300-4799",
        "03 300 4799",
        "(03) 300.4799",
        "+972 (3) 300-4799",
        "972+3+300+4799",
        "x033004799x",
        "٠٣٣٠٠٤٧٩٩",
        "Duplicate entry '033004799' for key 'numbers.number'",
        "SIP/trunk/033004799@10.0.0.1",
        "/recordings/2026/11/27/in-033004799-777-20261127-055257-1795413177.274.wav",
        "GET /calls?number=033004799&limit=5",
    ],
)
@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_a_number_in_a_text_is_hidden_in_any_spelling_and_any_escaping(text: str, times: int) -> None:
    for _ in range(times):
        text = quote(text)
    assert "33004" not in digits(masked_text(text))
    assert "33004" not in digits(masked_text(f"what is around it: {text}, and so on"))


def test_a_number_is_hidden_beside_what_is_no_text() -> None:
    """Of a file's name, say, that is no UTF-8."""
    assert masked_text("\udc80 033004799") == "\udc80 ******799"
    assert masked_text("\udc80 %30%33%33%30%30%34%37%39%39") == "? ******799"


def test_digits_that_are_escaped_themselves_are_digits() -> None:
    assert masked_text("number=%30%33%33%30%30%34%37%39%39") == "number=******799"


@pytest.mark.parametrize(
    "text",
    [
        "1795413177.274",
        "pbx1-1795413177.274",
        "crm-1795413177.a1b2c3d4e5",
        "2026-11-27 05:52:57.123456 and 2026-11-27T05:52:57+00:00",
        "127.0.0.1:6560",
        "203.0.113.200",
        "no answer within 10 s",
        "PJSIP/777",
        "50% of 12345",
        "/usr/lib/python3.11/asyncio/tasks.py, line 1234",
    ],
)
def test_what_finds_a_call_again_is_kept(text: str) -> None:
    assert masked_text(text) == text


def test_numbers_in_frames_are_hidden_by_their_headers_and_names_too() -> None:
    frame = {"CallerIDNum": "4799", "DestCallerIDName": "Dana", "Linkedid": "1795413177.274", "X": ["0529876543"]}
    shown = {"CallerIDNum": "**99", "DestCallerIDName": "***", "Linkedid": "1795413177.274", "X": ["*******543"]}
    assert masked({"frame": frame}, "event") == {"frame": shown}


def test_what_is_no_text_stays_or_is_hidden_as_it_would_be_written() -> None:
    assert [masked(one, "x") for one in (12345678, 1.5, True, None)] == [12345678, 1.5, True, None]
    assert masked(ValueError("no 033004799"), "error") == "ValueError('no ******799')"
    assert "33004" not in str(masked([Path("/x/in-033004799.wav")], "files"))


@given(st.text(), st.from_regex(r"\+?[0-9](?:[ ().-]?[0-9]){5,14}", fullmatch=True), st.text())
def test_no_number_comes_through_whatever_stands_around_it(before: str, number: str, after: str) -> None:
    if re.search(r"[0-9a-fA-F%.]$", before) or re.match(r"[0-9a-fA-F.]", after) or "-" in number:
        return  # it is part of something else: an address, an id, a date
    if number.count(".") == 0:
        assert digits(number) not in digits(masked_text(before + number + after))


def digits(text: str) -> str:
    return "".join(str(int(sign)) for sign in text if sign.isdecimal())
