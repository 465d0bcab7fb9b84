"""The composition root: builds the parts from the settings and joins them. Nothing else knows all of them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Client, Clients
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.tracker import Tracker
from crmbridge.config import ClientSettings, NumberSettings, PbxSettings, Settings
from crmbridge.crm.sender import Sender
from crmbridge.crm.sender import Settings as SenderSettings
from crmbridge.intake import Frame, Intake
from crmbridge.pbx.ami import Ami
from crmbridge.store.outbox import Outbox, open_outbox

log = structlog.get_logger("crmbridge.app")


def build_endpoints(pbx: PbxSettings) -> Endpoints:
    """What is what on this PBX."""
    return Endpoints(
        extensions=pbx.extensions, trunks=pbx.trunks, endpoints=pbx.endpoints, inbound_contexts=pbx.inbound_contexts
    )


def build_clients(default: str, clients: Sequence[ClientSettings]) -> Clients:
    """Whose call is whose."""
    return Clients(
        default,
        [Client(c.client_id, frozenset(c.dids), frozenset(c.extensions), frozenset(c.trunks)) for c in clients],
    )


def build_numbers(numbers: NumberSettings) -> Numbers:
    """How numbers are written."""
    return Numbers(region=numbers.region, form=numbers.format, anonymous=numbers.anonymous)


def build_tracker(pbx: PbxSettings, endpoints: Endpoints, clients: Clients, numbers: Numbers) -> Tracker:
    """Follows the calls of one PBX."""
    return Tracker(pbx=pbx.name, endpoints=endpoints, clients=clients, caller=numbers.caller)


def local_timezone() -> tzinfo:
    """This machine's time zone, with its changes of the clock."""
    with suppress(OSError, ValueError), Path("/etc/localtime").open("rb") as file:
        return ZoneInfo.from_file(file, key="local")
    return ZoneInfo("UTC")


def ami_tls(settings: Settings) -> ssl.SSLContext | None:
    """How the AMI connection is encrypted; certificates are checked."""
    if not settings.ami.tls:
        return None
    return ssl.create_default_context(cafile=str(settings.ami.ca_file) if settings.ami.ca_file else None)


async def run(settings: Settings, stop: asyncio.Event, *, http: socket.socket | None = None) -> None:
    """Be the bridge until `stop` is set; then finish what is under way.

    `http`: a socket that is bound already, in place of `http.listen`. Raises LoginRefusedError, StoreError and
    ListenError, which say what to do; what is unexpected goes through and ends the process.
    """
    async with open_outbox(settings.store.state_dir / "outbox.db") as outbox:
        bridge = _Bridge(settings, outbox)
        await bridge.run(stop)


class _Bridge:
    """The parts, joined."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        endpoints = build_endpoints(settings.pbx)
        clients = build_clients(settings.crm.client_id, settings.crm.clients)
        numbers = build_numbers(settings.numbers)
        self._outbox = outbox
        self._sender = Sender(
            SenderSettings(
                url=str(settings.crm.url),
                concurrency=settings.crm.concurrency,
                timeout_s=settings.crm.timeout_s,
                ring_expires_s=settings.crm.ring_expires_s,
                answer_expires_s=settings.crm.answer_expires_s,
            ),
            outbox,
        )
        others: dict[str, Callable[[Frame], None]] = {"OriginateResponse": _log_originate}
        self._intake = Intake(
            tracker=build_tracker(settings.pbx, endpoints, clients, numbers),
            store=outbox.add,
            send=self._sender.submit,
            others=others,
            resync=self._resync,
        )
        self._ami = Ami(
            host=settings.ami.host,
            port=settings.ami.port,
            username=settings.ami.username,
            secret=settings.ami.secret.get_secret_value(),
            wanted=Tracker.EVENTS | others.keys(),
            on_frame=self._intake.take,
            tls=ami_tls(settings),
        )

    def _resync(self) -> None:
        self._ami.resync()

    async def run(self, stop: asyncio.Event) -> None:
        """Run the parts until `stop`; what was started last ends first."""
        waiting = await self._outbox.waiting()
        self._sender.submit(waiting)
        log.info("bridge.started", waiting=len(waiting))
        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(self._sender.run())
            intake = tasks.create_task(self._intake.run())
            ami = tasks.create_task(self._ami.run())
            await stop.wait()
            log.info("bridge.stopping")
            await _end(ami)
            await _end(intake)
            await self._intake.drain()
            self._sender.stop()
            await sender
        log.info("bridge.stopped")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _log_originate(frame: Frame) -> None:
    """How an Originate's first leg, the agent's phone, ended."""
    log.info("click.phone", answered=frame.get("Response") == "Success", reason=frame.get("Reason"))


class ListenError(Exception):
    """http.listen can't be had; the message says why and what to do."""


def listen_address(settings: Settings) -> tuple[str, int]:
    """Host and port of http.listen."""
    host, _, port = settings.http.listen.rpartition(":")
    return host.strip("[]"), int(port)
