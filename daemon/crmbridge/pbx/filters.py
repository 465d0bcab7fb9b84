"""What of Asterisk's events is asked for at all: the classes at the login, and a filter by name. Pure.

The classes cost no right and are always named. The filter is one regular expression over an event as it is sent; it
stands in the files of `asterisk-conf/`, and where the user may use the action Filter (it needs `write = system`, which
ours has not) it is set after the login, too. Anchored at both ends of the name: the rest of an event may hold what a
caller sent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from crmbridge.pbx.listing import OF_LISTS

CLASSES = "call,cdr,system,user"
"""Of all that is handled: `call` has channels, dials and bridges, `cdr` call records, `system` boot, reload and
shutdown, `user` what FreePBX's dialplan says of phones (the privilege of each event, main/manager.c)."""

OF_SESSION = frozenset({"FullyBooted", "Reload", "Shutdown", "UserEvent"})
"""Events that the session itself is concerned with."""


def pattern(wanted: Collection[str]) -> str:
    """The filter that lets these events through. Answers to actions, lists among them, pass without.

    Extended POSIX, as Asterisk compiles it: `^` is the beginning of the event, and a class of characters stands for
    the end of the line, which the configuration's parser would not let us write.
    """
    names = sorted((frozenset(wanted) | OF_SESSION) - OF_LISTS)
    return f"^Event: ({'|'.join(names)})[[:cntrl:]]"


def hidden(user_filters: Iterable[str], wanted: Collection[str]) -> list[str]:
    """Of the wanted events, those that a user's `eventfilter` lines keep from it. Raises ValueError for one that is no
    regular expression, or none that Python reads as Asterisk does.

    A line that begins with `!` hides what it matches; the others let through what one of them matches, and where there
    is none of them all else comes (main/manager.c, match_filter). What is matched is the event as it is sent.
    """
    shown: list[re.Pattern[str]] = []
    hiding: list[re.Pattern[str]] = []
    for line in user_filters:
        try:
            (hiding if line.startswith("!") else shown).append(re.compile(_posix(line.removeprefix("!"))))
        except re.error as error:
            raise ValueError(f"{line} can't be read ({error})") from None
    return sorted(
        name
        for name in (frozenset(wanted) | OF_SESSION) - OF_LISTS
        if (shown and not any(one.search(_event(name)) for one in shown))
        or any(one.search(_event(name)) for one in hiding)
    )


_CLASSES_OF_CHARACTERS = {
    "cntrl": r"\x00-\x1f\x7f",
    "space": r"\s",
    "blank": r" \t",
    "digit": "0-9",
    "alpha": "A-Za-z",
    "alnum": "A-Za-z0-9",
    "upper": "A-Z",
    "lower": "a-z",
}


def _posix(pattern: str) -> str:
    return re.sub(r"\[:([a-z]+):\]", lambda found: _CLASSES_OF_CHARACTERS.get(found[1], found[0]), pattern)


def _event(name: str) -> str:
    """The beginning of an event; what follows differs from one to the next."""
    return f"Event: {name}\r\nPrivilege: {_CLASS.get(name, 'call')},all\r\n"


_CLASS = {"Cdr": "cdr", "FullyBooted": "system", "Reload": "system", "Shutdown": "system", "UserEvent": "user"}
