"""How the bridge stands, as its parts tell: for the service manager, for who asks whether it is ready, for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crmbridge import log
from crmbridge.clicks import Clicks
from crmbridge.crm.sender import Sender
from crmbridge.exchange import Exchange
from crmbridge.liveness import status
from crmbridge.records import Behind
from crmbridge.store.claims import Claims
from crmbridge.store.outbox import Outbox
from crmbridge.web.call_list import CallListing
from crmbridge.web.metrics import PbxReadings, Readings


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one bridge."""

    exchanges: Sequence[Exchange]
    clicks: Clicks
    listing: CallListing
    outbox: Outbox
    sender: Sender
    names_pbxes: bool
    claims: Claims | None = None

    def line(self, *, reload_refused: bool) -> str:
        """For `systemctl status`."""
        stats = self.sender.stats()
        troubles = {
            "CRM does not answer": stats.crm_down,
            "disk refuses the outbox": self.outbox.disk_refuses,
            "disk hangs": self.outbox.disk_hangs,
            "claims can't be had": self.claims is not None and self.claims.trouble is not None,
            "new settings refused": reload_refused,
        }
        return status(
            connected=[one.ami.connected for one in self.exchanges],
            calls=sum(one.tracker.calls for one in self.exchanges),
            waiting=stats.waiting,
            troubles=[trouble for trouble, there in troubles.items() if there],
        )

    @property
    def works(self) -> bool:
        """Whether the bridge is of use to who asks: one PBX is there at least, and the disk takes what is told."""
        connected = any(one.ami.connected for one in self.exchanges)
        return connected and not (self.outbox.disk_refuses or self.outbox.disk_hangs)

    def troubles(self) -> list[str]:
        """What the bridge can't do at present."""
        disk = {
            "the disk refuses the outbox; callbacks go on from memory": self.outbox.disk_refuses,
            "the disk hangs; callbacks go on from memory": self.outbox.disk_hangs,
        }
        away = [self._away(one) for one in self.exchanges if not one.ami.connected]
        claims = self.claims.trouble if self.claims is not None else None
        shared = [f"no claims, so that some callbacks are told twice: {claims}"] if claims is not None else []
        return [*away, *(trouble for trouble, there in disk.items() if there), *shared]

    def _away(self, one: Exchange) -> str:
        which = f"the PBX {one.pbx}" if self.names_pbxes else "the PBX"
        return f"no AMI session with {which}: {one.ami.trouble}"

    def readings(self) -> Readings:
        """For metrics."""
        sender, outbox = self.sender.stats(), self.outbox
        behind = {one.pbx: one.records.behind() for one in self.exchanges}
        return Readings(
            waiting=sender.waiting,
            under_way=sender.under_way,
            oldest_s=sender.oldest_s,
            requests=sender.requests,
            failed_requests=sender.failures,
            crm_down=sender.crm_down,
            disk_refuses=outbox.disk_refuses,
            disk_hangs=outbox.disk_hangs,
            unstored=outbox.unstored,
            call_list_up=not (self.listing.is_away or any(one.store_away for one in behind.values())),
            clicks=self.clicks.in_progress,
            click_codes=self.clicks.codes(),
            click_outcomes=self.clicks.outcomes(),
            claims=self.claims.counts if self.claims is not None else {},
            claims_up=self.claims is None or self.claims.trouble is None,
            log_lines=log.counts,
            log_lines_held_back=log.held_back(),
            pbxes={one.pbx: _readings(one, behind[one.pbx]) for one in self.exchanges},
        )


def _readings(one: Exchange, behind: Behind) -> PbxReadings:
    ami, intake = one.ami, one.intake
    return PbxReadings(
        ami_connected=ami.connected,
        ami_attempts=ami.counts.attempts,
        ami_ends=ami.counts.ends,
        ami_events=ami.counts.events,
        resyncs=ami.counts.resyncs,
        calls=one.tracker.calls,
        channels=len(one.tracker),
        intake_waiting=intake.waiting,
        intake_lag_s=intake.lag_s,
        intake_dropped=intake.dropped,
        records=behind.taken_up,
        records_waiting=behind.waiting,
        records_lag_s=behind.lag_s,
        cdr_source_up=not behind.source_away,
    )
