"""To which of several PBXes a click goes: to the one that has the extension of that client. Pure.

Two PBXes may have an extension of the same name, and a click must not ring a stranger. So it goes where an entry of the
client names the extension, else to a PBX of the client's where there may be such an extension; among several of these
to the one on which the phone is known. Where that still leaves several, nobody is rung.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crmbridge.calls.phone_states import PhoneState


@dataclass(frozen=True, slots=True)
class Phones:
    """The phones of one PBX, as clicks see them. What is asked of them may change from one click to the next."""

    pbx: str
    serves: Callable[[str], bool]
    """Whether there is something of this ClientId there."""
    owns: Callable[[str, str], bool]
    """Whether a click by this client may ring this extension."""
    lists: Callable[[str, str], bool]
    """Whether an entry of this client names the extension."""
    knows: Callable[[str], bool]
    """Whether the PBX or the settings say that there is a phone of this extension."""
    state: Callable[[str], PhoneState]
    """How the extension's phone stands."""


def nearest(phones: Sequence[Phones], client_id: str, extension: str) -> Sequence[Phones]:
    """Of those where a click may ring the extension, the one where it is to ring; several where that can't be told."""
    named = [one for one in phones if one.lists(client_id, extension)] or phones
    return named if len(named) == 1 else [one for one in named if one.knows(extension)] or named
