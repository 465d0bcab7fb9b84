"""What of a file is asked for, and whether at all: ranges and conditions of HTTP (RFC 9110, 13 and 14). Pure.

Several ranges in one request are answered with the whole file, which the RFC allows: no player asks for them, and they
are a way to ask for much with little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.ASCII | re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[^"]*"')
_ETAGS = re.compile(r'[ \t,]*(?:(?:W/)?"[^"]*"[ \t,]*)+')


class Verdict(NamedTuple):
    """How to answer: the status, and for 200 and 206 what to send."""

    status: int
    first: int = 0
    length: int = 0


def judge(headers: Mapping[str, str], *, etag: str, modified_at: datetime, size: int, is_get: bool) -> Verdict:
    """The answer to a request for a file of `size` bytes.

    `headers`: of the request, whatever the case of its names. `etag`: a strong one, in its quotes; `modified_at`:
    aware, whole seconds.
    """
    if (matching := headers.get("If-Match")) is not None:
        if not _matches(matching, etag, weak=False):
            return Verdict(412)
    elif (since := _date(headers.get("If-Unmodified-Since"))) is not None and modified_at > since:
        return Verdict(412)
    if (matching := headers.get("If-None-Match")) is not None:
        if _matches(matching, etag, weak=True):
            return Verdict(304)
    elif (since := _date(headers.get("If-Modified-Since"))) is not None and modified_at <= since:
        return Verdict(304)
    wanted = headers.get("Range")
    if wanted is None or not is_get or not _is_the_same(headers.get("If-Range"), etag, modified_at):
        return Verdict(200, 0, size)
    return _range(wanted, size)


def _range(wanted: str, size: int) -> Verdict:
    found = _RANGE.fullmatch(wanted)
    if found is None or found[1] == found[2] == "":
        return Verdict(200, 0, size)
    if not found[1]:
        count = min(int(found[2]), size)
        return Verdict(206, size - count, count) if count else Verdict(416)
    first, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < first:
        return Verdict(200, 0, size)  # no range at all, and so passed over
    return Verdict(206, first, min(last, size - 1) - first + 1) if first < size else Verdict(416)


def _is_the_same(if_range: str | None, etag: str, modified_at: datetime) -> bool:
    """Whether what is asked for is a part of what the client has the rest of."""
    if if_range is None:
        return True
    return if_range.strip() == etag or _date(if_range) == modified_at


def _matches(wanted: str, etag: str, *, weak: bool) -> bool:
    if wanted.strip() == "*":
        return True
    if not _ETAGS.fullmatch(wanted):
        return False
    found = _ETAG.findall(wanted)
    return etag in ([one.removeprefix("W/") for one in found] if weak else found)


def _date(text: str | None) -> datetime | None:
    """A date of HTTP, aware; None where it is none (which is then passed over)."""
    try:
        found = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else None
