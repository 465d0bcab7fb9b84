"""Something that is needed and may be away: said in the log when it goes and when it is back, not with each request."""

from __future__ import annotations

import structlog

log = structlog.get_logger("crmbridge.http")


class Outage:
    """Whether one thing is there, as far as the last request for it showed."""

    def __init__(self, name: str) -> None:
        """`name`: what the events in the log begin with."""
        self._name = name
        self._away = False

    @property
    def is_away(self) -> bool:
        """Whether it was not there when it was last needed."""
        return self._away

    def begins(self, reason: str) -> None:
        """It is not there. `reason`: for the administrator."""
        if not self._away:
            log.error(f"{self._name}.unavailable", reason=reason)
        self._away = True

    def ends(self) -> None:
        """It is there."""
        if self._away:
            log.info(f"{self._name}.available")
        self._away = False
