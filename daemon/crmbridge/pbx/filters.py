"""What of Asterisk's events is asked for at all: the classes at the login, and a filter by name. Pure.

The classes cost no right and are always named. The filter is one regular expression over an event as it is sent; it
stands in the files of `asterisk-conf/`, and where the user may use the action Filter (it needs `write = system`, which
ours has not) it is set after the login, too. Anchored at both ends of the name: the rest of an event may hold what a
caller sent.
"""

from __future__ import annotations

from collections.abc import Collection

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
