"""The ways in which a CRM misbehaves, each with what must come of it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from tests.asterisk.faults.faulty_crm import FaultyCrm
from tests.asterisk.faults.small_disk import fill, free
from tests.asterisk.faults.surroundings import Certificates, NameServer, Place

from crmbridge.demo.receiver import Manner, Receiver, Reply

PROBE_S = 5.0
"""While the CRM is down, it is tried again at least so often (crm.retry, LONGEST_PROBE_PAUSE_S)."""


@dataclass
class Around:
    """What a fault acts on."""

    place: Place
    crm: FaultyCrm
    moved: FaultyCrm
    """Where the CRM moves to."""
    elsewhere: Receiver
    """To which nobody may ever be led."""
    elsewhere_url: str
    names: NameServer
    name: str
    """The CRM's."""
    certificates: Certificates
    state: Path
    """The folder of the bridge's state."""


Fault = Callable[[Around], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Case:
    """One way to misbehave."""

    name: str
    fault: Fault
    says: str
    """Stands in the reason that the operator reads."""
    lasts_s: float = 12.0
    full_s: float | None = None
    """With --full."""
    refused: bool = False
    """What is sent meanwhile is refused for good; else it is sent until it is confirmed or too old."""
    patience_s: float = 0.0
    """How long after its end a fault may still hold the bridge up: an answer waited for, a Retry-After, a timeout."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Of `[crm]`."""
    gap_s: float = 1.5
    """Between two calls."""
    tls: bool = False
    named: bool = False
    """The CRM is known by its name, not by its address."""
    expected_events: Collection[str] = ()
    """Of the log, that would else tell of a fault in the bridge."""
    clock: bool = False
    """The wall clock is set back and forth meanwhile."""


@asynccontextmanager
async def _shut(around: Around) -> AsyncIterator[None]:
    await around.crm.shut()
    yield
    await around.crm.open()


def _replying(reply: Reply) -> Fault:
    @asynccontextmanager
    async def fault(around: Around) -> AsyncIterator[None]:
        around.crm.behave(reply)
        yield
        around.crm.behave(Reply())

    return fault


@asynccontextmanager
async def _led_elsewhere(around: Around) -> AsyncIterator[None]:
    async with _replying(Reply(status=302, headers={"Location": around.elsewhere_url}))(around):
        yield
    assert not around.elsewhere.received, "a redirect was followed"


@asynccontextmanager
async def _nothing(around: Around) -> AsyncIterator[None]:
    del around
    yield


@asynccontextmanager
async def _back_at(around: Around) -> AsyncIterator[None]:
    """Busy, until an instant of the CRM's clock."""
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=BUSY_S), usegmt=True)
    async with _replying(Reply(status=503, headers={"Retry-After": at}))(around):
        yield


def _slow(delay_s: float) -> Fault:
    @asynccontextmanager
    async def fault(around: Around) -> AsyncIterator[None]:
        around.crm.delay_s = delay_s
        yield
        around.crm.delay_s = 0.0

    return fault


def _showing(which: Callable[[Certificates], ssl.SSLContext]) -> Fault:
    @asynccontextmanager
    async def fault(around: Around) -> AsyncIterator[None]:
        await around.crm.shut()
        await around.crm.open(which(around.certificates))
        yield
        await around.crm.shut()
        await around.crm.open(around.certificates.right)

    return fault


@asynccontextmanager
async def _nameless(around: Around) -> AsyncIterator[None]:
    """The connections that there are end, too, or the name would not be asked for."""
    address = around.names.addresses.pop(around.name)
    await around.crm.shut()
    yield
    around.names.addresses[around.name] = address
    await around.crm.open()


@asynccontextmanager
async def _name_server_silent(around: Around) -> AsyncIterator[None]:
    around.names.silent.add(around.name)
    await around.crm.shut()
    yield
    around.names.silent.discard(around.name)
    await around.crm.open()


@asynccontextmanager
async def _moving(around: Around) -> AsyncIterator[None]:
    """The old address is gone at once; the new one is told and there at the end. The next time it moves back."""
    await around.crm.shut()
    yield
    around.crm, around.moved = around.moved, around.crm
    await around.crm.open()
    assert around.crm.address is not None
    around.names.addresses[around.name] = around.crm.address[0]


BUSY_S = 7.0


@asynccontextmanager
async def _disk_full(around: Around) -> AsyncIterator[None]:
    fill(around.state)
    yield
    free(around.state)


SHORT_LIFE = {"ring_expires_s": 6.0}

CASES = (
    Case("refuses connections", _shut, "cannot connect to"),
    Case("refuses connections, one call only", _shut, "cannot connect to", lasts_s=20, gap_s=100),
    Case("accepts and never answers", _replying(Reply(manner=Manner.NEVER)), "no whole answer", patience_s=10),
    Case("answers after 30 s", _slow(30), "no whole answer", lasts_s=35, patience_s=10),
    Case("cuts the connection", _replying(Reply(manner=Manner.ABORT)), "without an answer"),
    Case("500", _replying(Reply(status=500, body=b"oops")), "HTTP 500: oops"),
    Case(
        "429, Retry-After: 7",
        _replying(Reply(status=429, headers={"Retry-After": f"{BUSY_S:.0f}"})),
        "HTTP 429",
        patience_s=BUSY_S,
    ),
    Case("200 with HTML", _replying(Reply(body=b"<html>Fatal error")), "no JSON"),
    Case("success: false", _replying(Reply(body=b'{"success":false}')), "crm.refused", refused=True),
    Case("302 to elsewhere", _led_elsewhere, "redirects are not followed"),
    Case("an endless body", _replying(Reply(manner=Manner.ENDLESS)), "longer than 64 KiB"),
    Case("certificate expired", _showing(lambda made: made.expired), "expired", tls=True),
    Case("certificate of another name", _showing(lambda made: made.wrong_name), "not trusted", tls=True),
    Case("name not found", _nameless, "no address found", named=True),
    Case("name server silent", _name_server_silent, "no connection to", named=True, patience_s=10),
    Case("address changes", _moving, "cannot connect to", lasts_s=4, named=True),
    Case("down longer than a ring is of use", _shut, "cannot connect to", lasts_s=30, full_s=600, settings=SHORT_LIFE),
)

DISK_CASES = (Case("is well", _disk_full, "store.disk_back", expected_events=("store.disk_refuses",)),)
"""The state folder's disk is full meanwhile; it has to be a small one."""

CLOCK_CASES = tuple(
    replace(case, clock=True)
    for case in (
        Case("is well", _nothing, "call.rings"),
        Case("refuses connections", _shut, "cannot connect to"),
        Case("503, Retry-After: a date", _back_at, "HTTP 503", patience_s=BUSY_S),
        Case("down longer than a ring is of use", _shut, "cannot connect to", lasts_s=30, settings=SHORT_LIFE),
    )
)
"""The same, while the bridge's wall clock is set back and forth by an hour."""
