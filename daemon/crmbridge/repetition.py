"""Which log lines are written, and which are held back and counted because they say the same again and again.

Pure: the clock is handed in. A disk must not fill because somebody scans us or a database is away, and whoever reads
must see what goes on. So of one kind of line the first twenty are written as they come, then one a minute; each says
how many like it were held back before it (`repeated`), and when it is over, so does one more. Lines and what they
count as repeated are together all there were.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

AT_ONCE = 20
"""Lines of one kind that are written as they come: more than fail2ban wants to see before it bans (our jail: ten)."""
EVERY_S = 60.0
"""After these, one is written so often; quiet gives back one of the first at the same pace."""
MOST_ABOUT = 100
"""Kinds of one event (by address, by endpoint) that are told apart: a scan from the whole world is one thing."""
MOST = 4096
"""Kinds that are remembered, of some 400 bytes each, and a line each of those that are held back."""

Line = TypeVar("Line")


class Kind(NamedTuple):
    """What makes lines the same."""

    what: Hashable
    """What they say."""
    about: Hashable = ""
    """Whom or what they say it of."""
    floods: bool = True
    """Whether those of too many are one kind."""


_OTHERS = "others"

_LOUD = frozenset({"warning", "error", "critical"})
_EACH = frozenset({"crm.refused", "crm.expired", "ami.connected", "ami.lost"})
"""Warnings that are the one line on what became of a callback, which whoever looks for a call must find; and when there
was a session with the PBX, which is seldom: pauses between attempts see to that."""
_OF_ANYBODY = frozenset({"http.link_missing", "http.login_missing", "http.tls_failed"})
"""Lines without a warning's weight that whoever reaches the port can have written."""
_ABOUT = ("address", "action", "code", "database", "endpoint", "file", "operation", "pbx", "server", "status", "what")
"""Fields by which lines that may come in floods are told apart; numbers, ids and reasons are not among them."""
_MEASURED = frozenset({"attempts", "frames", "ms", "new", "records", "talk_s", "waiting", "timestamp"})
"""Fields that are not what a line is about. Nor are fractions, which are times."""
_FIRST_ERROR = 400


def kind_of(level: str, line: Mapping[str, object]) -> Kind | None:
    """What kind of line this is; None for one that is never held back.

    That is what happens to a call or a click: there are no more of these lines than calls. Of complaints, and of what
    anybody may have written, event and a few fields are the kind; of all others, all that they say.
    """
    event, status = line.get("event"), line.get("status")
    if event in _EACH:
        return None
    if level in _LOUD or event in _OF_ANYBODY or (isinstance(status, int) and status >= _FIRST_ERROR):
        return Kind((event, level), hash(tuple(str(line.get(name, "")) for name in _ABOUT)))
    if level == "info" and ("linkedid" in line or "click" in line):
        return None
    about = ((name, str(one)) for name, one in line.items() if name not in _MEASURED and not isinstance(one, float))
    return Kind((event, level), hash(tuple(about)), floods=False)


@dataclass(slots=True)
class _Kept(Generic[Line]):
    free_at: float = 0.0
    """When all of AT_ONCE may be written again."""
    held: int = 0
    line: Line | None = None
    """The last that was held back."""

    def may_write(self, now: float) -> bool:
        return now >= self.free_at - (AT_ONCE - 1) * EVERY_S

    def written(self, now: float) -> int:
        self.free_at = max(self.free_at, now) + EVERY_S
        held, self.held, self.line = self.held, 0, None
        return held


class Repetition(Generic[Line]):
    """Remembers which kinds of lines there were."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Kind, _Kept[Line]] = OrderedDict()
        """That which was longest without a line comes first."""
        self._holding: set[Kind] = set()
        self._told_apart = Counter[Hashable]()
        self._forced_out: list[tuple[Line, int]] = []
        self.held_back = 0
        """Lines held back since the start."""

    def __len__(self) -> int:
        """How many kinds are remembered."""
        return len(self._kinds)

    def admit(self, kind: Kind, now: float, line: Callable[[], Line]) -> int | None:
        """How many like it were held back before a line that is to be written now; None where it is held back, too.

        `now`: seconds of a monotonic clock. `line`: called for one that is held back, which is kept.
        """
        self._forget(now)
        kind = self._told_as(kind)
        kept = self._kinds[kind]
        if kept.may_write(now):
            self._holding.discard(kind)
            return kept.written(now)
        kept.held += 1
        kept.line = line()
        self._holding.add(kind)
        self.held_back += 1
        return None

    def due(self, now: float) -> list[tuple[Line, int]]:
        """Lines that were held back and of which one may be written now, each with how many more it stands for."""
        return self._taken([kind for kind in self._holding if self._kinds[kind].may_write(now)], now)

    def rest(self, now: float) -> list[tuple[Line, int]]:
        """The same for all that is held back: this is the end."""
        return self._taken(list(self._holding), now)

    def _taken(self, kinds: list[Kind], now: float) -> list[tuple[Line, int]]:
        taken, self._forced_out = self._forced_out, []
        for kind in kinds:
            self._holding.discard(kind)
            kept = self._kinds[kind]
            line, held = kept.line, kept.written(now)
            if line is not None:
                taken.append((line, held - 1))
        return taken

    def _told_as(self, kind: Kind) -> Kind:
        """The kind, remembered, by which this line is counted."""
        if kind not in self._kinds and kind.floods and self._told_apart[kind.what] >= MOST_ABOUT:
            kind = Kind(kind.what, _OTHERS)
        if kind not in self._kinds:
            self._kinds[kind] = _Kept()
            self._told_apart[kind.what] += 1
        self._kinds.move_to_end(kind)
        return kind

    def _forget(self, now: float) -> None:
        while self._kinds:
            kind, kept = next(iter(self._kinds.items()))
            if len(self._kinds) < MOST and (kept.held or now < kept.free_at):
                return
            if kept.line is not None:
                self._forced_out.append((kept.line, kept.held - 1))
            self._holding.discard(kind)
            del self._kinds[kind]
            self._told_apart[kind.what] -= 1
            if not self._told_apart[kind.what]:
                del self._told_apart[kind.what]
