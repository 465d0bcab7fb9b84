"""Telephone numbers as callers send them, and as the CRM wants them. Pure.

A caller's number is set by the far side: anything may stand in it. What leaves here holds only letters, digits and
`+ * # . _ -`, and at most 32 of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat

from crmbridge.calls.national import National

Format = Literal["national", "e164", "digits"]

MAX_LENGTH = 32
"""E.164 allows 15 digits; room for carrier prefixes and internal numbers, none for a flood."""

_SEPARATORS = re.compile(r"[\s().\-/]+")
_DIALABLE = re.compile(r"\+?[0-9]+", re.ASCII)
_NOT_ALLOWED = re.compile(r"[^0-9A-Za-z+*#._-]+", re.ASCII)
# What carriers, Asterisk (`<unknown>`) and SIP (RFC 3323, RFC 3325) put where a number is withheld or missing.
_WITHHELD = frozenset(
    {
        "",
        "unknown",
        "anonymous",
        "restricted",
        "private",
        "unavailable",
        "withheld",
        "blocked",
        "invalid",
        "na",
    }
    | {"noid", "nonumber", "callerunknown", "numberunavailable", "hidden", "asterisk", "s", "0000000000"}
)


class Numbers:
    """Number rules of one installation."""

    def __init__(
        self, *, region: str, form: Format, anonymous: str, national: Callable[[str], National] = National
    ) -> None:
        """`region`: ISO 3166 country of the PBX; `anonymous`: what stands for a withheld number."""
        self._region = region
        self._form: Format = form
        self._anonymous = anonymous
        self._national = national(region)
        self._parsed = lru_cache(maxsize=1024)(self._parse)  # the same for both questions
        self.caller = lru_cache(maxsize=4096)(self._caller)
        self.same = lru_cache(maxsize=4096)(self._same)

    def _caller(self, raw: str) -> str:
        """The number as the CRM gets it: national (`033004799`), E.164 (`+97233004799`) or plain digits.

        Foreign numbers are E.164 also where the form is national. What is no possible number of any country (short
        codes, internal numbers, names) goes through with nothing but separators and hostile characters taken out.
        """
        if self._form != "digits" and (national := self._national.number(raw)):
            return f"0{national}" if self._form == "national" else self._national.e164(national)
        if _is_withheld(raw):
            return self._anonymous
        plain = _plain(raw)
        if self._form == "digits":
            return plain.lstrip("+") or self._anonymous
        number = self._parsed(plain)
        if number is None:
            return plain or self._anonymous
        if self._form == "national" and number.country_code == self._country_code:
            return _digits(phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL))
        return phonenumbers.format_number(number, PhoneNumberFormat.E164)

    def _same(self, raw: str) -> str:
        """A key under which every spelling of a number is found: E.164 where it is one, else what is left of it."""
        if national := self._national.number(raw):
            return self._national.e164(national)
        plain = _plain(raw)
        number = self._parsed(plain)
        return phonenumbers.format_number(number, PhoneNumberFormat.E164) if number else plain

    @property
    def _country_code(self) -> int:
        return phonenumbers.country_code_for_region(self._region)

    def _parse(self, plain: str) -> PhoneNumber | None:
        """The number, or None where it can be no subscriber's number (so never for short codes)."""
        if not _DIALABLE.fullmatch(plain):
            return None
        candidates = [plain]
        if plain.startswith("00"):
            candidates.insert(0, "+" + plain[2:])  # as trunks write international callers, whatever the region
        elif plain.startswith(str(self._country_code)):
            candidates.append("+" + plain)  # 97233004799: E.164 without its plus
        for candidate in candidates:
            try:
                number = phonenumbers.parse(candidate, self._region)
            except NumberParseException:
                continue
            # The metadata lag behind newly assigned ranges: a number written as one (with its trunk or
            # international prefix) only needs a possible length, others (short codes!) must be assigned.
            written_in_full = candidate.startswith(("+", "0"))
            if phonenumbers.is_valid_number(number) or (written_in_full and phonenumbers.is_possible_number(number)):
                return number
        return None


def _is_withheld(raw: str) -> bool:
    return re.sub(r"[^0-9a-z]", "", raw.lower()) in _WITHHELD


def _plain(raw: str) -> str:
    return _NOT_ALLOWED.sub("", _SEPARATORS.sub("", raw))[:MAX_LENGTH]


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)
