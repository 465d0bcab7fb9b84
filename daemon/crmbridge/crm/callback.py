"""What a callback looks like on its way to the CRM, and what the CRM's answer means.

Pure: an event goes in and a request comes out; an answer goes in and a verdict comes out. It must not know how requests
are sent, when they are tried again, or where callbacks are kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, urlsplit

from crmbridge.calls.events import CallEvent

PASSING_4XX = frozenset({408, 425, 429})
"""Request Timeout, Too Early, Too Many Requests: the CRM asks for the same request again later."""

EXCERPT_CHARS = 200
"""How much of an answer an administrator gets to see: enough for a PHP error's first line."""

# What may stand in crm.url as it is; anything else has to be percent-encoded there.
_URL_CHARS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?[]@!$&'()*+,;=%",
)


class Answer(StrEnum):
    """What the CRM's answer, or its silence, means for a callback."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, and the reason for reading it so, in words for an administrator."""

    answer: Answer
    reason: str


def check_url(url: str) -> None:
    """Raise ValueError, saying what to do, when callbacks can't be sent to this address."""
    wrong = sorted({char for char in url if char not in _URL_CHARS})
    if wrong:
        shown = " ".join(ascii(char) for char in wrong[:5])
        raise ValueError(f"crm.url holds {shown}: write such characters percent-encoded, and no '#'")
    try:
        parts = urlsplit(url)
        port = parts.port  # reading it checks it
    except ValueError as error:
        raise ValueError(f"crm.url is no web address: {error}") from None
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("crm.url must be a whole web address, like https://crm.example/webservice.php")


def request_url(base_url: str, event: CallEvent) -> str:
    """The address to GET, all percent-encoded (RFC 3986, UTF-8), after the query that `base_url` may hold."""
    parameters = (
        ("operation", event.kind.value),
        ("sExt", event.extension),
        ("sNumber", event.number),
        ("ClientId", event.client_id),
    )
    query = "&".join(f"{name}={_encode(value)}" for name, value in parameters)
    if "?" not in base_url:
        return f"{base_url}?{query}"
    return base_url + ("" if base_url.endswith(("?", "&")) else "&") + query


def _encode(value: str) -> str:
    # A lone surrogate (a badly decoded caller name) must not raise here: it becomes a question mark.
    return quote(value, safe="", encoding="utf-8", errors="replace")


def idempotency_key(event: CallEvent) -> str:
    """The same for the same fact, after a restart and from another bridge; 32 hexadecimal digits.

    A digest, because names of PBXes and extensions may hold anything and a header may not.
    """
    return hashlib.sha256(json.dumps(event.key).encode("ascii")).hexdigest()[:32]


def judge(status: int, body: bytes, location: str | None = None) -> Verdict:
    """What an HTTP answer means. `body` may be cut short; `location` is the header of that name.

    `"success": false` counts as a refusal only where the status doesn't ask for another try: a CRM that answers 503 or
    429 with such a body is busy, not unwilling.
    """
    if 300 <= status < 400:
        return Verdict(Answer.RETRY, _redirect(status, location))
    passing = status in PASSING_4XX or not 200 <= status < 500
    success = None if passing else _success(body)
    shown = f"HTTP {status}: {excerpt(body)}"
    if success is False or (400 <= status < 500 and not passing):
        return Verdict(Answer.REFUSED, shown)
    if status == 200 and success is True:
        return Verdict(Answer.CONFIRMED, shown)
    if status == 200:
        return Verdict(Answer.RETRY, f'the answer is no JSON with "success": true; {shown}')
    return Verdict(Answer.RETRY, shown)


def about(event: CallEvent, *, names_pbx: bool) -> dict[str, str]:
    """What a line of the log says of it."""
    pbx = {"pbx": event.pbx} if names_pbx else {}
    return pbx | {
        "linkedid": event.linkedid,
        "extension": event.extension,
        "number": event.number,
        "client_id": event.client_id,
        "operation": event.kind.value,
    }


def excerpt(body: bytes) -> str:
    """The first characters of an answer, on one line and with nothing that moves a terminal's cursor."""
    text = body[: EXCERPT_CHARS * 4].decode("utf-8", "replace").strip("\ufeff \t\r\n")
    return printable(text)[:EXCERPT_CHARS] or "(empty)"


def printable(text: str) -> str:
    """Text from outside, fit for a log line: one line, without control characters."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def _redirect(status: int, location: str | None) -> str:
    if not location:
        return f"HTTP {status}: redirects are not followed, and this one names no address; check crm.url"
    # Without its query, which may repeat the caller's number.
    target = printable(location.split("?", 1)[0])[:EXCERPT_CHARS]
    return f"HTTP {status} to {target}: redirects are not followed; set crm.url to the CRM's new address"


def _success(body: bytes) -> bool | None:
    """The body's "success", None when it says neither true nor false.

    PHP scripts saved with a byte order mark, or with a blank line before `<?php`, send these before the JSON.
    """
    text = body.decode("utf-8", "replace").strip("\ufeff \t\r\n")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    success = answer.get("success") if isinstance(answer, dict) else None
    return success if isinstance(success, bool) else None
