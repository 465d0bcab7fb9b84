"""For whoever watches the bridge: does it live (`/healthz`), does it work (`/readyz`), how well (`/metrics`)?

Without credentials, for addresses on the list and for this machine itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from aiohttp import web

from crmbridge.web.answers import answer
from crmbridge.web.metrics import CONTENT_TYPE


class Ops:
    """Serves health, readiness and metrics."""

    needs_credentials = False

    def __init__(
        self,
        troubles: Callable[[], Sequence[str]],
        metrics: Callable[[], bytes] | None = None,
        *,
        works: Callable[[], bool] | None = None,
    ) -> None:
        """`troubles`: what the bridge can't do at present, in an administrator's words; nothing when it does all.

        `metrics`: in Prometheus' text format. `works`: whether it is of use nevertheless; None: only without troubles.
        """
        self._troubles = troubles
        self._works = works
        self._read_metrics = metrics

    def routes(self) -> Iterable[web.RouteDef]:
        """HEAD is answered too: monitors use it."""
        yield web.get("/healthz", self._healthz)
        yield web.get("/readyz", self._readyz)
        if self._read_metrics is not None:
            yield web.get("/metrics", self._metrics)

    async def close(self) -> None:
        """Nothing is under way."""

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return answer({"success": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        troubles = list(self._troubles())
        works = self._works() if self._works is not None else not troubles
        return answer({"success": works, "reasons": troubles}, status=200 if works else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        del request
        body = self._read_metrics() if self._read_metrics else b""
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
