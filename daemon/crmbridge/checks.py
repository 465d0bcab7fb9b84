"""Tries each link of the chain for real, and says in words what to do about those that fail. Mends nothing itself."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp

from crmbridge import app, build
from crmbridge.config import Settings
from crmbridge.pbx.ami import PASSING, LoginRefusedError, explain
from crmbridge.pbx.cdr_columns import NO_INDEX
from crmbridge.pbx.cdr_table import SourceError
from crmbridge.store.outbox import open_outbox
from crmbridge.store.schema import StoreError
from crmbridge.web import tls
from crmbridge.web.server import host_and_port

NEEDED_ACTIONS = {"Originate": "originate", "CoreShowChannels": "reporting", "ExtensionStateList": "reporting"}
"""AMI actions that the bridge uses, and the write class that allows each (main/manager.c)."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the chain, as it was found."""

    name: str
    ok: bool
    found: str
    """What was found; where it fails, what to do."""


async def all_links(settings: Settings) -> list[Link]:
    """Try them all, one after the other."""
    results = [Link("settings", ok=True, found="no mistakes")]
    results.append(await _state(settings))
    results.extend([link async for link in _ami(settings)])
    results.append(await _records(settings))
    results.append(await _call_list(settings))
    results.extend(_recordings(settings))
    results.append(await _crm(settings))
    results.append(_http(settings))
    results.extend(_tls(settings))
    return results


async def _state(settings: Settings) -> Link:
    path = settings.store.state_dir / app.OUTBOX
    try:
        if not path.exists():
            return _folder(settings)
        async with open_outbox(path, sole=False) as outbox:
            counts = await outbox.counts()
    except StoreError as error:
        return Link("outbox", ok=False, found=str(error))
    return Link("outbox", ok=True, found=", ".join(f"{n} {state}" for state, n in counts.items() if n) or "empty")


async def _records(settings: Settings) -> Link:
    """Where call records come from."""
    source = settings.cdr.source.get_secret_value()
    if source == "ami":
        return Link("call records", ok=True, found="AMI events: what ends without a session is in no call list")
    try:
        if source.startswith("/"):
            files = await asyncio.to_thread(build.cdr_files(settings).all)
            return Link("call records", ok=True, found=", ".join(map(str, files)))
        return await _table(settings)
    except SourceError as error:
        return Link("call records", ok=False, found=str(error))


async def _table(settings: Settings) -> Link:
    table = build.cdr_table(settings)
    try:
        shape, span = await table.shape(), await table.span()
    finally:
        await table.close()
    if not shape.indexed:
        return Link("call records", ok=False, found=NO_INDEX.format(column=shape.calldate, table=settings.cdr.table))
    lacking = f"; it has no {', '.join(shape.lacking)} (docs/call-records.md)" if shape.lacking else ""
    latest = datetime.fromtimestamp(span[1], UTC).replace(tzinfo=None) if span else "none yet"
    return Link("call records", ok=True, found=f"table {settings.cdr.table}, the latest of {latest}{lacking}")


async def _call_list(settings: Settings) -> Link:
    """Where calls are listed. In a server's database this makes the tables, as the daemon would."""
    path = settings.store.state_dir / build.CALL_LIST
    if settings.store.url is None and not path.exists():
        return Link("call list", ok=True, found=f"none yet; it will be made in {path.parent}")
    try:
        async with build.call_list(settings, lambda _: []) as calls:
            newest = await calls.newest()
    except StoreError as error:
        return Link("call list", ok=False, found=str(error))
    return Link("call list", ok=True, found=f"its newest call is of {newest}" if newest else "no calls in it yet")


def _recordings(settings: Settings) -> list[Link]:
    folder = settings.cdr.recordings_dir
    if folder is None:
        return []
    try:
        with os.scandir(folder):
            reads = os.access(folder, os.X_OK)
    except PermissionError:  # by a folder above it, too: Debian's /var/spool/asterisk is its group's alone
        reads = False
    except OSError:
        return [Link("recordings", ok=False, found=f"{folder} is no folder: see cdr.recordings_dir")]
    if not reads:
        advice = "let the service's user into the group that may (SupplementaryGroups=, docs/operations.md)"
        return [Link("recordings", ok=False, found=f"{folder} can't be read by this user: {advice}")]
    return [Link("recordings", ok=True, found=f"{folder} can be read")]


def _folder(settings: Settings) -> Link:
    """A check must not leave files of the wrong owner behind: where there is no outbox yet, none is made."""
    folder = settings.store.state_dir
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Link("outbox", ok=False, found=f"{existing} can't be written by this user: see store.state_dir")
    return Link("outbox", ok=True, found=f"none yet; it will be made in {folder}")


async def _ami(settings: Settings) -> AsyncIterator[Link]:
    ami = build.ami(settings, wanted=(), on_frame=lambda frame, at: None)  # noqa: ARG005  # nothing is wanted
    where = f"{settings.ami.host}:{settings.ami.port}"
    try:
        probe = await ami.probe()
    except LoginRefusedError as error:
        yield Link("AMI", ok=False, found=str(error))
        return
    except PASSING as error:
        yield Link("AMI", ok=False, found=f"{where}: {explain(error)}")
        return
    yield Link("AMI", ok=True, found=f"logged in at {where} as {settings.ami.username}, AMI version {probe.version}")
    missing = sorted({write for action, write in NEEDED_ACTIONS.items() if action not in probe.actions})
    if missing:
        yield Link("AMI rights", ok=False, found=f"add to this user's write = in manager.conf: {', '.join(missing)}")
    elif not probe.fully_booted:
        hint = "no FullyBooted event: Asterisk still starts, or this user's read = in manager.conf lacks system"
        yield Link("AMI rights", ok=False, found=hint)
    else:
        yield Link("AMI rights", ok=True, found=f"may use {', '.join(NEEDED_ACTIONS)}; sees system events")


async def _crm(settings: Settings) -> Link:
    """Ask the CRM's address for nothing: any HTTP answer shows that it is there."""
    url = str(settings.crm.url)
    try:
        timeout = aiohttp.ClientTimeout(total=settings.crm.timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            status, target = answer.status, answer.headers.get("Location", "")
    except ssl.SSLError as error:
        return Link("CRM", ok=False, found=f"{url}: its certificate is not accepted ({error})")
    except TimeoutError:
        return Link("CRM", ok=False, found=f"{url}: no answer within {settings.crm.timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return Link("CRM", ok=False, found=f"{url}: {error}; check crm.url, DNS and the firewall")
    if 300 <= status < 400:
        return Link("CRM", ok=False, found=f"{url} redirects to {target}: set crm.url to the new address")
    if status == 404 or status >= 500:
        return Link("CRM", ok=False, found=f"{url} answers HTTP {status}: check crm.url, ask the CRM's people")
    return Link("CRM", ok=True, found=f"{url} answers (HTTP {status})")


def _http(settings: Settings) -> Link:
    """Either our daemon listens there, or it could."""
    host, port = host_and_port(settings.http.listen)
    where = settings.http.listen
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        return Link("dialer", ok=False, found=f"http.listen {where}: {error.strerror}")
    with socket.socket(info[0], info[1]) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(info[4])
        except OSError as error:
            in_use = f"{where} is in use: by crmbridge itself if it runs (see {where}/healthz)"
            return Link("dialer", ok=_answers(info), found=in_use if _answers(info) else f"{where}: {error.strerror}")
    return Link("dialer", ok=True, found=f"{where} is free; crmbridge does not run yet")


def _tls(settings: Settings) -> list[Link]:
    cert, key = settings.http.tls_cert, settings.http.tls_key
    if cert is None or key is None:
        return []
    try:
        found = tls.load(cert, key)
    except tls.TlsError as error:
        return [Link("TLS", ok=False, found=str(error))]
    left = found.until - datetime.now(UTC)
    text = f"certificate for {', '.join(found.names) or 'no name'} until {found.until:%Y-%m-%d}, {left.days} days left"
    return [Link("TLS", ok=left > build.CERTIFICATE_ENDS_SOON and bool(found.names), found=text)]


def _answers(info: tuple[int, int, int, str, tuple[object, ...]]) -> bool:
    with socket.socket(info[0], info[1]) as probe:
        probe.settimeout(2)
        return probe.connect_ex(info[4]) == 0
