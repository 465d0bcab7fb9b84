"""Click to call: the CRM's request becomes an Originate, once.

`GET` or `POST` (query or form) `/dialer/sodialer.php?sExt=777&sNumber=033004799&ClientId=10` rings the agent's phone
777; when the agent answers, the PBX dials the number. The client's own example has the port behind the path, so
`/dialer/sodialer.php:6560` is the same. The answer comes when the PBX has taken the order, not when somebody answers.

Errors, besides those of every request: 400 `missing_parameter`, `malformed_parameter`; 403 `unknown_client`,
`extension_not_allowed`, `number_not_allowed`; 409 `extension_unreachable`, `extension_busy`, `extension_ambiguous` (two
PBXes may have such a phone); 429 `too_many` (with Retry-After); 502 `originate_failed`; 503 `pbx_not_connected`; 504
`originate_unknown` (the PBX did not answer in time: the phone may ring).

What may be dialed is `calls.dialing`'s business, how a call is placed that of the function handed in.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

import structlog
from aiohttp import BasicAuth, web
from multidict import MultiMapping

from crmbridge.calls.clicks import Asked, Outcome
from crmbridge.calls.dialing import UNKNOWN_CLIENT, Click, Code, Dialing, Refusal, Result
from crmbridge.web import parameters
from crmbridge.web.access import Grant
from crmbridge.web.answers import ProblemError, answer
from crmbridge.web.connection import CLIENT, GRANT

log = structlog.get_logger("crmbridge.dialer")

Originate = Callable[[Click], Awaitable[Result]]
"""Places a click on its PBX → what became of it. Should not raise."""


class Trail(Protocol):
    """Whoever keeps what became of each click."""

    def refused(self, asked: Asked) -> None:
        """A click that is no call, or none of its own."""

    def accepted(self, asked: Asked) -> asyncio.Future[None]:
        """A click that is placed next, once this is done."""

    def settled(self, click_id: str, result: Result) -> None:
        """What the PBX said when it was asked to place the call."""


class Peers(Protocol):
    """The other bridges that may be asked for the same click."""

    async def claim(self, click: Click) -> Result | None:
        """What became of it on another one, as soon as that is known; None: it is ours to place."""

    def told(self, click: Click, result: Result) -> None:
        """What became of one that was ours."""


STORED_S = 1.0
"""How long a click waits until it is on disk: no longer than a person does."""
PLACE_S = 15.0
"""How long placing may take at most, should what is handed in not have a limit of its own."""

_STATUS = {
    Code.MALFORMED: 400,
    Code.UNKNOWN_CLIENT: 403,
    Code.EXTENSION: 403,
    Code.AMBIGUOUS: 409,
    Code.NUMBER: 403,
    Code.UNREACHABLE: 409,
    Code.BUSY: 409,
    Code.TOO_MANY: 429,
    Code.REFUSED: 502,
    Code.NOT_CONNECTED: 503,
    Code.UNKNOWN: 504,
}
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_EXTENSION = re.compile(r"[A-Za-z0-9._-]{1,40}", re.ASCII)


def new_click_id() -> str:
    """An id for a click, which becomes the call's Linkedid: 25 of the 30 characters that fit, the first ones the time.

    Like Asterisk's own ids it holds epoch seconds, which settle the hour that a clock change repeats.
    """
    return f"crm-{int(time.time())}.{secrets.token_hex(5)}"


class Dialer:
    """Serves click to call."""

    needs_credentials = True

    def __init__(
        self,
        *,
        dialing: Dialing,
        originate: Originate,
        trail: Trail,
        peers: Peers | None = None,
        names_pbxes: bool = False,
        clock: Callable[[], float] = time.monotonic,
        click_id: Callable[[], str] = new_click_id,
    ) -> None:
        """`peers`: where there are any. `names_pbxes`: lines of the log say which PBX it was.

        `clock`: seconds of a monotonic clock.
        """
        self._peers = peers
        self._dialing = dialing
        self._names_pbxes = names_pbxes
        self._originate = originate
        self._trail = trail
        self._clock = clock
        self._click_id = click_id
        self._under_way: dict[str, asyncio.Task[bool]] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        """The client's path, with and without the port that its example has behind it. HEAD does not dial."""
        for path in ("/dialer/sodialer.php", "/dialer/sodialer.php:{port:[0-9]{1,5}}"):
            yield web.get(path, self._click, allow_head=False)
            yield web.post(path, self._click)

    async def close(self) -> None:
        """Give up waiting for the PBX about clicks under way. Nothing that was not sent is sent later."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _click(self, request: web.Request) -> web.Response:
        values = await parameters.read(request)
        asked = Asked(
            click_id=self._click_id(),
            at=datetime.now(UTC),
            address=request.get(CLIENT, ""),
            user=_user(request, values),
            client_id=values.get("ClientId", ""),
            extension=values.get("sExt", ""),
            number=values.get("sNumber", ""),
            dialed=None,
            outcome=Outcome.REFUSED,
            pbx=self._dialing.only or "",
        )
        bound = log.bind(
            address=asked.address,
            user=asked.user,
            client_id=_logged(asked.client_id),
            extension=_logged(asked.extension),
            number=_logged(asked.number),
        )
        try:
            _check(values)
        except ProblemError as problem:
            bound.warning("dialer.refused", click=asked.click_id, code=problem.code, reason=problem.message)
            self._trail.refused(replace(asked, code=problem.code, reason=problem.message))
            raise
        click = self._admit(request[GRANT], asked)
        if isinstance(click, Refusal):
            asked = replace(asked, pbx=click.pbx or asked.pbx, code=click.code.value, reason=click.message)
            where = self._where(asked.pbx)
            bound.warning("dialer.refused", click=asked.click_id, code=asked.code, reason=asked.reason, **where)
            self._trail.refused(asked)
            raise _problem(click.code, click.message, click.retry_after_s)
        is_new = click.id == asked.click_id
        asked = replace(asked, click_id=click.id, dialed=click.number, pbx=click.pbx)
        result, is_new = await self._result(click, replace(asked, outcome=Outcome.IN_PROGRESS) if is_new else None)
        if not is_new:
            self._trail.refused(replace(asked, outcome=Outcome.REPEATED))
        bound.info(
            "dialer.repeated" if not is_new else "dialer.failed" if result.code else "dialer.placed",
            click=click.id,
            dialed=click.number,
            code=result.code and result.code.value,
            reason=result.message or None,
            **self._where(click.pbx),
        )
        if result.code:
            raise _problem(result.code, result.message)
        return answer({"success": True, "result": []})

    def _where(self, pbx: str) -> dict[str, str]:
        """Which PBX it is, for the log; nothing where there is only one, or it is none."""
        return {"pbx": pbx} if pbx and self._names_pbxes else {}

    def _admit(self, grant: Grant, asked: Asked) -> Click | Refusal:
        if not grant.is_for(asked.client_id):
            return UNKNOWN_CLIENT  # nobody is to learn who else is here
        return self._dialing.admit(
            client_id=asked.client_id,
            extension=asked.extension,
            number=asked.number,
            click_id=asked.click_id,
            now_s=self._clock(),
        )

    async def _result(self, click: Click, asked: Asked | None) -> tuple[Result, bool]:
        """What became of a click, and whether that is a call of this request's own. `asked`: for the first of them."""
        if asked is not None:
            stored = self._trail.accepted(asked) if self._peers is None else None
            task = asyncio.create_task(self._place(click, asked, stored), name=f"click {click.id}")
            self._under_way[click.id] = task
            task.add_done_callback(lambda _: self._under_way.pop(click.id, None))
        if under_way := self._under_way.get(click.id):
            # A request that is given up must not take the others' click along.
            await asyncio.wait([under_way])
        is_ours = asked is not None and (task.cancelled() or task.result())
        return click.result or Result(Code.UNKNOWN, "the bridge was stopped before the PBX answered"), is_ours

    async def _place(self, click: Click, asked: Asked, stored: asyncio.Future[None] | None) -> bool:
        """Place it, or see what another bridge makes of it. False: it is that one's call."""
        result = Result(Code.UNKNOWN, "it is not known whether the PBX has placed the call; the phone may ring")
        is_ours = self._peers is None
        try:
            async with asyncio.timeout(PLACE_S):
                elsewhere = await self._peers.claim(click) if self._peers is not None else None
                is_ours = elsewhere is None
                result = elsewhere or await self._placed(click, stored or self._trail.accepted(asked))
        except TimeoutError:
            pass
        except Exception:
            # It is not known how far it came; the click must not be dialed twice for that.
            log.exception("dialer.broken", click=click.id)
        finally:
            self._dialing.settle(click, result, self._clock())
            if is_ours:
                self._trail.settled(click.id, result)
            if is_ours and self._peers is not None:
                self._peers.told(click, result)
        return is_ours

    async def _placed(self, click: Click, stored: asyncio.Future[None]) -> Result:
        await asyncio.wait([stored], timeout=STORED_S)
        return await self._originate(click)


def _logged(value: str) -> str:
    """A value that may be anything, for the log: of one line, in no script that turns it around, and not too long."""
    return ascii(value[: parameters.LONGEST_VALUE])[1:-1]


def _check(values: MultiMapping[str]) -> None:
    """Raise ProblemError where parameters are missing, there twice, or are nothing that they should be."""
    extension, client_id = parameters.required(values, "sExt"), parameters.required(values, "ClientId")
    parameters.required(values, "sNumber")
    if not _EXTENSION.fullmatch(extension):
        raise parameters.malformed("sExt", "is no extension: letters, digits, dot, dash and underscore")
    if not _CLIENT_ID.fullmatch(client_id):
        raise parameters.malformed("ClientId", "is no client's id: letters, digits, dot, dash and underscore")


def _user(request: web.Request, values: MultiMapping[str]) -> str:
    """Who asks, as they have shown already that they are: by HTTP Basic, or by parameters where that is allowed."""
    given = request.headers.get("Authorization")
    user = values.get("username", "")
    if given is not None:
        with suppress(ValueError):
            user = str(BasicAuth.decode(given, encoding="utf-8").login)
    return user


def _problem(code: Code, message: str, retry_after_s: float = 0) -> ProblemError:
    headers = {"Retry-After": str(math.ceil(retry_after_s))} if retry_after_s else None
    return ProblemError(_STATUS[code], code.value, message or code.value, headers)
