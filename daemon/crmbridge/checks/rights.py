"""What our user of Asterisk's manager may do and hear: whether it is enough, and whether it is too much.

What it may do is asked live: `ListCommands` lists the actions that one may use, each with the classes that allow it.
What it hears no action tells, but the dialplan function AST_CONFIG does, which reads Asterisk's files as they are now
(a change that was not loaded yet is in them, too). Where that can't be had it is said that it was not found out.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping

from crmbridge.calls.click_calls import ClickCalls
from crmbridge.calls.phone_states import PhoneStates
from crmbridge.calls.tracker import Tracker
from crmbridge.checks.link import Link, broken, good, judged, some, weak
from crmbridge.config import Settings
from crmbridge.pbx import filters
from crmbridge.pbx.visit import Visit

RIGHTS, EVENTS = "AMI rights", "AMI events"

NEEDED_ACTIONS = {
    "Originate": "originate",
    "CoreShowChannels": "reporting",
    "ExtensionStateList": "reporting",
}
"""AMI actions that the bridge uses, and the write class that allows each (main/manager.c)."""
NEEDED_CLASSES = frozenset(NEEDED_ACTIONS.values())
MANY_FILTERS = 200
_LONGEST_VALUE = 1022
"""What Getvar gives of a longer one is its beginning (main/manager.c, action_getvar)."""

COSTS = {
    "system": "stops Asterisk, loads modules, and with Originate runs any program",
    "command": "runs any command of Asterisk's console",
    "config": "rewrites Asterisk's configuration",
    "call": "hangs up, transfers and taps any call",
    "agent": "takes members out of queues",
    "user": "makes events up",
    "message": "sends text messages",
    "dialplan": "alters the dialplan",
    "agi": "runs AGI commands",
    "aoc": "sends charges",
}
"""What a write class that we don't need lets somebody do who has our secret."""

HEARD = {
    "call": "calls, without which nothing is seen at all",
    "system": "that Asterisk has started or was reloaded",
    "cdr": "call records, which cdr.source = ami needs",
}
"""Read classes that the bridge can't do without, and what they carry."""


async def rights(
    visit: Visit, commands: Mapping[str, frozenset[str]], username: str, records_come_by_ami: bool
) -> Link:
    """What this user may do (`commands`, by what is allowed), and which classes of events it hears."""
    faults, remarks = [], []
    if missing := sorted({write for action, write in NEEDED_ACTIONS.items() if action not in commands}):
        faults.append(f"add to this user's write = in manager.conf: {', '.join(missing)}")
    if needless := _needless(commands):
        remarks.append(
            "more than is needed, take it out of this user's write = in manager.conf: "
            + "; ".join(f"{one} ({COSTS.get(one, 'which the bridge never uses')})" for one in needless)
        )
    needed = [one for one in HEARD if one != "cdr" or records_come_by_ami]
    read = await _read_classes(visit, username)
    if not await visit.booted() and (read is None or "system" in read):
        faults.append("no FullyBooted event: Asterisk still starts, or this user's read = in manager.conf lacks system")
    if read is not None:
        faults += [
            f"add {one} to this user's read = in manager.conf: {HEARD[one]}" for one in needed if one not in read
        ]
        remarks += _wide(read)
    heard = "which events it hears was not found out" if read is None else f"hears {', '.join(sorted(read))}"
    if faults or remarks:
        (remarks or faults).append(
            "then `manager reload`, and restart crmbridge, whose session keeps the rights it had"
        )
    found = f"may use {', '.join(NEEDED_ACTIONS)}; {heard}"
    return judged(RIGHTS, found, faults=faults, remarks=remarks)


def _needless(commands: Mapping[str, frozenset[str]]) -> list[str]:
    """The classes that this user has besides those that we need, the dangerous ones first.

    An action of one class shows that class; one of several, of which we have none for sure, shows them all.
    """
    others = [classes for classes in commands.values() if classes and not classes & NEEDED_CLASSES]
    sure = {one for classes in others if len(classes) == 1 for one in classes}
    found = sure | {one for classes in others if not classes & sure for one in classes}
    return [*(one for one in COSTS if one in found), *sorted(found - COSTS.keys())]


def _wide(read: Collection[str]) -> Iterator[str]:
    if needless := sorted(set(read) - set(filters.CLASSES.split(","))):
        yield (
            f"hears more than is needed, take it out of this user's read = in manager.conf: {', '.join(needless)}"
            " (the bridge asks for none of it, whoever has its secret may)"
        )


async def _read_classes(visit: Visit, username: str) -> set[str] | None:
    if (value := await _of_user(visit, username, "read")) in (None, ""):
        return None
    classes = {one.strip() for one in (value or "").lower().split(",")}
    # `all` stays in it: it is more than is needed.
    return classes | set(filters.CLASSES.split(",")) if "all" in classes else classes


async def events(visit: Visit, settings: Settings) -> Link:
    """Whether this user's event filter hides what the bridge needs."""
    username = settings.ami.username
    if not await _of_user(visit, username, "read"):
        hint = f"look at eventfilter under [{username}] there"
        return weak(EVENTS, f"not found out: Asterisk does not show us this user in manager.conf; {hint}")
    lines = [line async for line in _filters(visit, username)]
    if not lines:
        return good(EVENTS, "no filter by regular expression: all events of the user's classes come, if none by name")
    if any(len(line) >= _LONGEST_VALUE for line in lines):
        return weak(EVENTS, "not found out: a line of eventfilter is longer than Asterisk shows")
    wanted = Tracker.EVENTS | ClickCalls.EVENTS | PhoneStates.EVENTS
    if settings.cdr.source.get_secret_value() == "ami":
        wanted |= {"Cdr"}
    try:
        hidden = filters.hidden(lines, wanted)
    except ValueError as error:
        return weak(EVENTS, f"not found out: eventfilter = {error}")
    if hidden:
        mend = "take eventfilter over from asterisk-conf/, then `manager reload`"
        return broken(EVENTS, f"eventfilter in manager.conf hides {some(hidden, 8)}, which the bridge needs: {mend}")
    return good(EVENTS, f"eventfilter lets through all {len(wanted)} kinds that the bridge needs")


async def _filters(visit: Visit, username: str) -> AsyncIterator[str]:
    for number in range(MANY_FILTERS):
        line = await _of_user(visit, username, f"eventfilter,{number}")
        if not line:
            return
        yield line


async def _of_user(visit: Visit, username: str, key: str) -> str | None:
    """What manager.conf says of the user; None where its name is none that can be asked about."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", username, re.ASCII):
        return None
    return await visit.value(f"AST_CONFIG(manager.conf,{username},{key})")
