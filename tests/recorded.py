"""Call records as real Asterisks left them in FreePBX's table (tests/records), and what must come out of each call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tests.asterisk.lab.listed import Listed

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.history import CallRow, History, is_extension, parties
from crmbridge.calls.numbers import Numbers

RECORDS = Path(__file__).parent / "records"
NUMBERS = Numbers(region="IL", form="national", anonymous="anonymous")


@dataclass(frozen=True)
class Recorded:
    """A scenario's records."""

    name: str
    """`22/did_answered`."""
    lines: tuple[Listed, ...]
    """What the call list must show."""
    read_as: tuple[Listed, ...]
    """The same, but for what records can't tell."""
    because: str
    recordings: frozenset[str]
    """Files that Asterisk left, with audio in them."""
    rows: tuple[Mapping[str, str], ...]
    extensions: str
    trunks: tuple[str, ...]
    endpoints: Mapping[str, str]

    def shown(self, rows: Iterable[Mapping[str, str]], clients: Clients | None = None) -> list[CallRow]:
        """The lines of all calls in these rows."""
        known = Endpoints(extensions=self.extensions, trunks=self.trunks, endpoints=self.endpoints)
        return shown(history_of(known, clients), map(as_cdr, rows))


@cache
def recorded_calls() -> dict[str, Recorded]:
    """All of them, by name."""
    found = [_read(file) for file in sorted(RECORDS.glob("*/*.json"))]
    return {one.name: one for one in found}


def as_cdr(row: Mapping[str, str]) -> Cdr:
    """A row of the table (or what is left of its columns) as a record."""
    began = datetime.fromisoformat(row["calldate"]).replace(tzinfo=UTC)
    return Cdr(
        pbx="pbx",
        linkedid=row.get("linkedid") or row["uniqueid"],
        uniqueid=row["uniqueid"],
        sequence=int(row.get("sequence", -int(began.timestamp()))),
        channel=row.get("channel", ""),
        dstchannel=row.get("dstchannel", ""),
        src=row.get("src", ""),
        dst=row.get("dst", ""),
        did=row.get("did", ""),
        start_at=began,
        duration_s=int(row.get("duration", 0)),
        billsec_s=int(row.get("billsec", 0)),
        disposition=row.get("disposition", ""),
        recordingfile=row.get("recordingfile", ""),
    )


def shown(history: History, records: Iterable[Cdr]) -> list[CallRow]:
    """The lines of all calls in these records."""
    calls: dict[str, list[Cdr]] = {}
    for one in records:
        calls.setdefault(one.linkedid, []).append(one)
    return [line for call in calls.values() for line in history.rows(call)]


def history(extensions: str, trunks: Iterable[str], endpoints: Mapping[str, str] | None = None) -> History:
    return history_of(Endpoints(extensions=extensions, trunks=trunks, endpoints=endpoints))


def history_of(known: Endpoints, clients: Clients | None = None, *, kind: type[History] = History) -> History:
    """Reads calls of a PBX with these phones and trunks."""
    return kind(
        party=parties(known),
        is_extension=is_extension(known),
        number=NUMBERS.caller,
        key=NUMBERS.same,
        client=(clients or Clients("10")).of_call,
    )


def differing(lines: Iterable[CallRow], wanted: Iterable[Listed]) -> str:
    """How lines of the call list differ from what must come out; empty where they don't. Seconds may be two off."""
    rest, absent = list(lines), []
    for want in wanted:
        same = next((line for line in rest if _is(line, want)), None)
        if same is None:
            absent.append(want)
        else:
            rest.remove(same)
    listed = [(line.extension, line.number, line.incoming, line.talk_s) for line in rest]
    return f"not listed: {absent}, but: {listed}" if rest or absent else ""


def differing_in_short(lines: Iterable[CallRow], wanted: Sequence[Listed]) -> str:
    """The same of calls so short that Asterisk may count no second: such a one is listed as one that nobody had.

    Where the call has another line, it isn't listed at all.
    """
    rest, absent = list(lines), []
    for want in sorted(wanted, key=lambda want: want.talked and want.talk_s < SHORT_S):
        brief = want.talked and want.talk_s < SHORT_S
        same = [line for line in rest if _is(line, want) or (brief and _is(line, replace(want, talked=False)))]
        if same:
            rest.remove(same[0])
        elif not brief or not any(_of_one_number(want, other) for other in wanted if other is not want):
            absent.append(want)
    listed = [(line.extension, line.number, line.incoming, line.talk_s) for line in rest]
    return f"not listed: {absent}, but: {listed}" if rest or absent else ""


def _of_one_number(one: Listed, other: Listed) -> bool:
    return (one.number, one.incoming) == (other.number, other.incoming)


SHORT_S = 1.3
"""From the first that is heard on. Less may be no second, by Asterisk's count."""
SECONDS_OFF = 2.0
"""Whole seconds, and what passes between a phone's answer and the first that its owner hears."""


def _is(line: CallRow, want: Listed) -> bool:
    return (
        (line.extension == want.ext or line.extension in want.others)
        and (line.number, line.incoming) == (want.number, want.incoming)
        and (line.talk_s > 0) == want.talked
        and abs(line.talk_s - want.talk_s) <= SECONDS_OFF
    )


def _read(file: Path) -> Recorded:
    about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    lines = _lines(about["lines"])
    return Recorded(
        name=f"{file.parent.name}/{file.stem}",
        lines=lines,
        read_as=_lines(about["read_as"]) if "read_as" in about else lines,
        because=about.get("because", ""),
        recordings=frozenset(about["recordings"]),
        rows=tuple(about["rows"]),
        extensions=about["extensions_regex"],
        trunks=tuple(about["trunks"]) or ("PJSIP/primario",),  # FreePBX's is learned
        endpoints=about["endpoints"],
    )


def _lines(told: list[dict[str, Any]]) -> tuple[Listed, ...]:
    return tuple(Listed(**{**one, "others": tuple(one["others"])}) for one in told)
