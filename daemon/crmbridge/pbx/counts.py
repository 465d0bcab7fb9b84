"""What went on between us and the PBX since the start, for metrics. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection


class Counts:
    """Counts of one PBX's sessions."""

    def __init__(self, wanted: Collection[str]) -> None:
        """`wanted`: the events that come at all; all counts begin at zero, so that an increase can be told."""
        self.events = Counter(dict.fromkeys(sorted(wanted), 0))
        """Events that were read, by name."""
        self.attempts = {"session": 0, "refused": 0, "unreachable": 0}
        """Attempts to get a session, by what came of them."""
        self.ends = {"lost": 0, "silent": 0, "asterisk_stopped": 0}
        """Sessions that ended, by why."""
        self.resyncs = 0
        """How often all channels were asked for anew because events were lost."""
        self.stops = False
        """Asterisk has said that it stops."""

    def began(self) -> None:
        """There is a session."""
        self.attempts["session"] += 1
        self.stops = False

    def ended(self, *, silent: bool) -> None:
        """It has ended; `silent`: we gave it up because nothing came any more."""
        self.ends["asterisk_stopped" if self.stops else "silent" if silent else "lost"] += 1
