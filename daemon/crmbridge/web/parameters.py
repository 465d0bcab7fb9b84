"""The parameters of a request: query and form together, each at most once.

Twice the same parameter is refused, since proxies, frameworks and we might take different ones.
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Mapping

from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, BodyPartReader, web
from aiohttp.http import HttpProcessingError
from multidict import MultiDict, MultiMapping

from crmbridge.web.answers import ProblemError

BODY_S = 10.0
"""How long a client may take to send its form."""
LONGEST_VALUE = 200
"""Characters; nothing that we take is near it."""
MOST_PARTS = 100
"""Of a form in parts."""

_NOT_PRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters and all that ends a line somewhere: no value of ours has any, not even at its end."""

CREDENTIALS = ("username", "password")
"""Parameters that are credentials, where the settings let them be."""

_READ = web.RequestKey("parameters", MultiDict[str])
_ODD_PARTS = (BadContentDispositionHeader, BadContentDispositionParam)
_UNREADABLE = (
    *(ValueError, LookupError, AssertionError, HttpProcessingError, ConnectionError, web.RequestPayloadError),
    *_ODD_PARTS,
)
"""What aiohttp raises for forms that are none, or that end too early."""
for _kind in _ODD_PARTS:
    # It warns of a part's header, quoting it, on standard error and once for each text; such a part has no name then.
    warnings.filterwarnings("ignore", category=_kind)


async def read(request: web.Request) -> MultiMapping[str]:
    """All parameters, of the query and of a form. Raises ProblemError for a body that can't be read."""
    values: MultiDict[str] | None = request.get(_READ)
    if values is None:
        values = MultiDict(request.query)
        values.extend(await _form(request))
        request[_READ] = values
    return values


async def _form(request: web.Request) -> list[tuple[str, str]]:
    if not request.can_read_body:
        return []
    try:
        async with asyncio.timeout(BODY_S):
            if request.content_type == "multipart/form-data":
                return await _parts(request)
            form = await request.post() if _is_utf8(request.charset) else None
    except TimeoutError:
        raise ProblemError(408, "request_timeout", f"the body did not come within {BODY_S:g} seconds") from None
    except _UNREADABLE:
        raise ProblemError(400, "bad_request", "the body is no form that can be read") from None
    if form is None:
        raise ProblemError(400, "bad_request", "a form must be in UTF-8")
    return [(name, str(value)) for name, value in form.items()]


def _is_utf8(charset: str | None) -> bool:
    """Whether a form says so, or nothing. Others (UTF-7…) are for smuggling something past a proxy that reads along."""
    return (charset or "utf-8").lower() in ("utf-8", "utf8", "us-ascii")


async def _parts(request: web.Request) -> list[tuple[str, str]]:
    """A form in parts, read by ourselves: each part may name its own encoding, and aiohttp believes it."""
    found: list[tuple[str, str]] = []
    left = request.client_max_size
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader) or not part.name or len(found) >= MOST_PARTS:
            raise ProblemError(400, "bad_request", "the body is no form that can be read")
        if part.filename is not None:
            raise malformed(part.name, "is a file")
        if not _is_utf8(part.get_charset("utf-8")):
            raise ProblemError(400, "bad_request", "a form must be in UTF-8")
        value = bytearray()
        while chunk := await part.read_chunk():
            value += chunk
            if len(value) > left:
                raise ProblemError(413, "too_large", "the request's body is too large")
        left -= len(value)
        found.append((part.name, value.decode()))
    return found


def required(values: MultiMapping[str], name: str) -> str:
    """A parameter that must be there. Raises ProblemError."""
    value = optional(values, name)
    if not value:
        raise ProblemError(400, "missing_parameter", f"{name} is missing or empty")
    return value


def optional(values: MultiMapping[str], name: str) -> str | None:
    """A parameter that may be there. Raises ProblemError where it is there twice, too long, or of several lines."""
    given = values.getall(name, [])
    if len(given) > 1:
        raise malformed(name, "is given more than once")
    if given and len(given[0]) > LONGEST_VALUE:
        raise malformed(name, f"is longer than {LONGEST_VALUE} characters")
    if given and _NOT_PRINTED.search(given[0]):
        raise malformed(name, "holds a line end or another control character")
    return given[0] if given else None


def known(values: Mapping[str, str], names: frozenset[str]) -> None:
    """Raise ProblemError where there is a parameter that has no meaning: a misspelt filter must not be ignored."""
    strangers = sorted(set(values) - names)
    if strangers:
        raise malformed(strangers[0][:LONGEST_VALUE], f"is not known here (known: {', '.join(sorted(names))})")


def malformed(name: str, why: str) -> ProblemError:
    """The problem of a parameter that means nothing."""
    return ProblemError(400, "malformed_parameter", f"{name} {why}")
