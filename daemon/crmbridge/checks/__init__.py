"""Tries each link of the chain for real, and says in words what to do about those that fail. Mends nothing itself.

docs/check.md has all of them, and tests hold it equal to LINKS.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from crmbridge import build
from crmbridge.checks import asterisk, claims, clock, dialplan, http, machine, records, rights
from crmbridge.checks.link import Link, State, broken, good
from crmbridge.config import Settings
from crmbridge.pbx.ami import PASSING, LoginRefusedError, explain
from crmbridge.pbx.visit import allowed, visit

__all__ = ["LINKS", "Link", "State", "all_links", "of_settings"]

SETTINGS, AMI = "settings", "AMI"

LINKS = (
    *(SETTINGS, machine.OUTBOX, machine.DISK),
    *(AMI, rights.RIGHTS, rights.EVENTS, asterisk.VERSION, asterisk.CDR, asterisk.ZONE),
    *(dialplan.INBOUND, dialplan.OUTBOUND, dialplan.EXTENSIONS, dialplan.TRUNKS),
    *(records.SOURCE, records.LIST, claims.CLAIMS, records.RECORDINGS),
    *(http.CRM, clock.CLOCK, http.DIALER, http.TLS),
)
"""In the order in which they are told; those of one of several PBXes have its name before theirs (`haifa: AMI`), and
come PBX by PBX. Those of Asterisk are left out where there is no session, `claims`, `recordings` and `TLS`
where the settings have none."""


def of_settings(trouble: str | None) -> Link:
    """The first of them: `trouble` is what is wrong with the settings, None where nothing is."""
    return broken(SETTINGS, trouble) if trouble else good(SETTINGS, "no mistakes")


async def all_links(settings: Settings) -> list[Link]:
    """Try them all, one after the other."""
    results = [of_settings(None), await machine.outbox(settings), machine.disk(settings)]
    found = await asyncio.gather(*map(_one_pbx, settings.each()))
    ahead_s = {name: value for one in found for name, value in one.ahead_s.items()}
    results += [link for one in found for link in one.links]
    results += [await records.call_list(settings), *await claims.claims(settings)]
    results += [link for one in found for link in one.recordings]
    crm, ahead_s[clock.CRM] = await http.crm(settings)
    results += [crm, clock.clock({name: value for name, value in ahead_s.items() if value is not None})]
    return [*results, http.dialer(settings), *http.certificate(settings)]


@dataclass(frozen=True, slots=True)
class _Found:
    """What has to do with one PBX."""

    links: list[Link]
    recordings: list[Link]
    ahead_s: dict[str, float | None]
    """By how many seconds its clocks are ahead of ours."""


async def _one_pbx(settings: Settings) -> _Found:
    """`settings`: of this PBX alone."""
    ahead_s: dict[str, float | None] = {}
    links = await _asterisk(settings, ahead_s)
    source, latest, ahead_s[clock.DATABASE] = await records.source(settings)
    found = _Found([*links, source], records.recordings(settings, latest), ahead_s)
    if not settings.names_pbxes:
        return found
    name = settings.pbx.name
    links, recordings = (
        [replace(one, name=f"{name}: {one.name}") for one in some] for some in (found.links, found.recordings)
    )
    return _Found(links, recordings, {f"{one}{clock.OF}{name}": value for one, value in ahead_s.items()})


async def _asterisk(settings: Settings, ahead_s: dict[str, float | None]) -> list[Link]:
    """What has to do with Asterisk, as far as it could be asked."""
    ami, results = settings.ami, list[Link]()
    address = build.ami_address(ami)
    try:
        async with visit(address, ami.username, ami.secret.get_secret_value()) as session:
            results.append(good(AMI, f"logged in at {address} as {ami.username}, AMI version {session.version}"))
            commands = (await session.ask("ListCommands")).headers
            core = await session.ask("CoreSettings")
            by_ami = settings.cdr.source.get_secret_value() == "ami"
            results.append(await rights.rights(session, allowed(commands), ami.username, by_ami))
            results.append(await rights.events(session, settings))
            results.append(asterisk.version(core, commands))
            results.append(await asterisk.call_records(session, core, settings.cdr))
            results.append(await asterisk.zone(session, settings.cdr, build.pbx_timezone(settings.cdr)))
            ahead_s[clock.ASTERISK] = await asterisk.clock_s(session)
            results += await dialplan.links(session, settings)
    except LoginRefusedError as error:
        results.append(broken(AMI, str(error)))
    except PASSING as error:
        results.append(broken(AMI, f"{address}: {explain(error)}"))
    return results
