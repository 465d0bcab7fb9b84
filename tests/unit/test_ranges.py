"""What of a file is asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from crmbridge.web.ranges import Verdict, judge

ETAG = '"abc"'
MODIFIED_AT = datetime(2026, 11, 23, 5, 52, 57, tzinfo=UTC)
SAME, EARLIER, LATER = (f"Mon, 23 Nov 2026 05:52:{second} GMT" for second in (57, 56, 58))
ALL = Verdict(200, 0, 1000)
PART = Verdict(206, 0, 10)


def asked(headers: dict[str, str], *, size: int = 1000, is_get: bool = True) -> Verdict:
    return judge(headers, etag=ETAG, modified_at=MODIFIED_AT, size=size, is_get=is_get)


@pytest.mark.parametrize(
    ("wanted", "verdict"),
    [
        ("bytes=0-9", PART),
        ("bytes=0-0", Verdict(206, 0, 1)),
        ("bytes=0-", Verdict(206, 0, 1000)),
        ("bytes=990-", Verdict(206, 990, 10)),
        ("bytes=990-5000", Verdict(206, 990, 10)),
        ("bytes=999-999", Verdict(206, 999, 1)),
        ("bytes=-10", Verdict(206, 990, 10)),
        ("bytes=-5000", Verdict(206, 0, 1000)),
        ("Bytes=0-9", PART),
        ("bytes= 0-9 ", PART),
        ("bytes=1000-", Verdict(416)),
        ("bytes=1000-1001", Verdict(416)),
        ("bytes=-0", Verdict(416)),
        ("bytes=999999999999999999-", Verdict(416)),
        # none that we or anybody could serve: passed over
        ("bytes=0-9,20-29", ALL),
        ("bytes=0-9,", ALL),
        ("bytes=9-0", ALL),
        ("bytes=-", ALL),
        ("bytes=a-b", ALL),
        ("bytes=0x0-0x9", ALL),
        ("bytes=٠-٩", ALL),
        ("bytes=+0-9", ALL),
        ("bytes=9999999999999999999-", ALL),
        ("items=0-9", ALL),
        ("0-9", ALL),
        ("", ALL),
    ],
)
def test_ranges(wanted: str, verdict: Verdict) -> None:
    assert asked({"Range": wanted}) == verdict


def test_ranges_of_nothing() -> None:
    assert asked({"Range": "bytes=0-"}, size=0) == Verdict(416)
    assert asked({"Range": "bytes=-1"}, size=0) == Verdict(416)
    assert asked({}, size=0) == Verdict(200, 0, 0)


def test_a_range_means_nothing_but_to_get() -> None:
    assert asked({"Range": "bytes=0-9"}, is_get=False) == ALL


@pytest.mark.parametrize(
    ("if_range", "verdict"),
    [
        ('"abc"', PART),
        (SAME, PART),
        ('"abd"', ALL),
        ('W/"abc"', ALL),
        (EARLIER, ALL),
        (LATER, ALL),
        ("abc", ALL),
        ("", ALL),
    ],
)
def test_the_rest_of_what_one_has(if_range: str, verdict: Verdict) -> None:
    assert asked({"Range": "bytes=0-9", "If-Range": if_range}) == verdict


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": '"abc"'}, 304),
        ({"If-None-Match": 'W/"abc"'}, 304),
        ({"If-None-Match": '"x", "abc"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": "abc"}, 200),
        ({"If-None-Match": '"x"', "If-Modified-Since": SAME}, 200),
        ({"If-Modified-Since": SAME}, 304),
        ({"If-Modified-Since": LATER}, 304),
        ({"If-Modified-Since": EARLIER}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Match": '"abc"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": 'W/"abc"'}, 412),
        ({"If-Match": '"x"'}, 412),
        ({"If-Match": '"abc"', "If-Unmodified-Since": EARLIER}, 200),
        ({"If-Unmodified-Since": SAME}, 200),
        ({"If-Unmodified-Since": EARLIER}, 412),
        ({"If-Unmodified-Since": "9999999999999"}, 200),
        ({"If-Match": '"abc"', "If-None-Match": '"abc"'}, 304),
        ({"If-None-Match": '"abc"', "Range": "bytes=5000-"}, 304),
    ],
)
def test_conditions(headers: dict[str, str], status: int) -> None:
    assert asked(headers).status == status
