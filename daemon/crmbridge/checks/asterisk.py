"""Asterisk itself: its version, whether it writes call records, its time zone."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta, tzinfo

from crmbridge.checks.link import Link, broken, good, judged, some, weak
from crmbridge.config import CdrSettings
from crmbridge.pbx.connection import Answer
from crmbridge.pbx.visit import Visit

VERSION, CDR, ZONE = "Asterisk", "CDR", "time zone"

OLDEST, NEWEST = 16, 22
"""Versions that tests/asterisk has live."""
_MAPPED = ("linkedid", "sequence", "recordingfile", "did")
"""What our cdr_manager.conf adds to Asterisk's own; without linkedid a call falls apart (calls.cdr.from_event)."""
_NO_RIGHT = "not found out: this user may not ask for CoreSettings (write = reporting in manager.conf)"


def version(core: Answer, commands: Collection[str]) -> Link:
    """Whether it is one that the bridge is tested with, and what an older one can't do.

    `core`: the answer to CoreSettings; `commands`: the actions that there are for us.
    """
    told = core.headers.get("AsteriskVersion", "")
    if not core.success or not told:
        return weak(VERSION, _NO_RIGHT)
    found = re.search(r"(\d+)(?:\.\d+)?", told)
    if found is None:
        return weak(VERSION, f"version {told}: not found out whether it is one of {OLDEST} to {NEWEST}")
    major, remarks = int(found[1]), []
    if major < OLDEST:
        remarks.append(f"version {told} is older than {OLDEST}, the oldest that is tested: upgrade it")
    elif major > NEWEST:
        remarks.append(f"version {told} is newer than {NEWEST}, the newest that is tested: look for a newer crmbridge")
    if "DBGetTree" not in commands:
        remarks.append(
            f"version {told} has no DBGetTree (it came with 16.28 and 18.14): who is logged on to a FreePBX device is"
            " seen by hints only; upgrade it if people log on to phones"
        )
    return judged(VERSION, f"version {told}", faults=[], remarks=remarks)


async def call_records(visit: Visit, core: Answer, cdr: CdrSettings) -> Link:
    """Whether Asterisk makes call records at all, and sends them where they come by AMI. `core`: as for `version`."""
    if not core.success:
        return weak(CDR, _NO_RIGHT)
    if core.headers.get("CoreCDRenabled") == "No":
        return broken(CDR, "Asterisk makes no call records: enable = yes in cdr.conf, then `module reload cdr`")
    if cdr.source.get_secret_value() != "ami":
        return good(CDR, "Asterisk makes call records")
    return await _by_ami(visit)


async def _by_ami(visit: Visit) -> Link:
    if not await visit.value("AST_CONFIG(manager.conf,general,enabled)"):
        return weak(CDR, "not found out whether cdr_manager sends them: Asterisk does not show us cdr_manager.conf")
    if not await _sends(visit):
        mend = "take it over from asterisk-conf/, then `module reload cdr_manager.so`; or set cdr.source to the table"
        return broken(CDR, f"cdr_manager.conf lacks enabled = yes, and cdr.source is ami: {mend}")
    lacking = [one for one in _MAPPED if not await visit.value(f"AST_CONFIG(cdr_manager.conf,mappings,{one})")]
    if lacking:
        mend = "take them over from asterisk-conf/, then `module reload cdr_manager.so`"
        return weak(CDR, f"[mappings] in cdr_manager.conf lacks {some(lacking)}, calls may fall apart: {mend}")
    return good(CDR, "Asterisk makes call records, and cdr_manager sends them")


async def _sends(visit: Visit) -> bool:
    value = await visit.value("AST_CONFIG(cdr_manager.conf,general,enabled)")
    return value.lower() in {"yes", "true", "y", "t", "1", "on"}  # main/utils.c, ast_true


async def clock_s(visit: Visit) -> float | None:
    """How many seconds its clock is ahead of ours, to some milliseconds; None where it does not say."""
    asked_at = datetime.now(UTC).timestamp()
    told = (await visit.ask("Ping")).headers.get("Timestamp", "")
    between = (asked_at + datetime.now(UTC).timestamp()) / 2
    try:
        return float(told) - between
    except ValueError:
        return None


async def zone(visit: Visit, cdr: CdrSettings, timezone: tzinfo) -> Link:
    """Whether Asterisk's clock shows what cdr.timezone says; records hold what it shows."""
    told = await visit.value("STRFTIME(,,%z)")
    if not re.fullmatch(r"[+-]\d{4}", told):
        return weak(ZONE, "not found out: Asterisk does not say which it is in (it needs write = reporting)")
    theirs = timedelta(hours=int(told[:3]), minutes=int(told[0] + told[3:]))
    ours = datetime.now(UTC).astimezone(timezone).utcoffset() or timedelta()
    named = f"cdr.timezone ({cdr.timezone})" if cdr.timezone else "this machine's own zone (there is no cdr.timezone)"
    if theirs != ours:
        hours = (ours - theirs).total_seconds() / 3600
        mend = f"set cdr.timezone to the PBX's zone, or all calls are listed {abs(hours):g} h off"
        return broken(ZONE, f"Asterisk's clock is at UTC{told}, but {named} at {_written(ours)}: {mend}")
    return good(ZONE, f"Asterisk's clock is at UTC{told}, and so is {named}")


def _written(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
