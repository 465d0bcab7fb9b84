"""Cases in which reasonable people want different things told, as settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Debatable:
    """What is told besides what must be. The defaults show as few popups as can be."""

    ring_again: bool = False
    """A phone that a queue rings again for the same caller. Off: whoever let it ring has seen the popup already."""
    consult_ring: bool = False
    """A phone that a colleague rings to consult while the caller is on hold. Off: nobody knows yet whether the caller
    will be handed over, and when that happens it is told as an answer."""
    handed_over: bool = False
    """An outgoing call that is handed over to a colleague. Off: no caller came in, and whoever dialed knows the
    customer's card."""
    conference: bool = True
    """Phones that share a conference room with the caller. On: they do talk with them."""
    mobiles: Mapping[str, str] = field(default_factory=dict)
    """Number of an agent's mobile (in the form that the CRM gets) to its extension: where follow-me rings or reaches
    it, that is told for the extension. Empty: a mobile is nobody's screen."""
