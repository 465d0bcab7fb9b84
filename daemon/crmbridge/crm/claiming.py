"""Sends a callback only while it is this bridge's to send, where another bridge may be sending it, too.

It is claimed before each request, and the claim is kept up while the request is under way. Let go where it is to be
tried again, so that a bridge with a better line to the CRM takes it; put down as told where the CRM has ended the
matter. What claims mean is calls/claims.py's. It must not know where they are kept, nor when a callback's turn comes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from crmbridge.calls.claims import Held, Mine, Standing, Told, Without, of_callback
from crmbridge.calls.events import Attempt, Delivery, State
from crmbridge.crm.callback import Answer, about
from crmbridge.crm.client import NotAllowedError, Outcome
from crmbridge.crm.clock import Clock

log = structlog.get_logger("crmbridge.crm")

RENEWALS_IN_A_LEASE = 3
"""One may be lost, and one come late."""


class Claims(Protocol):
    """Whoever keeps the claims."""

    @property
    def lease_s(self) -> float:
        """How long a claim holds that is not renewed."""

    async def take(self, key: str, *, patient: bool = True) -> Standing:
        """Claim this. Never waits for long; not at all where no claims can be had and it is not `patient`."""

    async def renew(self, key: str) -> Standing:
        """Claim it for another lease."""

    async def told(self, keys: Sequence[str]) -> dict[str, Told]:
        """Which of these are told, as far as can be found out."""

    async def look_again(self) -> None:
        """Find out anew whether claims can be had, where they could not. Never waits for long."""

    def tell(self, key: str, how: str) -> None:
        """The CRM has ended the matter. Returns at once."""

    def let_go(self, key: str) -> None:
        """It is not sent for now. Returns at once."""


_OURS = {Answer.CONFIRMED.value: State.CONFIRMED, Answer.REFUSED.value: State.REFUSED}

Request = Callable[[Callable[[], bool]], Awaitable[Outcome]]
"""Sends a callback, if what it is handed says, right before, that it may. Raises NotAllowedError."""


class Claiming:
    """Sends under claims."""

    def __init__(self, claims: Claims, clock: Clock, *, names_pbx: bool = False) -> None:
        """`names_pbx`: see `about`."""
        self._claims = claims
        self._clock = clock
        self._names_pbx = names_pbx

    async def send(self, delivery: Delivery, request: Request, *, again: bool = False) -> Outcome | Told | Held:
        """Send it if it is ours; else, how it stands with the other bridge.

        `again`: it was tried before. Where no claim can be had, one cut may have taken both CRM and database away; once
        there is a connection to the CRM it is mended, and what the other bridge has told meanwhile can be known.
        """
        key = _key(delivery)
        while True:
            standing = await self._claims.take(key, patient=not again)
            if isinstance(standing, Told | Held):
                return standing
            if isinstance(standing, Mine) and standing.over:
                log.warning("crm.taken_over", **about(delivery.event, names_pbx=self._names_pbx), bridge=standing.over)
            lease = _Lease(self._claims, key, standing, self._clock)
            doubtful = again and isinstance(standing, Without)
            try:
                outcome = await request((lambda: False) if doubtful else lease.holds)
            except NotAllowedError:
                if doubtful:
                    await self._claims.look_again()
                    again = False
                continue  # we were stopped, or the connection took long
            except BaseException:
                self._claims.let_go(key)
                raise
            finally:
                lease.end()
            if outcome.verdict.answer is Answer.RETRY:
                self._claims.let_go(key)
            else:
                self._claims.tell(key, outcome.verdict.answer.value)
            return outcome

    async def told(self, deliveries: Sequence[Delivery]) -> dict[int, Told]:
        """Which of these (by their ids) another bridge has told."""
        keys = {_key(delivery): delivery.id for delivery in deliveries}
        return {keys[key]: told for key, told in (await self._claims.told(list(keys))).items()}


def _key(delivery: Delivery) -> str:
    return of_callback(delivery.event.key, delivery.requeued_at)


def state_of(told: Told) -> State:
    """How a callback stands that needn't be sent any more: by us, where we were killed before we wrote it down."""
    return _OURS.get(told.how, State.BY_PEER) if told.by_us else State.BY_PEER


def as_attempt(told: Told, now: datetime) -> Attempt:
    """How it came to that, as the outbox keeps it."""
    who = "this bridge, before it was started again" if told.by_us else told.bridge
    return Attempt(now, 0.0, None, f"{told.how} by the CRM, which was told by {who}")


class _Lease:
    """Keeps a claim up while a request is under way."""

    def __init__(self, claims: Claims, key: str, standing: Standing, clock: Clock) -> None:
        self._claims = claims
        self._key = key
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._renewing: asyncio.Task[None] | None = None
        self._follow(standing)

    def holds(self) -> bool:
        """Whether we may send now."""
        return self._clock.monotonic() < self._until

    def end(self) -> None:
        """It is needed no more."""
        self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()

    def _follow(self, standing: Standing) -> None:
        # Without a database to ask nobody can take it from us, nor be kept from sending it, too.
        self._until = standing.until if isinstance(standing, Mine) else math.inf
        self._timer = self._loop.call_later(self._claims.lease_s / RENEWALS_IN_A_LEASE, self._renew)

    def _renew(self) -> None:
        self._renewing = asyncio.create_task(self._renewed())

    async def _renewed(self) -> None:
        standing = await self._claims.renew(self._key)
        if isinstance(standing, Told | Held):
            self._until = -math.inf  # taken over: we were too slow
        else:
            self._follow(standing)
