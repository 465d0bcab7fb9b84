"""Which numbers a click may dial, and in what form. Pure.

A hole here costs a customer thousands overnight, so everything is refused that is not known to be harmless: by default
a number must be a subscriber's in the PBX's own country that costs what calls to people cost, or one of the PBX's own
extensions. What leaves here holds digits and at most a leading `+`, whatever came in.

The form that is dialed, for the PBX's dialplan: an extension as it is (`778`), a number of the PBX's own country in
national form without separators (`033004799`, `1800123456`), a foreign one in E.164 (`+442079460018`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat, PhoneNumberType, ShortNumberCost

MAX_RAW = 40
"""Characters of a number with its separators."""

_SEPARATORS = re.compile(
    "[\\s().\\-/"
    "\u2010-\u2015\u2212"  # dashes of all kinds
    "\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks: copied from Hebrew and Arabic pages
    "]+"
)
_CARRIER = re.compile(r"0(0|1[0-9])", re.ASCII)
"""How calls abroad begin somewhere: a trunk may not be of the PBX's own country."""
_PLAIN = re.compile(r"\+?[0-9]{1,20}", re.ASCII)
_FEATURE = re.compile(r"[*#0-9+]+", re.ASCII)
_EXTENSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,38}[A-Za-z0-9])?", re.ASCII)
"""What an extension may be, however generous the PBX's own pattern is: nothing that means anything to AMI, to a
channel's name or to the dialplan."""

_CALLS_TO_PEOPLE = frozenset(
    {
        PhoneNumberType.FIXED_LINE,
        PhoneNumberType.MOBILE,
        PhoneNumberType.FIXED_LINE_OR_MOBILE,
        PhoneNumberType.VOIP,
        PhoneNumberType.TOLL_FREE,
        PhoneNumberType.SHARED_COST,
        PhoneNumberType.UAN,
    }
)

_SHARED = frozenset({PhoneNumberType.SHARED_COST, PhoneNumberType.UAN})
"""Abroad, the called one is paid for many of these."""


class NotAllowedError(ValueError):
    """This number may not be dialed; the message says why."""


class MalformedError(ValueError):
    """This is no number at all; the message says what one looks like."""


@dataclass(frozen=True, slots=True)
class Dialable:
    """What may be dialed on one PBX."""

    region: str
    """ISO 3166 country of the PBX."""
    extensions: re.Pattern[str]
    """Must match the whole of an extension."""
    international: bool
    """Whether numbers of other countries may be dialed; premium and satellite ones never are by this."""
    allow: tuple[re.Pattern[str], ...]
    """Numbers let through besides: patterns on the whole number, in E.164 or in the form that is dialed."""
    deny: tuple[re.Pattern[str], ...]
    """Numbers refused, whatever else allows them; patterns as in `allow`."""

    @classmethod
    def from_settings(
        cls,
        *,
        region: str,
        extensions: str,
        international: bool = False,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
    ) -> Dialable:
        """Build the rules from regular expressions. `\\d` in them means the digits 0 to 9."""
        return cls(region, _compiled(extensions), international, _all_compiled(allow), _all_compiled(deny))

    def is_extension(self, text: str) -> bool:
        """Whether this is an extension of the PBX, with nothing in it that could be anything else."""
        return bool(_EXTENSION.fullmatch(text) and self.extensions.fullmatch(text))

    def dialed(self, raw: str) -> str:
        """The form in which this number is dialed. Raises MalformedError or NotAllowedError."""
        plain = _plain(raw)
        number = self._parse(plain)
        forms = self._forms(plain, number)
        if any(pattern.fullmatch(form) for pattern in self.deny for form in forms):
            raise NotAllowedError("this number is on the list of those that are never dialed (dialer.deny_numbers)")
        if not any(pattern.fullmatch(form) for pattern in self.allow for form in forms):
            self._check(plain, number)
        return forms[0]

    def _parse(self, plain: str) -> PhoneNumber | None:
        try:
            number = phonenumbers.parse(plain, self.region)
        except NumberParseException:
            return None
        return number if phonenumbers.is_possible_number(number) else None

    def _forms(self, plain: str, number: PhoneNumber | None) -> tuple[str, ...]:
        """The number as it is dialed, and all else that a pattern may mean by it."""
        if number is None or self._is_internal(plain, number):
            return (plain,)
        e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
        if number.country_code != phonenumbers.country_code_for_region(self.region):
            return (e164,)
        return (self._national(number), e164)

    def _national(self, number: PhoneNumber) -> str:
        """As it is dialed within the country.

        Outside of all known ranges phonenumbers leaves the national prefix out, and a trunk would take what is left for
        a foreign number: 0442079460018 became 442079460018, which is in London.
        """
        if phonenumbers.number_type(number) == PhoneNumberType.UNKNOWN:
            metadata = phonenumbers.PhoneMetadata.metadata_for_region(self.region)
            prefix = (metadata.national_prefix if metadata else None) or ""
            return prefix + phonenumbers.national_significant_number(number)
        return re.sub(r"[^0-9]", "", phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL))

    def _is_internal(self, plain: str, number: PhoneNumber | None) -> bool:
        # A pattern such as `\d+` must not make every number in the world an extension.
        subscriber = number is not None and phonenumbers.is_valid_number(number)
        return self.is_extension(plain) and len(plain) <= 6 and not subscriber

    def _check(self, plain: str, number: PhoneNumber | None) -> None:
        if self._is_internal(plain, number):
            self._check_short(plain)
        elif number is None:
            raise NotAllowedError("this is neither a possible telephone number nor an extension of the PBX")
        elif phonenumbers.region_code_for_number(number) == self.region:
            self._check_national(plain, number)
        else:
            self._check_foreign(number)

    def _check_short(self, plain: str) -> None:
        """An extension may look like a short code, and would reach it where there's no such phone."""
        if plain.startswith("0"):
            # The way out: a trunk or a carrier's prefix, and an outbound route may take it for one.
            raise NotAllowedError(
                "short numbers that begin with 0 are not dialed unless dialer.allow_numbers lets them"
            )
        short = PhoneNumber(national_number=int(plain), country_code=phonenumbers.country_code_for_region(self.region))
        if phonenumbers.expected_cost_for_region(short, self.region) == ShortNumberCost.PREMIUM_RATE:
            raise NotAllowedError("this is a premium-rate short number")

    def _check_national(self, plain: str, number: PhoneNumber) -> None:
        kind = phonenumbers.number_type(number)
        if kind in _CALLS_TO_PEOPLE:
            return
        if kind != PhoneNumberType.UNKNOWN:
            name = PhoneNumberType.to_string(kind).replace("_", " ").lower()
            raise NotAllowedError(f"{name} numbers are not dialed unless dialer.allow_numbers lets them")
        # The tables lag behind newly assigned ranges. Written in full, of a length that subscribers have, and so that
        # it is the same number when it is read again as it is dialed, a number is taken for one; unless it lies where
        # the country has its premium-rate numbers.
        dialed = self._national(number)
        is_whole = plain.startswith(("0", "+")) and len(str(number.national_number)) in self._lengths()
        leads_abroad = _CARRIER.match(dialed) or self._parse(dialed) != number
        if not is_whole or leads_abroad or self._near_premium(number):
            raise NotAllowedError("this number belongs to no known range; dialer.allow_numbers can let it through")

    def _lengths(self) -> set[int]:
        """How many digits subscribers' numbers have, without the national prefix."""
        kinds = (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE, PhoneNumberType.VOIP)
        examples = (phonenumbers.example_number_for_type(self.region, kind) for kind in kinds)
        return {len(str(example.national_number)) for example in examples if example is not None}

    def _near_premium(self, number: PhoneNumber) -> bool:
        """Whether it would be a premium-rate number if it were longer or shorter."""
        metadata = phonenumbers.PhoneMetadata.metadata_for_region(self.region)
        lengths = metadata.premium_rate.possible_length if metadata and metadata.premium_rate else ()
        digits = phonenumbers.national_significant_number(number)
        return any(self._is_premium((digits + "0" * length)[:length]) for length in lengths if length > 0)

    def _is_premium(self, digits: str) -> bool:
        number = PhoneNumber(
            country_code=phonenumbers.country_code_for_region(self.region), national_number=int(digits)
        )
        return phonenumbers.number_type(number) == PhoneNumberType.PREMIUM_RATE

    def _check_foreign(self, number: PhoneNumber) -> None:
        if not self.international:
            raise NotAllowedError("numbers outside the PBX's own country are not dialed")
        region = phonenumbers.region_code_for_country_code(number.country_code or 0)
        if region == phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY:
            raise NotAllowedError("satellite and other world-wide networks are not dialed")
        if phonenumbers.number_type(number) not in _CALLS_TO_PEOPLE - _SHARED:
            raise NotAllowedError("foreign premium-rate numbers, and those of no known range, are not dialed")


def _plain(raw: str) -> str:
    """The number without what people write between its digits."""
    if len(raw) > MAX_RAW:
        raise MalformedError(f"a number has at most {MAX_RAW} characters")
    # An unescaped `+` in a query string is a space; what follows is long then.
    text = "+" + raw[1:] if re.match(r" [1-9].{6}", raw, re.ASCII) else raw
    plain = _SEPARATORS.sub("", text)
    if _PLAIN.fullmatch(plain):
        return plain
    if _FEATURE.fullmatch(plain) and ("*" in plain or "#" in plain):
        raise NotAllowedError("feature codes of the PBX (with * or #) are not dialed")
    raise MalformedError("a number holds the digits 0 to 9, a leading + and spaces, dashes, dots or parentheses")


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _all_compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(_compiled(pattern) for pattern in patterns)
