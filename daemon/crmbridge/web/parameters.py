"""The parameters of a request: query and form together, each at most once.

Twice the same parameter is refused, since proxies, frameworks and we might take different ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web
from aiohttp.http import HttpProcessingError
from multidict import MultiDict, MultiMapping

from crmbridge.web.answers import ProblemError

BODY_S = 10.0
"""How long a client may take to send its form."""
LONGEST_VALUE = 200
"""Characters; nothing that we take is near it."""

CREDENTIALS = ("username", "password")
"""Parameters that are credentials, where the settings let them be."""

_READ = web.RequestKey("parameters", MultiDict[str])
_UNREADABLE = (ValueError, LookupError, AssertionError, HttpProcessingError, ConnectionError, web.RequestPayloadError)
"""What aiohttp raises for forms that are none, or that end too early."""


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
            form = await request.post()
    except TimeoutError:
        raise ProblemError(408, "request_timeout", f"the body did not come within {BODY_S:g} seconds") from None
    except _UNREADABLE:
        raise ProblemError(400, "bad_request", "the body is no form that can be read") from None
    return [(name, _text(name, value)) for name, value in form.items()]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise malformed(name, "is a file")
    return value


def required(values: MultiMapping[str], name: str) -> str:
    """A parameter that must be there. Raises ProblemError."""
    value = optional(values, name)
    if not value:
        raise ProblemError(400, "missing_parameter", f"{name} is missing or empty")
    return value


def optional(values: MultiMapping[str], name: str) -> str | None:
    """A parameter that may be there. Raises ProblemError where it is there twice, or too long."""
    given = values.getall(name, [])
    if len(given) > 1:
        raise malformed(name, "is given more than once")
    if given and len(given[0]) > LONGEST_VALUE:
        raise malformed(name, f"is longer than {LONGEST_VALUE} characters")
    return given[0] if given else None


def known(values: Mapping[str, str], names: frozenset[str]) -> None:
    """Raise ProblemError where there is a parameter that has no meaning: a misspelt filter must not be ignored."""
    strangers = sorted(set(values) - names)
    if strangers:
        raise malformed(strangers[0][:LONGEST_VALUE], f"is not known here (known: {', '.join(sorted(names))})")


def malformed(name: str, why: str) -> ProblemError:
    """The problem of a parameter that means nothing."""
    return ProblemError(400, "malformed_parameter", f"{name} {why}")
