"""What Prometheus reads at `/metrics`: what stands now, and what has been counted since the start.

No caller's number and no extension is in it. It must not know where the readings come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crmbridge import __version__
from crmbridge.calls.dialing import Code
from crmbridge.calls.events import Kind, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
"""Of the time from the PBX's event to the CRM's confirmation: a popup is of use for seconds."""

LAG_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
"""Of the time from an event's arrival to its being on disk: milliseconds, or something is wrong."""
LOOKUP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
ORIGINATE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

ORIGINATED = (None, Code.REFUSED, Code.NOT_CONNECTED, Code.UNKNOWN)
"""What the PBX may say to a click that is placed; None: it places it."""

CLAIM_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

FINAL = (State.CONFIRMED, State.REFUSED, State.EXPIRED, State.BY_PEER)


@dataclass(frozen=True, slots=True)
class PbxReadings:
    """What stands with one PBX."""

    ami_connected: bool
    ami_attempts: Mapping[str, int]
    ami_ends: Mapping[str, int]
    ami_events: Mapping[str, int]
    resyncs: int
    calls: int
    channels: int
    intake_waiting: int
    intake_lag_s: float
    intake_dropped: int
    records: int
    records_waiting: int
    records_lag_s: float
    cdr_source_up: bool


@dataclass(frozen=True, slots=True)
class Readings:
    """What stands at one moment, and what its owners have counted since the start."""

    waiting: int
    under_way: int
    oldest_s: float
    requests: int
    failed_requests: int
    crm_down: bool
    disk_refuses: bool
    disk_hangs: bool
    unstored: int
    call_list_up: bool
    clicks: int
    click_codes: Mapping[str, int]
    click_outcomes: Mapping[str, int]
    claims: Mapping[str, int]
    claims_up: bool
    log_lines: Mapping[str, int]
    log_lines_held_back: int
    pbxes: Mapping[str, PbxReadings]
    """By PBX."""


_GAUGES = {
    "waiting": ("callbacks_waiting", "Callbacks that wait for the CRM, those under way included."),
    "under_way": ("requests_under_way", "Requests to the CRM that wait for its answer."),
    "oldest_s": ("callback_oldest_seconds", "Age of the oldest callback that waits; 0 when none does."),
    "crm_down": ("crm_down", "1 while the CRM is taken for down and probed by one request at a time."),
    "disk_refuses": ("disk_refuses", "1 while the disk refuses the outbox and callbacks go on from memory."),
    "disk_hangs": ("disk_hangs", "1 while the disk is too slow and callbacks go on from memory."),
    "unstored": ("outbox_unstored_writes", "Writes that wait for the outbox's disk."),
    "call_list_up": ("call_list_up", "0 while the call list's database is away, as its last use found."),
    "claims_up": ("claims_up", "0 while claims are set and their database is away; callbacks are sent all the same."),
    "clicks": ("clicks_in_progress", "Clicks that are being placed, or whose call is not over."),
}
_PBX_GAUGES = {
    "ami_connected": ("ami_connected", "1 while there is a session with the PBX."),
    "calls": ("calls", "Calls from outside that are in progress."),
    "channels": ("channels", "Channels of the PBX that are followed."),
    "intake_waiting": ("intake_waiting_frames", "The PBX's events that wait to be worked off."),
    "intake_lag_s": ("intake_lag_seconds", "How long the oldest of these has waited."),
    "cdr_source_up": ("cdr_source_up", "0 while the database or file with the PBX's call records can't be read."),
    "records_waiting": ("call_records_waiting", "Call records that were told of and are not in the call list yet."),
    "records_lag_s": ("call_records_lag_seconds", "How long these, or all while a database is away, have waited."),
}
_COUNTERS = {
    "log_lines_held_back": ("log_lines_held_back", "Lines of the log that were only counted, since they repeated."),
    "requests": ("requests", "Requests to the CRM: attempts to deliver a callback."),
    "failed_requests": ("requests_failed", "Of these, those without an answer that ends the matter."),
}
_PBX_COUNTERS = {
    "records": ("call_records", "Call records taken up into the call list."),
    "resyncs": ("resyncs", "How often the PBX was asked for all channels anew because events were lost."),
    "intake_dropped": ("intake_dropped_frames", "The PBX's events thrown away because too many waited."),
}
_COUNTERS_BY = {
    "claims": ("claims", "result", "Claims on callbacks and clicks that were asked for, by what came of it."),
    "log_lines": ("log_lines", "level", "Lines of the log, those included that were held back."),
    "click_codes": ("clicks", "code", "Clicks that were answered, by the code of the answer."),
    "click_outcomes": ("click_ends", "outcome", "Clicks that were placed and have come to an end, by how."),
}
_PBX_COUNTERS_BY = {
    "ami_attempts": ("ami_attempts", "result", "Attempts to get a session with the PBX, by what came of them."),
    "ami_ends": ("ami_sessions_ended", "reason", "Sessions with the PBX that have ended, by why."),
    "ami_events": ("ami_events", "event", "The PBX's events that were read, by name."),
}


class Metrics(Collector):
    """The metrics of one bridge, in a registry of their own."""

    def __init__(self, read: Callable[[], Readings], pbxes: Iterable[str]) -> None:
        """`read` is called for each answer. `pbxes`: the names of all, so that what is counted begins with 0."""
        pbxes = tuple(pbxes)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client's
        self._read = read
        self._registry = CollectorRegistry()
        self._outcomes = Counter(
            "crmbridge_callbacks",
            "Callbacks that have come to an end, by PBX, operation and how.",
            ["pbx", "operation", "state"],
            registry=self._registry,
        )
        self._latency = self._histogram(
            "crmbridge_callback_confirmed_seconds",
            "From the PBX's event to the CRM's confirmation.",
            BUCKETS_S,
            "operation",
        )
        self._lag = self._histogram(
            "crmbridge_intake_delay_seconds",
            "From the arrival of the oldest event of a batch until the batch is worked off and on disk.",
            LAG_BUCKETS_S,
            "pbx",
        )
        self._lookups = self._histogram(
            "crmbridge_call_list_lookup_seconds", "Looking up a number's calls in the database.", LOOKUP_BUCKETS_S
        )
        self._originates = self._histogram(
            "crmbridge_originate_seconds",
            "From asking the PBX for a call to its answer, by the answer.",
            ORIGINATE_BUCKETS_S,
            *("pbx", "result"),
        )
        self._claims = self._histogram(
            "crmbridge_claim_seconds",
            "From asking for a claim on a callback or a click to the shared database's answer.",
            CLAIM_BUCKETS_S,
        )
        for kind in Kind:  # from the first answer on, so that an increase can be told
            self._latency.labels(kind.value)
            for pbx, state in product(pbxes, FINAL):
                self._outcomes.labels(pbx, kind.value, state.value)
        for pbx in pbxes:
            self._lag.labels(pbx)
            for code in ORIGINATED:
                self._originates.labels(pbx, _result(code))
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def _histogram(self, name: str, about: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, about, labels, buckets=buckets, registry=self._registry)

    def worked_off(self, pbx: str, waited_s: float) -> None:
        """A batch of the PBX's events is worked off; its oldest has waited so long."""
        self._lag.labels(pbx).observe(waited_s)

    def looked_up(self, seconds: float) -> None:
        """The call list has found a number's calls."""
        self._lookups.observe(seconds)

    def originated(self, pbx: str, code: Code | None, seconds: float) -> None:
        """The PBX was asked for a call, and this came of it."""
        self._originates.labels(pbx, _result(code)).observe(seconds)

    def claimed(self, seconds: float) -> None:
        """A claim was asked for, and this is how long the answer took."""
        self._claims.observe(seconds)

    def count(self, pbx: str, kind: Kind, state: State, age_s: float) -> None:
        """A callback has come to an end, so many seconds after the PBX's event."""
        self._outcomes.labels(pbx, kind.value, state.value).inc()
        if state is State.CONFIRMED:
            self._latency.labels(kind.value).observe(age_s)

    def collect(self) -> Iterator[Metric]:
        """What stands now."""
        info = GaugeMetricFamily("crmbridge_info", "Always 1; its label is the version.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        readings = self._read()
        for field, (name, about) in _GAUGES.items():
            yield GaugeMetricFamily(f"crmbridge_{name}", about, value=float(getattr(readings, field)))
        for field, (name, about) in _COUNTERS.items():
            yield CounterMetricFamily(f"crmbridge_{name}", about, value=float(getattr(readings, field)))
        for field, (name, label, about) in _COUNTERS_BY.items():
            family = CounterMetricFamily(f"crmbridge_{name}", about, labels=[label])
            for value, count in getattr(readings, field).items():
                family.add_metric([value], float(count))
            yield family
        yield from _of_pbxes(readings.pbxes)

    def describe(self) -> list[Metric]:
        """Nothing is read when this is registered: the parts that are read are not there yet."""
        return []

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


def _of_pbxes(pbxes: Mapping[str, PbxReadings]) -> Iterator[Metric]:
    """What stands with each PBX."""
    for kind, fields in ((GaugeMetricFamily, _PBX_GAUGES), (CounterMetricFamily, _PBX_COUNTERS)):
        for field, (name, about) in fields.items():
            family = kind(f"crmbridge_{name}", about, labels=["pbx"])
            for pbx, readings in pbxes.items():
                family.add_metric([pbx], float(getattr(readings, field)))
            yield family
    for field, (name, label, about) in _PBX_COUNTERS_BY.items():
        family = CounterMetricFamily(f"crmbridge_{name}", about, labels=["pbx", label])
        for pbx, readings in pbxes.items():
            for value, count in getattr(readings, field).items():
                family.add_metric([pbx, value], float(count))
        yield family


def _result(code: Code | None) -> str:
    return code.value if code is not None else "accepted"
