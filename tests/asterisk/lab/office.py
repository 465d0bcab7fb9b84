"""Whose phones stand where: the offices that the lab's one PBX serves, each with a dialplan and a trunk of its own.

An office is also how an administrator would describe it to the bridge; that goes into its traces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.asterisk.lab import pbx


@dataclass(frozen=True)
class Desk:
    """A phone, and whose it is."""

    extension: str
    address: str


@dataclass(frozen=True)
class Office:
    """Phones and the far end of a trunk."""

    desks: Mapping[str, Desk]
    """By what scenarios call a phone; it is also the user part of its contact."""
    trunk: str
    """Address of the trunk's far end."""
    extensions_regex: str
    inbound_contexts: tuple[str, ...] = ()
    """None named: the bridge's own default has to do."""
    trunks: tuple[str, ...] = ()
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """Endpoint to extension, where the bridge can't tell by its name."""
    sip: tuple[str, int] = pbx.SIP
    """Where its phones find the PBX."""
    dialplan: str = ""
    """Whose way of writing a dialplan, where it isn't the lab's own."""


VANILLA = Office(
    desks={
        **{number: Desk(number, f"127.0.0.{number[1:]}") for number in ("777", "778", "779", "780", "781")},
        # Another device of 777, an endpoint of its own
        "777-soft": Desk("777", "127.0.1.77"),
        # The two contacts of one endpoint
        "782": Desk("782", "127.0.0.82"),
        "782-cell": Desk("782", "127.0.1.82"),
    },
    trunk="127.0.0.2",
    extensions_regex=r"^7\d\d$",
    inbound_contexts=("from-trunk",),
    trunks=("PJSIP/trunk-bezeq",),
    endpoints={"PJSIP/soft-777": "777"},
)
FREEPBX = Office(
    desks={
        **{number: Desk(number, f"127.0.2.{number}") for number in ("101", "102", "103", "106")},
        # The browser's phone of 106: only the PBX's hint says whose it is
        "99106": Desk("106", "127.0.2.116"),
        # The device that 105 logs on to
        "9105": Desk("105", "127.0.2.115"),
    },
    trunk="127.0.2.2",
    extensions_regex=r"^1\d\d$",
    dialplan="in the shape of what FreePBX generates",
)
CHAN_SIP = Office(
    desks={number: Desk(number, f"127.0.3.{number[1:]}") for number in ("771", "772", "773")},
    trunk="127.0.3.2",
    extensions_regex=r"^7\d\d$",
    inbound_contexts=("from-trunk",),
    trunks=("SIP/trunk-old",),
    sip=("127.0.0.1", 5070),
)
