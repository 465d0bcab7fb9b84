"""Parts made from the settings, for whoever joins them: the daemon (`app`), the commands, the checks, the demo."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.engine import URL

from crmbridge.calls import cdr_csv
from crmbridge.calls.cdr import LONGEST_PATH, Cdr, from_event
from crmbridge.calls.channels import LOCAL, Endpoints
from crmbridge.calls.clients import Client, Clients
from crmbridge.calls.debatable import Debatable
from crmbridge.calls.dialable import Dialable
from crmbridge.calls.dialing import DialingRules
from crmbridge.calls.events import Delivery, State
from crmbridge.calls.history import CallRow, History, is_extension, parties
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.phone_states import PhoneState
from crmbridge.calls.tracker import Tracker
from crmbridge.config import (
    AmiSettings,
    CdrSettings,
    CrmSettings,
    DialerSettings,
    HttpSettings,
    NumberSettings,
    PbxSettings,
    Settings,
    StoreSettings,
    TellSettings,
)
from crmbridge.crm.sender import Sender
from crmbridge.crm.sending import Outbox
from crmbridge.crm.sending import Settings as SenderSettings
from crmbridge.file_records import FileRecords
from crmbridge.pbx.ami import Address, Ami
from crmbridge.pbx.cdr_file import CdrFiles
from crmbridge.pbx.cdr_table import CdrTable
from crmbridge.pbx.wire import Frame
from crmbridge.records import MOST_WAITING, EventRecords, Source, Store, Together
from crmbridge.store.call_list import CallList, Rows, open_call_list
from crmbridge.store.claims import Claims, open_claims
from crmbridge.store.engine import sqlite_url
from crmbridge.store.key import lasting_key
from crmbridge.store.recovery import begin_anew
from crmbridge.sync import History as Past
from crmbridge.sync_sources import FileHistory, TableHistory
from crmbridge.table_records import TableRecords
from crmbridge.web import tls
from crmbridge.web.access import Access, Account
from crmbridge.web.links import Links
from crmbridge.web.parameters import CREDENTIALS
from crmbridge.web.recordings import Recordings
from crmbridge.web.recordings_by_pbx import RecordingsByPbx

log = structlog.get_logger("crmbridge.http")

CALL_LIST = "calls.db"
"""File in store.state_dir, where store.url names no other database."""

CERTIFICATE_ENDS_SOON = timedelta(days=14)
LINKS_KEY = "links.key"
"""File in store.state_dir."""


def _not_rung(dialer: DialerSettings) -> set[PhoneState]:
    """The states of phones for which a click is refused."""
    states = {PhoneState.TALKS: dialer.when_talking, PhoneState.AWAY: dialer.when_away}
    return {state for state, what in states.items() if what == "refuse"}


def endpoints(pbx: PbxSettings) -> Endpoints:
    """What is what on this PBX."""
    return Endpoints(
        extensions=pbx.extensions, trunks=pbx.trunks, endpoints=pbx.endpoints, inbound_contexts=pbx.inbound_contexts
    )


def channels_of_named_phones(settings: Settings) -> dict[str, str]:
    """How the phones are rung that are not named after their extension; a Local channel finds them by itself."""
    if settings.dialer.channel.startswith(f"{LOCAL}/"):
        return {}
    return {extension: endpoint for endpoint, extension in settings.pbx.endpoints.items()}


@dataclass(frozen=True, slots=True)
class Site:
    """One PBX: its settings, what is what there, and whose. What is learned of its lines is for calls and records."""

    settings: Settings
    endpoints: Endpoints
    clients: Clients
    numbers: Numbers

    @property
    def pbx(self) -> str:
        """Its name."""
        return self.settings.pbx.name


def sites(settings: Settings) -> list[Site]:
    """All PBXes."""
    written = numbers(settings.numbers)
    return [Site(one, endpoints(one.pbx), clients(one.crm), written) for one in settings.each()]


def clients(crm: CrmSettings) -> Clients:
    """Whose call is whose."""
    return Clients(crm.client_id, listed_clients(crm))


def listed_clients(crm: CrmSettings) -> list[Client]:
    """The clients besides the one whose all else is."""
    return [
        Client(one.client_id, frozenset(one.dids), frozenset(one.extensions), frozenset(one.trunks))
        for one in crm.clients
    ]


def client_ids(settings: Settings) -> frozenset[str]:
    """Every ClientId that may come with a request from the CRM, whatever the PBX."""
    return frozenset().union(*(clients(one.crm).ids for one in settings.each()))


def accounts(settings: Settings) -> list[Account]:
    """Who may ask for which client: the common credentials for all those that have neither their own nor addresses."""
    http = settings.http
    apart = [one for one in settings.crm.clients if one.stands_apart]
    others = client_ids(settings) - {one.client_id for one in apart} if apart else None
    accounts = [Account(http.username, http.password.get_secret_value(), http.allow, others)]
    for one in apart:
        username, password = one.username or http.username, one.password or http.password
        allow = http.allow if one.allow is None else one.allow
        accounts.append(Account(username, password.get_secret_value(), allow, frozenset({one.client_id})))
    return accounts


def access(settings: Settings) -> Access:
    """Who may ask."""
    http = settings.http
    return Access(
        accounts(settings),
        trusted_proxies=http.trusted_proxies,
        links_from=http.links_from,
        credentials_as_parameters=http.credentials_as_parameters,
    )


def dialable(settings: Settings) -> Dialable:
    """Which numbers a click may dial on one PBX."""
    dialer = settings.dialer
    return Dialable.from_settings(
        region=settings.numbers.region,
        extensions=settings.pbx.extensions,
        international=dialer.international,
        allow=dialer.allow_numbers,
        deny=dialer.deny_numbers,
    )


def dialing_rules(settings: Settings) -> DialingRules:
    """Which clicks are dialed."""
    dialer = settings.dialer
    return DialingRules(
        dialable={one.pbx.name: dialable(one) for one in settings.each()},
        per_extension_per_minute=dialer.per_extension_per_minute,
        per_minute=dialer.per_minute,
        duplicate_window_s=dialer.duplicate_window_s,
        max_calls=dialer.max_calls,
        not_rung=_not_rung(dialer),
    )


def recordings(settings: Settings) -> RecordingsByPbx | None:
    """What serves the recordings, where the settings say where they are. Makes the links' key where there is none."""
    served = [(one, folder) for one in settings.each() if (folder := one.cdr.recordings_dir) is not None]
    if not served:
        return None
    key = lasting_key(settings.store.state_dir / LINKS_KEY)
    by_pbx: dict[str, Recordings] = {}
    for one, folder in served:
        links = Links(key, expire_s=one.cdr.links_expire_s)
        by_pbx[one.pbx.name] = Recordings(folder=folder, links=links, prefix=recordings_prefix(one))
    return RecordingsByPbx(by_pbx)


def recordings_prefix(settings: Settings) -> str:
    """What stands before the names of one PBX's recordings in the call list: others may have files of such names."""
    return f"{settings.pbx.name}/" if settings.names_pbxes else ""


def hidden_parameters(settings: Settings) -> tuple[str, ...]:
    """What no log shows of a query. Recordings' names hold callers' numbers."""
    return (*CREDENTIALS, "signature", *(("sNumber", "number", "recordings") if settings.log.mask_numbers else ()))


def certificate(http: HttpSettings) -> ssl.SSLContext | None:
    """What our endpoint shows, if it does TLS itself. Raises TlsError."""
    if http.tls_cert is None or http.tls_key is None:
        return None
    certificate = tls.load(http.tls_cert, http.tls_key)
    left = certificate.until - datetime.now(UTC)
    tell = log.warning if left < CERTIFICATE_ENDS_SOON else log.info
    tell("http.certificate", names=list(certificate.names), until=certificate.until.isoformat(), days_left=left.days)
    return certificate.context


def numbers(numbers: NumberSettings) -> Numbers:
    """How numbers are written."""
    return Numbers(region=numbers.region, form=numbers.format, anonymous=numbers.anonymous)


def tracker(pbx: PbxSettings, tell: TellSettings, endpoints: Endpoints, clients: Clients, numbers: Numbers) -> Tracker:
    """Follows the calls of one PBX."""
    mobiles = {numbers.caller(number): extension for number, extension in tell.mobiles.items()}
    debatable = Debatable(tell.ring_again, tell.consult_ring, tell.handed_over, tell.conference, mobiles)
    return Tracker(pbx=pbx.name, endpoints=endpoints, clients=clients, caller=numbers.caller, debatable=debatable)


def history(site: Site) -> Rows:
    """What makes lines of the records of a call on this PBX."""
    read = History(
        party=parties(site.endpoints),
        is_extension=is_extension(site.endpoints),
        number=site.numbers.caller,
        key=site.numbers.same,
        client=site.clients.of_call,
    ).rows
    prefix = recordings_prefix(site.settings)

    def rows(records: Iterable[Cdr]) -> list[CallRow]:
        return [row._replace(filename=_prefixed(prefix, row.filename)) for row in read(records)]

    return rows if prefix else read


def _prefixed(prefix: str, filename: str) -> str:
    return (prefix + filename.lstrip("/"))[:LONGEST_PATH] if filename else ""


def histories(sites: Iterable[Site]) -> Rows:
    """The same for the records of a call on any of these."""
    by_pbx = {site.pbx: history(site) for site in sites}

    def rows(records: Iterable[Cdr]) -> list[CallRow]:
        records = list(records)
        return by_pbx[records[0].pbx](records) if records else []

    return rows


def sender(
    settings: Settings,
    outbox: Outbox,
    alive: Callable[[float], None] = lambda within_s: None,  # noqa: ARG005
    on_outcome: Callable[[Delivery, State, float], None] | None = None,
    claims: Claims | None = None,
) -> Sender:
    """Sends to the CRM."""
    crm = settings.crm
    sending = SenderSettings(
        url=str(crm.url),
        concurrency=crm.concurrency,
        timeout_s=crm.timeout_s,
        ring_expires_s=crm.ring_expires_s,
        answer_expires_s=crm.answer_expires_s,
        names_pbxes=settings.names_pbxes,
    )
    return Sender(sending, outbox, on_outcome=on_outcome, alive=alive, claims=claims)


def claims(settings: Settings) -> AbstractAsyncContextManager[Claims | None]:
    """What is shared with another bridge on the same PBXes; None where this one is alone. Raises StoreError."""
    ours, url = settings.claims, settings.store.url
    if ours.bridge is None or url is None:
        return nullcontext()
    return open_claims(url.get_secret_value(), bridge=ours.bridge, timeout_s=ours.timeout_s, lease_s=ours.lease_s)


def ami(
    settings: Settings,
    *,
    wanted: Collection[str],
    on_frame: Callable[[Frame, datetime], None],
    apart: Collection[str] = (),
    alive: Callable[[float], None] = lambda within_s: None,  # noqa: ARG005
) -> Ami:
    """The session with the PBX."""
    ami = settings.ami
    return Ami(
        address=ami_address(ami),
        username=ami.username,
        secret=ami.secret.get_secret_value(),
        wanted=wanted,
        on_frame=on_frame,
        apart=apart,
        alive=alive,
    )


def ami_address(ami: AmiSettings) -> Address:
    """Where Asterisk's manager listens."""
    return Address(ami.host, ami.port, tls=ami.tls, ca_file=ami.ca_file)


def call_list(settings: Settings, rows: Rows, *, for_daemon: bool = False) -> AbstractAsyncContextManager[CallList]:
    """Open the call list where it lies. Raises StoreError.

    `for_daemon`: a damaged file is set aside and begun anew, and a database that is away keeps nobody from starting.
    """
    url, recover = call_list_url(settings.store), begin_anew if for_daemon else None
    timezone, zones = common_timezone(settings), pbx_timezones(settings)
    return open_call_list(url, rows, timezone, zones=zones, recover=recover, later=for_daemon)


def call_list_url(store: StoreSettings) -> str | URL:
    """Where the call list lies."""
    return store.url.get_secret_value() if store.url else sqlite_url(store.state_dir / CALL_LIST)


def call_records(settings: Settings, store: Store, together: Together, *, most_waiting: int = MOST_WAITING) -> Source:
    """Follows the source of call records. Raises SourceError where cdr.source is no address.

    `together`: by which those are stored that come as events; `most_waiting`: how many of them wait in memory while the
    store refuses them, and could not be read again.
    """
    source, pbx = settings.cdr.source.get_secret_value(), settings.pbx.name
    if source == "ami":
        read = partial(from_event, pbx=pbx, timezone=pbx_timezone(settings.cdr))
        return EventRecords(read=read, add=together.add, most_waiting=most_waiting)
    if source.startswith("/"):
        return FileRecords(pbx=pbx, files=cdr_files(settings), store=store)
    return TableRecords(pbx=pbx, table=cdr_table(settings), store=store)


def past(settings: Settings, stack: AsyncExitStack) -> Past | None:
    """The PBX's history, closed with `stack`; None where the source keeps none. Raises SourceError."""
    source = settings.cdr.source.get_secret_value()
    if source == "ami":
        return None
    if source.startswith("/"):
        return FileHistory(cdr_files(settings))
    table = cdr_table(settings)
    stack.push_async_callback(table.close)
    return TableHistory(table)


def cdr_table(settings: Settings) -> CdrTable:
    """The table that cdr.source names. Raises SourceError."""
    cdr = settings.cdr
    return CdrTable(
        cdr.source.get_secret_value(), cdr.table, pbx=settings.pbx.name, timezone=pbx_timezone(settings.cdr)
    )


def cdr_files(settings: Settings) -> CdrFiles:
    """The file that cdr.source names, and its siblings."""
    read = cdr_csv.from_line(settings.pbx.name, pbx_timezone(settings.cdr))
    return CdrFiles(Path(settings.cdr.source.get_secret_value()), read)


def pbx_timezone(cdr: CdrSettings) -> tzinfo:
    """The zone in which the PBX writes its times."""
    return ZoneInfo(cdr.timezone) if cdr.timezone else local_timezone()


def pbx_timezones(settings: Settings) -> dict[str, tzinfo]:
    """The zone of each PBX, by its name."""
    return {one.pbx.name: pbx_timezone(one.cdr) for one in settings.each()}


def common_timezone(settings: Settings) -> tzinfo:
    """The zone in which times are meant that are of no PBX: that of the first."""
    return pbx_timezone(settings.each()[0].cdr)


def local_timezone() -> tzinfo:
    """This machine's time zone, with its changes of the clock."""
    with suppress(OSError, ValueError), Path("/etc/localtime").open("rb") as file:
        return ZoneInfo.from_file(file, key="localtime")
    return UTC  # not by its name: a host without /etc/localtime may have no time zones at all
