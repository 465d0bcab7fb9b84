"""What is what on this PBX: contexts that exist, phones and trunks that are seen, against what the settings say.

Endpoints are seen by their states (DeviceStateList), so only where res_manager_devicestate is loaded. What Asterisk
does not know has the state INVALID; that is so for the technologies named here, others may say so of what exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from crmbridge import build
from crmbridge.calls.channels import PHONE, ChannelName
from crmbridge.checks.link import Link, broken, good, judged, some, weak
from crmbridge.config import Settings
from crmbridge.pbx.listing import LISTS
from crmbridge.pbx.visit import DIALPLAN, Visit

INBOUND, OUTBOUND, EXTENSIONS, TRUNKS = "inbound contexts", "dialer context", "extensions", "trunks"

_CERTAIN = ("PJSIP", "SIP", "IAX2")
_ENDPOINT = re.compile(r"(?:PJSIP|SIP|IAX2|DAHDI|SCCP|Skinny)/[^/&,@]+")
_NAME = re.compile(r"[A-Za-z0-9._+-]+", re.ASCII)
_MOST_ASKED = 300
"""Endpoints whose context is asked for, at a fraction of a millisecond each."""
_LIST = {one.action: one for one in LISTS}


@dataclass(frozen=True)
class Seen:
    """Endpoints that Asterisk knows, such as `PJSIP/777`."""

    phones: dict[str, str]
    """Those of extensions, and which extension."""
    others: list[str]
    contexts: dict[str, str]
    """In which context calls of an endpoint come in, where that could be asked."""
    complete: bool
    """Whether all endpoints are seen, not only those with a hint."""


async def links(visit: Visit, settings: Settings) -> list[Link]:
    """All that has to do with the dialplan and the endpoints."""
    if await visit.value("DIALPLAN_EXISTS(crmbridge-no-such-context)") != "0":
        why = "not found out: this user may not ask for it (write = reporting in manager.conf)"
        return [weak(name, why) for name in (INBOUND, OUTBOUND, EXTENSIONS, TRUNKS)]
    seen = await _look(visit, settings)
    return [
        await _inbound(visit, settings, seen),
        await _outbound(visit, settings),
        await _extensions(visit, settings, seen),
        await _trunks(visit, settings, seen),
    ]


async def _exists(visit: Visit, context: str) -> bool:
    return bool(_NAME.fullmatch(context)) and await visit.value(f"DIALPLAN_EXISTS({context})") == "1"


async def _inbound(visit: Visit, settings: Settings, seen: Seen) -> Link:
    patterns = settings.pbx.inbound_contexts
    names = [pattern.rstrip("*") for pattern in patterns]
    if found := [name for name in names if await _exists(visit, name)]:
        return good(INBOUND, f"in the dialplan: {some(found)}")
    # Only now: it may be tens of thousands of lines.
    listed = {frame["Context"] for frame in await visit.listed(DIALPLAN) or [] if "Context" in frame}
    if found := sorted(name for name in listed if any(fnmatchcase(name, pattern) for pattern in patterns)):
        return good(INBOUND, f"in the dialplan: {some(found)}")
    used = sorted({context for one, context in seen.contexts.items() if one not in seen.phones})
    there = f"trunks stand in {some(used)}" if used else f"there are {some(sorted(listed), 12)}"
    return broken(
        INBOUND,
        f"none of pbx.inbound_contexts ({some(patterns)}) is in the dialplan, so no call would count as from outside:"
        f" {there}; name there the contexts in which calls from trunks come in",
    )


async def _outbound(visit: Visit, settings: Settings) -> Link:
    context = settings.dialer.context
    if not await _exists(visit, context):
        mend = "set it to the context in which phones dial (from-internal on FreePBX)"
        return broken(OUTBOUND, f"dialer.context {context} is not in the dialplan, so no click would dial: {mend}")
    at = settings.dialer.channel.partition("@")[2].partition("/")[0]
    if at and "{" not in at and not await _exists(visit, at):
        return broken(OUTBOUND, f"dialer.channel names the context {at}, which is not in the dialplan: mend it")
    return good(OUTBOUND, f"{context} is in the dialplan")


async def _extensions(visit: Visit, settings: Settings, seen: Seen) -> Link:
    pbx = settings.pbx
    unknown = [one for one in pbx.endpoints if await _is_unknown(visit, one)]
    faults = [f"Asterisk knows no {some(unknown)}, which pbx.endpoints names: mend its name, or take it out"] * bool(
        unknown
    )
    inbound = build.endpoints(pbx).is_inbound_context
    outside = [one for one in seen.phones if inbound(seen.contexts.get(one, ""))]
    remarks = []
    if outside:
        remarks.append(
            f"phones in a context of pbx.inbound_contexts: {some(outside)}; their calls would be neither from outside"
            " nor an extension's own: give them another context, or take the context out there"
        )
    if not seen.phones:
        if not seen.complete:
            why = "not found out: res_manager_devicestate.so is not loaded in Asterisk, and no hint names a phone"
            return weak(EXTENSIONS, why) if not faults else broken(EXTENSIONS, faults[0])
        there = f"{len(seen.others)} endpoints ({some(seen.others)})" if seen.others else "no endpoints at all"
        faults.append(
            f"no phone is an extension's: Asterisk has {there}; set pbx.extensions (now {pbx.extensions}) to what their"
            " names look like, or name them in pbx.endpoints"
        )
    extensions = sorted(set(seen.phones.values()))
    found = f"{len(extensions)} seen: {some(extensions)}"
    return judged(EXTENSIONS, found, faults=faults, remarks=remarks)


async def _trunks(visit: Visit, settings: Settings, seen: Seen) -> Link:
    named = list(
        dict.fromkeys([*settings.pbx.trunks, *(one for client in settings.crm.clients for one in client.trunks)])
    )
    if unknown := [one for one in named if await _is_unknown(visit, one)]:
        where = "pbx.trunks or crm.clients"
        return broken(TRUNKS, f"Asterisk knows no {some(unknown)}, which {where} names: mend its name, or take it out")
    inbound = build.endpoints(settings.pbx).is_inbound_context
    others = {one: seen.contexts[one] for one in dict.fromkeys([*named, *seen.others]) if seen.contexts.get(one)}
    found = sorted(one for one, context in others.items() if inbound(context))
    if others and not found:
        contexts = ", ".join(f"{one} in {context}" for one, context in list(others.items())[:5])
        return weak(
            TRUNKS,
            f"no endpoint that is no extension's stands in a context of pbx.inbound_contexts ({contexts}): if one of"
            " them is a trunk, add its context there",
        )
    if not found and not named:
        return good(TRUNKS, "none named; which there are is learned from calls")
    return good(
        TRUNKS, f"{len(set(named) | set(found))} seen: {some([*named, *(one for one in found if one not in named)])}"
    )


async def _is_unknown(visit: Visit, endpoint: str) -> bool:
    technology, _, name = endpoint.partition("/")
    if technology not in _CERTAIN or not _NAME.fullmatch(name):
        return False
    return await visit.value(f"DEVICE_STATE({endpoint})") == "INVALID"


async def _look(visit: Visit, settings: Settings) -> Seen:
    endpoints = build.endpoints(settings.pbx)
    hints: dict[str, str] = {}
    for frame in await visit.listed(_LIST["ExtensionStateList"]) or []:
        hints |= endpoints.hinted(frame.get("Exten", ""), frame.get("Hint", ""))
    endpoints.replace_hints(hints)
    devices = await visit.listed(_LIST["DBGetTree"]) or []
    endpoints.replace_devices({frame.get("Key", ""): frame.get("Val", "") for frame in devices})
    states = await visit.listed(_LIST["DeviceStateList"])
    known = {frame.get("Device", "") for frame in states or [] if frame.get("State") != "INVALID"} | hints.keys()
    phones, others = {}, []
    for one in sorted(name for name in known if _ENDPOINT.fullmatch(name) and PHONE.fullmatch(name)):
        technology, _, peer = one.partition("/")
        extension = endpoints.extension(ChannelName(technology, peer))
        if extension is None:
            others.append(one)
        else:
            phones[one] = extension
    contexts = {}
    for one in [*settings.pbx.trunks, *others, *phones][:_MOST_ASKED]:
        technology, _, peer = one.partition("/")
        function = {"PJSIP": "PJSIP_ENDPOINT", "SIP": "SIPPEER"}.get(technology)
        if function and _NAME.fullmatch(peer):
            contexts[one] = await visit.value(f"{function}({peer},context)")
    return Seen(phones, others, contexts, complete=states is not None)
