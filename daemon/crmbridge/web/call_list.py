"""The call list over HTTP: `GET /calls?number=033004799`.

Any spelling of the number finds its calls. Also `ext`, `direction` (`in` or `out`), `since`, `until`, `ClientId`,
`limit` (1 to 1,000, default 100) and `cursor`. The answer, newest first:
`{"success":true,"result":[{"time":"2026-11-23 05:52:57","ext":"777","number":"033004799","duration":2,
"filename":"","incoming":true}],"cursor":"…"}`. `cursor` is there when there is more: the same request with it gives the
next page, and nothing is left out or repeated when calls come in between. Only calls of those clients are shown that
the credentials are for.

`time` is written as SQL's DATETIME, in the PBX's time zone: that is what the CRM reads from a database, and the same
call must not differ between here and there. `since` and `until` take a date, that form, or ISO 8601; without an offset
they mean the PBX's time zone. `since` is included, `until` is not, but a date alone means its whole day. `duration` is
in seconds, 0 for a missed call. `ext` is empty for a missed call that rang nobody. `link`, where recordings are served,
opens the recording without credentials for a while.

While the list's database is away, the answer is 503 `call_list_unavailable` within a few seconds. Nothing else of the
bridge notices.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from aiohttp import web
from multidict import MultiMapping

from crmbridge.calls.history import CallRow, Page, Position
from crmbridge.web import parameters
from crmbridge.web.access import Grant
from crmbridge.web.answers import ProblemError, answer, squeezed
from crmbridge.web.connection import GRANT
from crmbridge.web.outage import Outage

DEFAULT_LIMIT = 100
LARGEST_LIMIT = 1000
ANSWER_S = 8.0
"""How long the list may take, should what is handed in not have a limit of its own. A lookup takes milliseconds."""
RETRY_S = 10
"""When it makes sense to ask again while the list is away."""
AT_ONCE = 100
"""Lines that are written before others get their turn: with links, a millisecond's work."""

_DIRECTIONS = {None: None, "in": True, "out": False}
_KNOWN = frozenset({"number", "ext", "direction", "since", "until", "limit", "cursor", "ClientId"})
_CURSOR = re.compile(r"([0-9]{1,10})-([0-9]{1,19})", re.ASCII)
_LARGEST_ID = 2**63 - 1
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(\.[0-9]{1,6})?(Z|[+ -][0-9]{2}:?[0-9]{2})?", re.ASCII
)


class ByNumber(Protocol):
    """Finds calls, newest first; `after` is where an earlier Page ended. `client_ids`: whose; None: everybody's."""

    async def __call__(
        self,
        key: str,
        *,
        client_ids: Collection[str] | None = None,
        extension: str | None = None,
        incoming: bool | None = None,
        since_at: datetime | None = None,
        until_at: datetime | None = None,
        limit: int = DEFAULT_LIMIT,
        after: Position | None = None,
    ) -> Page: ...


def no_link(filename: str, client_id: str, pbx: str) -> None:
    """What `link` is where no recordings are served."""
    del filename, client_id, pbx


class CallListing:
    """Serves the call list."""

    needs_credentials = True

    def __init__(
        self,
        *,
        by_number: ByNumber,
        refusal: type[Exception],
        key: Callable[[str], str],
        timezone: tzinfo,
        zones: Mapping[str, tzinfo] | None = None,
        link: Callable[[str, str, str], str | None] = no_link,
        took: Callable[[float], None] = lambda seconds: None,  # noqa: ARG005
    ) -> None:
        """`refusal`: what `by_number` raises while its database is away. `key`: the same for all spellings of a number.

        `timezone`: the PBX's; `zones`: of PBXes that are in another one, by name. `link`: what opens a client's
        recording on a PBX without credentials, None where nothing does.
        `took` hears how long each answer of `by_number` took.
        """
        self._by_number = by_number
        self._refusal = refusal
        self._key = key
        self._timezone = timezone
        self._zones = zones or {}
        self._link = link
        self._took = took
        self._outage = Outage("call_list")

    @property
    def is_away(self) -> bool:
        """Whether the last request found the list's database away."""
        return self._outage.is_away

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
        number = parameters.required(values, "number")
        page = await self._found(
            self._number(number),
            client_ids=_client_ids(request[GRANT], parameters.optional(values, "ClientId")),
            extension=parameters.optional(values, "ext"),
            incoming=_DIRECTIONS[direction],
            since_at=self._instant(values, "since"),
            until_at=self._instant(values, "until"),
            limit=_limit(parameters.optional(values, "limit")),
            after=_position(parameters.optional(values, "cursor")),
        )
        more = {"cursor": "{}-{}".format(*page.after)} if page.after else {}
        result = await self._lines(page.rows)
        # The links, which are all that is secret here, differ from one second to the next, and nothing of the request
        # is in the answer: its length tells nothing, however often somebody has it made.
        return squeezed(answer({"success": True, "result": result, **more}), request)

    async def _found(
        self,
        key: str,
        *,
        client_ids: Collection[str] | None,
        extension: str | None,
        incoming: bool | None,
        since_at: datetime | None,
        until_at: datetime | None,
        limit: int,
        after: Position | None,
    ) -> Page:
        """The calls. Raises ProblemError while they can't be had."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(ANSWER_S):
                page = await self._by_number(
                    key,
                    client_ids=client_ids,
                    extension=extension,
                    incoming=incoming,
                    since_at=since_at,
                    until_at=until_at,
                    limit=limit,
                    after=after,
                )
        except (self._refusal, TimeoutError) as error:
            self._outage.begins(str(error) or f"the call list's database did not answer within {ANSWER_S:g} s")
            message = "the call list can't be read at present; ask again later, the bridge's log says why"
            raise ProblemError(503, "call_list_unavailable", message, {"Retry-After": str(RETRY_S)}) from None
        self._took(asyncio.get_running_loop().time() - began)
        self._outage.ends()
        return page

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

    async def _lines(self, rows: list[CallRow]) -> list[dict[str, object]]:
        lines: list[dict[str, object]] = []
        for row in rows:
            lines.append(self._shown(row))
            if len(lines) % AT_ONCE == 0:
                await asyncio.sleep(0)
        return lines

    def _shown(self, row: CallRow) -> dict[str, object]:
        line: dict[str, object] = {
            "time": row.started_at.astimezone(self._zones.get(row.pbx, self._timezone)).isoformat(" ", "seconds")[:19],
            "ext": row.extension,
            "number": row.number,
            "duration": row.talk_s,
            "filename": row.filename,
            "incoming": row.incoming,
        }
        if row.filename and (link := self._link(row.filename, row.client_id, row.pbx)):
            line["link"] = link
        return line


def _client_ids(grant: Grant, wanted: str | None) -> frozenset[str] | None:
    """Whose calls are shown; None: everybody's."""
    if wanted is None:
        return grant.client_ids
    if not wanted:
        raise parameters.malformed("ClientId", "is empty")
    if not grant.is_for(wanted):  # nobody is to learn who else is here
        raise ProblemError(403, "unknown_client", "no client with this ClientId")
    return frozenset({wanted})


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
    if not match or int(match[2]) > _LARGEST_ID:
        raise parameters.malformed("cursor", "is none that an earlier answer had")
    return Position(int(match[1]), int(match[2]))
