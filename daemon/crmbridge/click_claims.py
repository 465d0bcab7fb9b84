"""The same click on two bridges at once is one call: who claims it places it, the other answers as that one does.

Between the dialer, which decides whether a click may be at all, and the claims in the shared database. It must not know
how a call is placed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

import structlog

from crmbridge.calls.claims import PLACED, Held, Judge, Standing, Told, Without, judge_click, of_click
from crmbridge.calls.dialing import NOT_PLACED, Click, Code, Result

log = structlog.get_logger("crmbridge.clicks")

LOOK_S = 0.1
"""How often we look whether the other bridge has been answered by the PBX: somebody waits with the mouse in hand."""
PLACING_S = 20.0
"""Longer than any bridge takes to place a call: it has been killed, and nobody knows what became of it."""


class Claims(Protocol):
    """Whoever keeps the claims."""

    async def ask(self, key: str, judge: Judge) -> Standing:
        """Claim it, if `judge` finds that we may. Never waits for long."""

    def tell(self, key: str, how: str) -> None:
        """What came of it. Returns at once."""

    @property
    def token(self) -> int:
        """This bridge, as rows have it."""


class ClickClaims:
    """Claims of one bridge on clicks."""

    def __init__(self, claims: Claims, window_s: Callable[[], float]) -> None:
        """`window_s`: for how long the same click again is no second call."""
        self._claims = claims
        self._window_s = window_s

    async def claim(self, click: Click) -> Result | None:
        """What became of it on the other bridge, as soon as that is known; None: it is ours to place."""
        again = frozenset(code.value for code in NOT_PLACED)
        while True:
            judge = partial(
                judge_click,
                token=self._claims.token,
                window_s=self._window_s(),
                placing_s=PLACING_S,
                again=again,
            )
            standing = await self._claims.ask(_key(click), judge)
            if isinstance(standing, Held):
                again = frozenset()  # what it fails with is our answer, too
                await asyncio.sleep(LOOK_S)
                continue
            if isinstance(standing, Without):
                effect = "another bridge may place the same click"
                log.warning("click.without_claim", click=click.id, effect=effect)
            return _result(standing) if isinstance(standing, Told) else None

    def told(self, click: Click, result: Result) -> None:
        """What became of one that was ours."""
        self._claims.tell(_key(click), result.code.value if result.code else PLACED)


def _key(click: Click) -> str:
    return of_click(*click.key)


def _result(told: Told) -> Result:
    if told.how == PLACED:
        return Result()
    code = Code(told.how) if told.how in {code.value for code in Code} else Code.UNKNOWN
    return Result(code, f"so {told.bridge} was told, which was asked for the same click")
