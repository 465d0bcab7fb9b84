"""What every answer of ours looks like: compact JSON, `success` first, errors with a code that never changes."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping

from aiohttp import web

SERVER = "crmbridge"
"""Of the Server header: aiohttp would tell its version and Python's."""


WORTH_SQUEEZING = 1400
"""Bytes: less is one packet anyway."""

_NEVER = re.compile(r"\s*q\s*=\s*0(\.0{0,3})?\s*", re.ASCII | re.IGNORECASE)


class ProblemError(Exception):
    """A request that gets no result. Handlers raise it; the server makes the answer of it."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        """`code`: for programs, stable; `message`: for whoever reads the CRM's log, says what to do."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def answer(self) -> web.Response:
        """The answer to the request."""
        error = {"code": self.code, "message": self.message}
        return answer({"success": False, "error": error}, status=self.status, headers=self.headers)


def answer(body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON without spaces, which nobody keeps a copy of."""
    return web.Response(
        status=status,
        body=json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
        content_type="application/json",
        charset="utf-8",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def squeezed(whole: web.Response, request: web.Request) -> web.Response:
    """The same answer, gzipped where the request wants it and it is worth it.

    Not for answers with a secret that stays the same beside what a stranger may choose: their length would tell it bit
    by bit (BREACH).
    """
    whole.headers["Vary"] = "Accept-Encoding"
    body = whole.body
    if isinstance(body, bytes) and len(body) >= WORTH_SQUEEZING and _takes_gzip(request):
        whole.body = gzip.compress(body, compresslevel=1, mtime=0)
        whole.headers["Content-Encoding"] = "gzip"
    return whole


def _takes_gzip(request: web.Request) -> bool:
    for one in ",".join(request.headers.getall("Accept-Encoding", [])).split(","):
        name, _, quality = one.partition(";")
        if name.strip().lower() in {"gzip", "x-gzip"}:
            return not _NEVER.fullmatch(quality)
    return False


_HTTP_CODES = {
    400: ("bad_request", "this is no HTTP request that can be read"),
    404: ("not_found", "there is nothing at this path"),
    405: ("method_not_allowed", "this path takes other methods: see the Allow header"),
    413: ("too_large", "the request's body is too large"),
    417: ("expectation_failed", "only Expect: 100-continue is understood"),
}


def problem_of(status: int, headers: Mapping[str, str] | None = None) -> ProblemError:
    """The problem for an HTTP error that the HTTP library found."""
    server = ("internal_error", "the bridge failed to answer; its log says why")
    other = ("http_error", "the request can't be answered") if status < 500 else server
    code, message = _HTTP_CODES.get(status, other)
    return ProblemError(status, code, message, headers)
