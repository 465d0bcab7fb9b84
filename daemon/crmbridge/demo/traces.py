"""Recorded calls: raw AMI bytes of real Asterisks, with what the CRM must be told about each.

The files are those of tests/traces in the repository, shipped as package data; its README describes the format.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from importlib.resources import files
from operator import itemgetter
from pathlib import Path
from typing import Any

_END = b"\r\n\r\n"
_GAP_S = 0.01
"""Between frames of a recording that has no timing."""

Told = tuple[str, str, str]
"""Operation, extension and number of one callback."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One recorded call."""

    name: str
    scenario: str
    asterisk: str
    raw: bytes
    timing: tuple[tuple[int, float], ...]
    """(offset in bytes, seconds since the start): when the bytes from this offset on came."""
    expected: tuple[Told, ...]
    optional: tuple[Told, ...]
    """What the CRM may be told besides without anyone being hurt."""
    inbound_contexts: tuple[str, ...]
    trunks: tuple[str, ...]
    extensions: str
    endpoints: dict[str, str]

    def right(self, told: list[Told]) -> bool:
        """Whether the CRM was told what it must be.

        All that is expected, once; nothing else but what is optional; for each extension in the expected order.
        Which of several phones that ring together is told first is the PBX's business.
        """
        rest = list(told)
        for wanted in self.expected:
            if wanted not in rest:
                return False
            rest.remove(wanted)
        optional = list(self.optional)
        for extra in rest:
            if extra not in optional:
                return False
            optional.remove(extra)
        extensions = {extension for _, extension, _ in self.expected}
        return all(_is_subsequence(_of(self.expected, e), _of(told, e)) for e in extensions)

    def frames(self) -> list[tuple[float, bytes]]:
        """The frames with the seconds to wait before each; banner, login and FullyBooted are left out."""
        result: list[tuple[float, bytes]] = []
        offset = 0
        last = None
        for number, frame in enumerate(self.raw.split(_END)[:-1]):
            offset += len(frame) + len(_END)
            if offset <= self._first_event() or not frame.strip():
                continue
            at = self._came_at(offset - 1) if self.timing else number * _GAP_S
            result.append((0.0 if last is None else at - last, frame + _END))
            last = at
        return result

    def _came_at(self, offset: int) -> float:
        """When this byte came, in seconds since the start."""
        return self.timing[max(0, bisect_right(self.timing, offset, key=itemgetter(0)) - 1)][1]

    def _first_event(self) -> int:
        """Where the events begin: after banner, login and FullyBooted."""
        booted = self.raw.find(b"Event: FullyBooted")
        return self.raw.find(_END, booted) + len(_END) if booted >= 0 else 0


def _of(told: tuple[Told, ...] | list[Told], extension: str) -> list[Told]:
    return [one for one in told if one[1] == extension]


def _is_subsequence(wanted: list[Told], told: list[Told]) -> bool:
    rest = iter(told)
    return all(one in rest for one in wanted)


def shipped() -> list[Trace]:
    """All recorded calls that come with the package, by name."""
    return read(Path(str(files("crmbridge") / "traces")))


def read(folder: Path) -> list[Trace]:
    """All recorded calls below a folder, by name."""
    return [_read_one(file, folder) for file in sorted(folder.rglob("*.ami"))]


def _read_one(file: Path, folder: Path) -> Trace:
    about: dict[str, Any] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    return Trace(
        name=str(file.relative_to(folder).with_suffix("")),
        scenario=about["scenario"],
        asterisk=about["asterisk"],
        raw=file.read_bytes(),
        timing=tuple((int(offset), float(at)) for offset, at in about.get("timing", [])),
        expected=_told(about["expected"]),
        optional=_told(about.get("optional", [])),
        inbound_contexts=tuple(about["inbound_contexts"]),
        trunks=tuple(about.get("trunks", [])),
        extensions=about["extensions_regex"].removeprefix("^").removesuffix("$"),
        endpoints=about.get("endpoints", {}),
    )


def _told(callbacks: list[dict[str, str]]) -> tuple[Told, ...]:
    return tuple((one["operation"], one["ext"], one["number"]) for one in callbacks)
