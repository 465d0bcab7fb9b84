"""How the bridge stands, as its parts tell: for the service manager, for who asks whether it is ready, for metrics."""

from __future__ import annotations

from dataclasses import dataclass

from crmbridge import log
from crmbridge.calls.tracker import Tracker
from crmbridge.clicks import Clicks
from crmbridge.crm.sender import Sender
from crmbridge.intake import Intake
from crmbridge.liveness import status
from crmbridge.pbx.ami import Ami
from crmbridge.records import Source
from crmbridge.store.claims import Claims
from crmbridge.store.outbox import Outbox
from crmbridge.web.call_list import CallListing
from crmbridge.web.metrics import Readings


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one bridge."""

    ami: Ami
    clicks: Clicks
    intake: Intake
    listing: CallListing
    outbox: Outbox
    records: Source
    sender: Sender
    tracker: Tracker
    claims: Claims | None = None

    def line(self, *, reload_refused: bool) -> str:
        """For `systemctl status`."""
        stats = self.sender.stats()
        troubles = {
            "CRM does not answer": stats.crm_down,
            "disk refuses the outbox": self.outbox.disk_refuses,
            "disk hangs": self.outbox.disk_hangs,
            "claims can't be had": bool(self.remarks()),
            "new settings refused": reload_refused,
        }
        return status(
            connected=self.ami.connected,
            calls=self.tracker.calls,
            waiting=stats.waiting,
            troubles=[trouble for trouble, there in troubles.items() if there],
        )

    def troubles(self) -> list[str]:
        """Why the bridge can't do its work at present."""
        troubles = {
            f"no AMI session with the PBX: {self.ami.trouble}": not self.ami.connected,
            "the disk refuses the outbox; callbacks go on from memory": self.outbox.disk_refuses,
            "the disk hangs; callbacks go on from memory": self.outbox.disk_hangs,
        }
        return [trouble for trouble, there in troubles.items() if there]

    def remarks(self) -> list[str]:
        """What is wrong and keeps it from nothing."""
        if self.claims is None or self.claims.trouble is None:
            return []
        return [f"no claims, so that some callbacks are told twice: {self.claims.trouble}"]

    def readings(self) -> Readings:
        """For metrics."""
        sender, outbox, intake, ami = self.sender.stats(), self.outbox, self.intake, self.ami
        behind = self.records.behind()
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
            ami_connected=ami.connected,
            ami_attempts=ami.counts.attempts,
            ami_ends=ami.counts.ends,
            ami_events=ami.counts.events,
            resyncs=ami.counts.resyncs,
            calls=self.tracker.calls,
            channels=len(self.tracker),
            intake_waiting=intake.waiting,
            intake_lag_s=intake.lag_s,
            intake_dropped=intake.dropped,
            call_list_up=not (self.listing.is_away or behind.store_away),
            records=behind.taken_up,
            records_waiting=behind.waiting,
            records_lag_s=behind.lag_s,
            cdr_source_up=not behind.source_away,
            clicks=self.clicks.in_progress,
            click_codes=self.clicks.codes(),
            click_outcomes=self.clicks.outcomes(),
            claims=self.claims.counts if self.claims is not None else {},
            claims_up=self.claims is None or self.claims.trouble is None,
            log_lines=log.counts,
            log_lines_held_back=log.held_back(),
        )
