"""What a channel is, from its name: which technology, whose endpoint, an extension's phone or a trunk.

Pure; knows nothing of calls in progress. Peer names are compared whole and never by prefix: `megafon` and `megafon2`
are two trunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

LOCAL = "Local"
_ZOMBIE = "<ZOMBIE>"
# Channels that Asterisk makes for a moment to carry another one through a masquerade (main/channel.c,
# main/bridge.c); what follows the prefix is the name of the channel they stand in for.
_CARRIERS = ("AsyncGoto/", "Surrogate/")

PHONE = re.compile(r"(?!Local/)[A-Za-z0-9]+/[^/&,@]+")
"""A device in a hint that is a channel's endpoint; `Custom:…`, `park:…`, `Queue:…` have no slash there."""
_MOST_TRUNKS = 10_000
"""Where chan_sip lets guests in, each address is an endpoint of its own: no memory without end for scanners."""


@dataclass(frozen=True, slots=True)
class ChannelName:
    """A channel's name, taken apart."""

    technology: str
    """`PJSIP`, `SIP`, `IAX2`, `DAHDI`, `Local`, …"""
    peer: str
    """The endpoint (`777`, `trunk-bezeq`), DAHDI channel or span (`1`, `i1`), or `exten@context` of a Local."""
    half: str = ""
    """`1` or `2` for the halves of a Local channel, else empty."""
    carrier: bool = False
    """It is a zombie, or stands in for another channel during a masquerade: nobody's phone."""

    @property
    def endpoint(self) -> str:
        """`PJSIP/trunk-bezeq`: how the settings name it."""
        return f"{self.technology}/{self.peer}"


@lru_cache(maxsize=1024)
def parse_name(name: str) -> ChannelName:
    """Take a channel's name apart. Never raises: a name of no known form is its own peer.

    `PJSIP/trunk-bezeq-000000ea` has peer `trunk-bezeq`: endpoint names may hold `-`, the last one is Asterisk's.
    """
    carrier = name.endswith(_ZOMBIE)
    name = name.removesuffix(_ZOMBIE)
    for prefix in _CARRIERS:
        if name.startswith(prefix):
            name, carrier = name.removeprefix(prefix), True
    technology, _, rest = name.partition("/")
    half = ""
    if technology == LOCAL and rest[-2:] in (";1", ";2"):
        rest, half = rest[:-2], rest[-1]
    peer = rest.rpartition("-")[0] or rest
    if technology == "DAHDI":
        peer = peer.partition("/")[0]  # DAHDI/i1/033004799-3: a span, then what was dialed
    return ChannelName(technology, peer, half, carrier)


class Endpoints:
    """Which endpoint is an extension's phone, which a trunk: as configured, and as learned from calls.

    An endpoint that is neither is left alone: it is better to miss a call from an unknown line, and to say so once,
    than to pop up for a door phone.
    """

    def __init__(
        self,
        *,
        extensions: str,
        trunks: Iterable[str] = (),
        endpoints: Mapping[str, str] | None = None,
        inbound_contexts: Iterable[str] = (),
    ) -> None:
        """`extensions`: a regular expression on the endpoint's whole name; `inbound_contexts`: shell patterns."""
        self._extension = re.compile(extensions)
        self._trunks = set(trunks)
        self._named = dict(endpoints or {})
        self._hinted: dict[str, str] = {}
        self._devices: dict[str, str] = {}
        self.changes = 0
        """How often any of this has changed, for who remembers what it said."""
        self._inbound = re.compile("|".join(translate(pattern) for pattern in inbound_contexts) or "(?!)")

    def extension(self, name: ChannelName, *, caller_id_num: str = "") -> str | None:
        """The extension whose phone this channel is, or None.

        `caller_id_num`: the caller id that the channel had when it was made, for a phone whose endpoint is not named
        after its extension (`alice-desk` with caller id 781). Pass it for dialed channels only: that of a calling
        channel is whatever the far side sent.
        """
        if name.technology == LOCAL or name.carrier or name.endpoint in self._trunks:
            return None
        for known in (self._named, self._hinted, self._devices):
            if name.endpoint in known:
                return known[name.endpoint]
        if self._extension.fullmatch(name.peer):
            return name.peer
        if caller_id_num and self._extension.fullmatch(caller_id_num):
            return caller_id_num
        return None

    def is_extension(self, dialed: str) -> bool:
        """Whether a dialed number is an extension, by its looks."""
        return self._extension.fullmatch(dialed) is not None

    def hinted(self, exten: str, hint: str) -> dict[str, str]:
        """Endpoints and their extension, as one of the PBX's hints gives them; empty where it says nothing of phones.

        `PJSIP/101&PJSIP/99101&Custom:DND101,CustomPresence:101`: two phones, and what they are not. A hint for what is
        no extension (`*74101`, a trunk's lamp) is none of ours.
        """
        if not self._extension.fullmatch(exten):
            return {}
        phones = [device.strip() for device in hint.partition(",")[0].split("&")]
        return {phone: exten for phone in phones if PHONE.fullmatch(phone)}

    def learn_hints(self, hints: Mapping[str, str]) -> None:
        """Add to what hints say, or correct it."""
        self._hinted.update(hints)
        self.changes += 1

    def replace_hints(self, hints: Mapping[str, str]) -> None:
        """Take over the PBX's whole map, without what stood there before."""
        self._hinted = dict(hints)
        self.changes += 1

    def replace_devices(self, entries: Mapping[str, str]) -> None:
        """Take over FreePBX's devices, as they stand in Asterisk's database (family `DEVICE`), by key.

        `/DEVICE/9105/dial` is `PJSIP/9105`, `/DEVICE/9105/user` is `105`, who is logged on there, or `none`. What
        `AMPUSER/105/device` says is the same the other way round (FreePBX core, agi-bin/user_login_out.agi).
        """
        self._devices = {}
        for key, user in entries.items():
            device, _, field = key.rpartition("/")
            dial = entries.get(f"{device}/dial", "")
            if field == "user" and PHONE.fullmatch(dial) and self._extension.fullmatch(user):
                self._devices[dial] = user
        self.changes += 1

    def is_trunk(self, name: ChannelName) -> bool:
        """Whether this endpoint is a trunk, as configured or as learned."""
        return name.endpoint in self._trunks

    def is_inbound_context(self, context: str) -> bool:
        """Whether calls from outside come in here. Outbound trunk legs stand in such a context too."""
        return self._inbound.match(context) is not None

    def learn_trunk(self, name: ChannelName) -> None:
        """Remember that an outside call came in over this endpoint."""
        if name.endpoint not in self._trunks and len(self._trunks) < _MOST_TRUNKS:
            self._trunks.add(name.endpoint)
            self.changes += 1
