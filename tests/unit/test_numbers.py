"""Numbers as callers send them, and as the CRM gets them."""

from __future__ import annotations

import re

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.national import National
from crmbridge.calls.numbers import MAX_LENGTH, Format, Numbers


def numbers(form: Format = "national", region: str = "IL", national: type[National] = National) -> Numbers:
    return Numbers(region=region, form=form, anonymous="anonymous", national=national)


@pytest.mark.parametrize(
    "raw",
    ["033004799", "03-300-4799", "(03) 300 4799", "+97233004799", "97233004799", "0097233004799", "+972 3 3004799"],
)
def test_every_spelling_is_the_same_number(raw: str) -> None:
    assert numbers().caller(raw) == "033004799"
    assert numbers("e164").caller(raw) == "+97233004799"
    assert numbers().same(raw) == "+97233004799"


@pytest.mark.parametrize(
    "raw",
    ["", "<unknown>", "anonymous", "Anonymous", "Restricted", "Unavailable", "PRIVATE", "unknown", " ", "No ID"],
)
def test_withheld_in_its_spellings(raw: str) -> None:
    assert numbers().caller(raw) == "anonymous"
    assert Numbers(region="IL", form="national", anonymous="0").caller(raw) == "0"


@pytest.mark.parametrize("raw", ["777", "100", "*2700", "1700123456", "101"])
def test_short_codes_and_internal_numbers_stay_as_they_are(raw: str) -> None:
    assert numbers().caller(raw) == raw


def test_foreign_numbers_are_e164_also_in_national_form() -> None:
    assert numbers().caller("00442079460958") == numbers().caller("+44 20 7946 0958") == "+442079460958"
    assert numbers(region="GB").caller("+442079460958") == "02079460958"


def test_digits_leaves_the_number_as_it_came() -> None:
    assert numbers("digits").caller("+972-3-3004799") == "97233004799"
    assert numbers("digits").caller("033004799") == "033004799"


@pytest.mark.parametrize("raw", ["1" * 1000, "0330\r\n04799", 'x" <1>&sExt=1', "٠٣٣٠٠٤٧٩٩", "\x00\x1b[31m", "a" * 99])
def test_hostile_content_is_harmless(raw: str) -> None:
    for form in ("national", "e164", "digits"):
        assert re.fullmatch(r"[0-9A-Za-z+*#._-]{1,32}", numbers(form).caller(raw), re.ASCII)


class NoShortWay(National):
    """Leaves every number to phonenumbers."""

    def number(self, raw: str) -> str | None:
        del raw
        return None


_REGIONS = ("IL", "DE", "FR", "NL", "SE", "TR", "ZA", "GB", "US", "AU", "IT", "AR", "RU")
_CODES = {region: str(phonenumbers.country_code_for_region(region)) for region in _REGIONS}


@given(
    st.sampled_from(_REGIONS),
    st.sampled_from(["{}", "0{}", "0{}", "00{}", "+{code}{}", "+{code}0{}", "00{code}{}", "{code}{}", "+{}", "0 {}"]),
    st.text("0123456789", min_size=2, max_size=14),
)
def test_the_short_way_for_national_numbers_is_what_phonenumbers_says(region: str, way: str, digits: str) -> None:
    raw = way.format(digits, code=_CODES[region])
    for form in ("national", "e164", "digits"):
        quick, slow = numbers(form, region), numbers(form, region, NoShortWay)
        assert (quick.caller(raw), quick.same(raw)) == (slow.caller(raw), slow.same(raw))


@pytest.mark.parametrize("raw", ["0501234567", "033004799", "+972501234567", "00972771234567"])
def test_what_an_israeli_pbx_has_most_goes_the_short_way(raw: str) -> None:
    assert National("IL").number(raw)


@pytest.mark.parametrize("raw", ["0121234567890", "1700123456", "0050123456", "*2700", "101", "0", "", "+442079460958"])
def test_what_is_not_plainly_national_does_not(raw: str) -> None:
    assert National("IL").number(raw) is None


@given(st.text(max_size=200))
def test_whatever_comes_in_what_goes_out_is_plain(raw: str) -> None:
    result = numbers().caller(raw)
    assert re.fullmatch(r"[0-9A-Za-z+*#._-]+", result, re.ASCII)
    assert len(result) <= MAX_LENGTH
    assert numbers().caller(result) == result, "what the CRM gets must mean the same when it comes back"
