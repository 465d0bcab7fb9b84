"""Telephone numbers hidden in log lines, wherever they stand: in fields, texts, error messages, frames, addresses.

Pure. What is hidden is found by its looks, not by where it is logged: a number reaches the log on more ways than
anybody can list (a database quotes the row that it refuses, a URL the query that it was asked). So whatever looks like
a number is hidden, and now and then something that is none; what an administrator needs to find a call again is kept.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import quote, unquote

_SHOWN_DIGITS = 3
_SHORTEST = 6
"""Digits; shorter ones are extensions, ports, milliseconds."""

_NUMBER_FIELDS = frozenset(
    {"number", "numbers", "did", "dialed", "exten", "destexten", "callerid", "source", "destination", "src", "dst"}
)
"""Fields, and headers of AMI frames, that hold a number of any length; so does what ends in these:"""
_NUMBER_ENDINGS = ("calleridnum", "connectedlinenum")
_NAME_ENDINGS = ("calleridname", "connectedlinename")
"""Names of callers, which have no business in a log without numbers."""
_KEPT_FIELDS = frozenset({"timestamp", "level", "logger", "address", "host", "click", "clicks", "linkedids"})
_KEPT_ENDINGS = ("linkedid", "uniqueid")
_ONE = (str, int, float)

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_KEPT = "|".join(
    (
        r"(?:1[5-9]|2\d)\d{8}\.(?:\d{1,9}(?![0-9A-Za-z])|[0-9a-f]{10})",  # a channel's id, a click's
        r"(?:19|20)\d\d-[01]\d-[0-3]\d(?:[T ][012]\d:[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?)?",  # a date, with its time
        rf"{_OCTET}(?:\.{_OCTET}){{3}}(?![\d.])",  # an IPv4 address
    )
)
_BETWEEN = r"[ \t\u00a0\u2010-\u2015+().\-]{0,3}"
"""What people write within a number."""
_NUMBER = re.compile(rf"(?<!\d)(?:(?P<kept>{_KEPT})|\d(?:{_BETWEEN}(?!(?<!\d)(?:{_KEPT}))\d){{{_SHORTEST - 1},}})")
_ENOUGH = re.compile(rf"\d(?:\D*\d){{{_SHORTEST - 1}}}")
"""In what has fewer digits is no number: a tenth of the time that looking for one takes."""
_NOT_ESCAPED = string.punctuation.replace("%", "") + " "
_MOST_ESCAPED = 4
"""How often a text may be percent-encoded."""


def masked(value: object, name: str = "") -> object:
    """A field's value with all numbers in it hidden; texts within lists and mappings, too. `name`: the field's."""
    way = _way(name)
    if value is None or way is None:
        return value
    if isinstance(value, _ONE):  # most are; to see that it is no mapping takes longer than all the rest
        return way(value)
    if isinstance(value, Mapping):
        return {key: masked(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(one, name) for one in value]
    return way(value)


@lru_cache(maxsize=256)
def _way(name: str) -> Callable[[object], object] | None:
    """How a field's values are hidden; None where they are kept. Names are few, and each stands in many lines."""
    lower = name.lower()
    if lower in _KEPT_FIELDS or lower.endswith(_KEPT_ENDINGS):
        return None
    if lower.endswith(_NAME_ENDINGS):
        return lambda _: "***"
    return mask if lower in _NUMBER_FIELDS or lower.endswith(_NUMBER_ENDINGS) else _masked_one


def _masked_one(value: object) -> object:
    if isinstance(value, str):
        return masked_text(value)
    if isinstance(value, bool | int | float):
        return value
    return masked_text(repr(value))  # as it would be written


def masked_text(text: str) -> str:
    """A text with the numbers in it hidden, also where they are percent-encoded."""
    if len(text) < _SHORTEST:
        return text
    plain = _unescaped(text) if "%" in text else text
    if _ENOUGH.search(plain) is None:
        return text
    hidden = _NUMBER.sub(lambda found: found[0] if found["kept"] else mask(found[0]), plain)
    if hidden == plain:
        return text
    return hidden if plain is text else quote(hidden, safe=_NOT_ESCAPED, errors="replace")


def mask(number: object) -> str:
    """A number with all but its last three digits hidden, and at least half of them. Its spelling stays."""
    text = str(number)
    if text.isdigit():
        shown = min(_SHOWN_DIGITS, len(text) // 2)
        return "*" * (len(text) - shown) + text[len(text) - shown :]
    places = [at for at, sign in enumerate(text) if sign.isdigit()]
    hidden = set(places[: len(places) - min(_SHOWN_DIGITS, len(places) // 2)])
    return "".join("*" if at in hidden else sign for at, sign in enumerate(text))


def _unescaped(text: str) -> str:
    for _ in range(_MOST_ESCAPED):
        plain = unquote(text)
        if plain == text:
            break
        text = plain
    return text
