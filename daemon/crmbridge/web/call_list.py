"""The call list over HTTP: `GET /calls?number=033004799`.

Any spelling of the number finds its calls. Also `ext`, `direction` (`in` or `out`), `since`, `until`, `limit` (1 to
1,000, default 100) and `cursor`. The answer, newest first:
`{"success":true,"result":[{"time":"2026-11-23 05:52:57","ext":"777","number":"033004799","duration":2,
"filename":"","incoming":true}],"cursor":"…"}`. `cursor` is there when there is more: the same request with it gives the
next page, and nothing is left out or repeated when calls come in between.

`time` is written as SQL's DATETIME, in the PBX's time zone: that is what the CRM reads from a database, and the same
call must not differ between here and there. `since` and `until` take a date, that form, or ISO 8601; without an offset
they mean the PBX's time zone. `since` is included, `until` is not, but a date alone means its whole day. `duration` is
in seconds, 0 for a missed call. `ext` is empty for a missed call that rang nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from aiohttp import web
from multidict import MultiMapping

from crmbridge.calls.history import CallRow, Page, Position
from crmbridge.web import parameters
from crmbridge.web.access import Grant
from crmbridge.web.answers import ProblemError, answer
from crmbridge.web.connection import GRANT

DEFAULT_LIMIT = 100
LARGEST_LIMIT = 1000

_DIRECTIONS = {None: None, "in": True, "out": False}
_KNOWN = frozenset({"number", "ext", "direction", "since", "until", "limit", "cursor"})
_CURSOR = re.compile(r"([0-9]{1,10})-([0-9]{1,18})", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(\.[0-9]{1,6})?(Z|[+ -][0-9]{2}:?[0-9]{2})?", re.ASCII
)


class ByNumber(Protocol):
    """Finds calls, newest first; `after` is where an earlier Page ended."""

    async def __call__(
        self,
        key: str,
        *,
        extension: str | None = None,
        incoming: bool | None = None,
        since_at: datetime | None = None,
        until_at: datetime | None = None,
        limit: int = DEFAULT_LIMIT,
        after: Position | None = None,
    ) -> Page: ...


class CallListing:
    """Serves the call list."""

    needs_credentials = True

    def __init__(
        self,
        *,
        by_number: ByNumber,
        key: Callable[[str], str],
        timezone: tzinfo,
        owns: Callable[[str, str], bool],
    ) -> None:
        """`key`: the same for all spellings of a number; `timezone`: the PBX's; `owns(client_id, extension)`."""
        self._by_number = by_number
        self._key = key
        self._timezone = timezone
        self._owns = owns

    def routes(self) -> Iterable[web.RouteDef]:
        """One path."""
        yield web.get("/calls", self._calls)

    async def close(self) -> None:
        """Nothing is under way."""

    async def _calls(self, request: web.Request) -> web.Response:
        values = request.query
        parameters.known({name: "" for name in values if name not in parameters.CREDENTIALS}, _KNOWN)
        direction = parameters.optional(values, "direction")
        if direction not in _DIRECTIONS:
            raise parameters.malformed("direction", "must be in or out")
        number, extension = parameters.required(values, "number"), parameters.optional(values, "ext")
        self._check(request[GRANT], extension)
        page = await self._by_number(
            self._number(number),
            extension=extension,
            incoming=_DIRECTIONS[direction],
            since_at=self._instant(values, "since"),
            until_at=self._instant(values, "until"),
            limit=_limit(parameters.optional(values, "limit")),
            after=_position(parameters.optional(values, "cursor")),
        )
        more = {"cursor": "{}-{}".format(*page.after)} if page.after else {}
        return answer({"success": True, "result": [self._shown(row) for row in page.rows], **more})

    def _check(self, grant: Grant, extension: str | None) -> None:
        """Raise ProblemError where this extension's calls are not for who asks.

        A client with credentials of its own sees one of its extensions at a time: the list does not know yet whose a
        missed call is that rang nobody. Once it knows each row's ClientId, that is what is to be filtered by here.
        """
        if grant.client_ids is None or (extension and any(self._owns(one, extension) for one in grant.client_ids)):
            return
        message = (
            "these credentials show the calls of one extension of this client at a time: ext is missing or not its"
        )
        raise ProblemError(403, "extension_not_allowed", message)

    def _number(self, written: str) -> str:
        # An unescaped `+` in a query string is a space.
        text = "+" + written[1:] if re.match(r" [1-9].{6}", written, re.ASCII) else written
        key = self._key(text)
        if not key:
            raise parameters.malformed("number", "holds no digits")
        return key

    def _instant(self, values: MultiMapping[str], name: str) -> datetime | None:
        """Aware UTC. A date alone is its beginning, for `until` its end."""
        text = parameters.optional(values, name)
        if text is None:
            return None
        problem = parameters.malformed(name, "must be a date (2026-11-23) or a time (2026-11-23 05:52:57, or ISO 8601)")
        is_date = bool(_DATE.fullmatch(text))
        if not is_date and not _INSTANT.fullmatch(text):
            raise problem
        try:
            return self._read(text, days=1 if is_date and name == "until" else 0)
        except (ValueError, OverflowError):
            raise problem from None

    def _read(self, text: str, days: int) -> datetime:
        head, offset = text[:11], text[11:].replace(" ", "+")  # an unescaped + again
        wall = datetime.fromisoformat(head + offset) + timedelta(days=days)
        return (wall if wall.tzinfo else wall.replace(tzinfo=self._timezone)).astimezone(UTC)

    def _shown(self, row: CallRow) -> dict[str, object]:
        return {
            "time": row.started_at.astimezone(self._timezone).strftime("%Y-%m-%d %H:%M:%S"),
            "ext": row.extension,
            "number": row.number,
            "duration": row.talk_s,
            "filename": row.filename,
            "incoming": row.incoming,
        }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or not 1 <= int(text) <= LARGEST_LIMIT:
        raise parameters.malformed("limit", f"must be a number from 1 to {LARGEST_LIMIT}")
    return int(text)


def _position(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if not match:
        raise parameters.malformed("cursor", "is none that an earlier answer had")
    return Position(int(match[1]), int(match[2]))
