"""A region's plain national numbers, told by one regular expression instead of phonenumbers' whole parser. Pure.

Nearly all numbers in a CDR table are of this kind (`0501234567`, `+972501234567`), and there may be a million of them;
parsing and formatting one takes 80 µs. The expression is made of phonenumbers' own metadata, for regions whose rules
are simple enough; all other numbers, and all other regions, are left to it. A test compares the two.
"""

from __future__ import annotations

import re
from functools import cache

import phonenumbers
from phonenumbers import PhoneMetadata


class National:
    """Knows the plain national numbers of a region."""

    def __init__(self, region: str) -> None:
        """`region`: ISO 3166."""
        self._code = phonenumbers.country_code_for_region(region)
        self._plain, self._with_prefix = _expression(region, self._code)

    def number(self, raw: str) -> str | None:
        """Its digits after the trunk prefix 0 (`501234567`), None where phonenumbers has to be asked."""
        found = self._plain.fullmatch(raw)
        if found is None or found.lastindex not in self._with_prefix:
            return None
        return found[found.lastindex]

    def e164(self, number: str) -> str:
        """`501234567` as `+972501234567`."""
        return f"+{self._code}{number}"


_NEVER: tuple[re.Pattern[str], frozenset[int]] = (re.compile(r"(?!)"), frozenset())


@cache
def _expression(region: str, code: int) -> tuple[re.Pattern[str], frozenset[int]]:
    """The expression, and those of its groups whose number is written with the prefix 0 and nothing else before it."""
    rules = PhoneMetadata.metadata_for_region(region)
    if rules is None or rules.general_desc is None or phonenumbers.region_code_for_country_code(code) != region:
        return _NEVER
    prefixes = (rules.national_prefix, rules.national_prefix_for_parsing, rules.national_prefix_transform_rule)
    if prefixes != ("0", "0", None):
        return _NEVER
    kinds, with_prefix = [], set()
    for number, kind in enumerate(rules.number_format, start=1):
        # The first of them that fits is taken (phonenumberutil._choose_formatting_pattern_for_number).
        begins = kind.leading_digits_pattern[-1] if kind.leading_digits_pattern else ""
        if kind.pattern is None or kind.format is None or re.compile(begins).groups:
            return _NEVER
        kinds.append(f"(?={begins})({kind.pattern.replace('(', '(?:')})")
        rule = re.sub(r"[^0-9\\]", "", kind.national_prefix_formatting_rule or "")
        written = re.sub(r"[^0-9\\]", "", kind.format)
        if rule == r"0\1" and written == "".join(
            rf"\{group}" for group in range(1, re.compile(kind.pattern).groups + 1)
        ):
            with_prefix.add(number)
    lengths = "|".join(rf"\d{{{length}}}\Z" for length in rules.general_desc.possible_length if length > 0)
    # What begins like an international call is none of these (Israel: 012 to 019, 00).
    abroad = rules.international_prefix or "(?!)"
    before = rf"(?!{abroad})0|\+{code}|00{code}"
    expression = rf"(?:{before})(?=[1-9])(?={lengths})(?:{'|'.join(kinds)})"
    return re.compile(expression, re.ASCII), frozenset(with_prefix)
