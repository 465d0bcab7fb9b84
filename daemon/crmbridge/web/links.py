"""Links that open one recording without credentials, for a while. Pure: time is handed in (seconds of Unix time).

A link is for a browser: whoever looks at a customer's card clicks on a recording, and neither has the password nor
should. It holds what it opens, until when, and for which client's call list it was made; a signature (HMAC-SHA256) of
all three keeps it from being made up, or made into another. Nothing is stored, so it can't be taken back before its
time but with all others, by another key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import quote, urlencode

PATH = "/recordings/"
PARAMETERS = frozenset({"ClientId", "expires", "signature"})

_EXPIRES = re.compile(r"[0-9]{1,11}", re.ASCII)
_PURPOSE = "recording"
"""The key might sign other things one day: none of those may open a recording."""


class Bad(StrEnum):
    """Why a link opens nothing."""

    INVALID = "link_invalid"
    EXPIRED = "link_expired"


class Links:
    """Makes links and judges them, with one key."""

    def __init__(self, key: bytes, *, expire_s: float) -> None:
        """`expire_s`: how long a new link lives, in seconds."""
        self._key = key
        self._expire_s = expire_s

    def link(self, name: str, client_id: str, now_s: float) -> str:
        """The path, with its query, that opens the recording of this name."""
        expires = str(int(now_s + self._expire_s))
        query = {"ClientId": client_id, "expires": expires, "signature": self._signature(name, client_id, expires)}
        return f"{PATH}{quote(name, safe='/')}?{urlencode(query)}"

    def judge(self, name: str, given: Mapping[str, str], now_s: float) -> Bad | None:
        """Whether a link's parameters open the recording of this name; None where they do."""
        client_id, expires, signature = (given.get(one, "") for one in ("ClientId", "expires", "signature"))
        right = self._signature(name, client_id, expires)
        if not hmac.compare_digest(right.encode(), signature.encode(errors="replace")):
            return Bad.INVALID
        # Signed by us, so it is a number; looked at last, so that the time tells nothing about the signature.
        return None if _EXPIRES.fullmatch(expires) and now_s < int(expires) else Bad.EXPIRED

    def _signature(self, name: str, client_id: str, expires: str) -> str:
        # No line end is in any of them but perhaps in what somebody made up: the name, which is free of them, is last.
        signed = "\n".join((_PURPOSE, expires, client_id, name)).encode(errors="replace")
        digest = hmac.new(self._key, signed, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
