"""The recordings of several PBXes, at the one path `/recordings/`: the PBX's name stands before the file's.

Two PBXes have files of the same name, in folders of their own, on disks that hang by themselves. A name without a PBX's
before it is one of the first that has recordings: so calls are still opened that were listed while it was alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiohttp import web

from crmbridge.web.links import PATH
from crmbridge.web.recordings import Recordings, asked


class RecordingsByPbx:
    """Serves the recordings of all PBXes that have some."""

    needs_credentials = True

    def __init__(self, by_pbx: Mapping[str, Recordings]) -> None:
        """`by_pbx`: at least one, each with the PBX's name and a slash for its prefix."""
        self._by_pbx = by_pbx
        self._first = next(iter(by_pbx.values()))

    def routes(self) -> Iterable[web.RouteDef]:
        """One path; HEAD is answered, too."""
        yield web.get(PATH + "{filename:.+}", self._serve)

    async def close(self) -> None:
        """What is under way has ended with its request."""
        for one in self._by_pbx.values():
            await one.close()

    def link(self, filename: str, client_id: str, pbx: str) -> str | None:
        """A path that opens this PBX's recording for a while; None where there is none."""
        one = self._by_pbx.get(pbx)
        return one.link(filename, client_id) if one is not None else None

    def follows(self, request: web.Request) -> bool:
        """Whether the request is a link that opens what it asks for. Raises ProblemError where it has a bad one."""
        return self._of(request).follows(request)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        return await self._of(request).serve(request)

    def _of(self, request: web.Request) -> Recordings:
        pbx = (asked(request) or "").partition("/")[0]
        return self._by_pbx.get(pbx, self._first)
