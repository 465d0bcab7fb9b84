"""Who rings for, and who talks with, an outside caller: what the CRM is told, once. Pure.

It looks at legs, dials and bridges as they are at this moment (`legs`) and must not know which events brought them
there, which is the tracker's business.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from crmbridge.calls.channels import LOCAL
from crmbridge.calls.clients import Clients
from crmbridge.calls.debatable import Debatable
from crmbridge.calls.events import CallEvent, Kind
from crmbridge.calls.legs import Inbound, Leg, Legs
from crmbridge.calls.phases import Phase


class Telling:
    """Asks of a leg whether it is news, and collects the news of one event."""

    def __init__(
        self, *, pbx: str, legs: Legs, clients: Clients, caller: Callable[[str], str], debatable: Debatable
    ) -> None:
        """`caller` turns a caller's number as it came into the one that the CRM gets."""
        self._pbx = pbx
        self._legs = legs
        self._clients = clients
        self._caller = caller
        self._debatable = debatable
        self._unexplained: dict[str, Leg] = {}
        """Phones that ring for a reason not seen yet: the dial above theirs is still to come."""
        self.at: datetime
        """When the event was read of which is told, aware UTC."""
        self.told: list[CallEvent] = []
        """What is told because of it gets in here, in order."""

    def rings(self, leg: Leg) -> None:
        """A phone rings: for an outside caller?"""
        if leg.extension is None:
            return
        origin = self._legs.origin(leg)
        if origin is None or origin.name.technology == LOCAL:
            self._rings_behind(origin, leg, leg.extension)
            return
        self.rings_no_more(leg.uniqueid)
        if origin.inbound is not None:
            self._tell(Kind.RING, origin, origin.inbound, leg, leg.extension)
        elif self._debatable.consult_ring and origin.extension is not None:
            self._consults(origin, leg, leg.extension)

    def rings_no_more(self, uniqueid: str) -> None:
        """A leg has stopped ringing, or is gone."""
        self._unexplained.pop(uniqueid, None)

    def look_again(self) -> None:
        """Something has changed: is it why a phone rings that rang for a reason not known?"""
        for leg in list(self._unexplained.values()):
            self.rings(leg)

    def talks(self, leg: Leg) -> None:
        """A leg joined others: does an extension hear an outside caller now?"""
        group = self._legs.hearing(leg)
        for root in group:
            if root.inbound is None:
                continue
            for phone in group:
                if phone.extension is not None:
                    self._tell(Kind.ANSWER, root, root.inbound, phone, phone.extension)

    def dialed_outside(self, leg: Leg, dial_string: str) -> None:
        """A dial that leads to no phone of ours: to an agent's mobile, or to a customer who may be handed over?"""
        number = self._caller(dial_string.partition("@")[0].rpartition("/")[2])
        leg.extension = self._debatable.mobiles.get(number)
        agent = self._legs.origin(leg)
        if self._debatable.handed_over and leg.extension is None and agent is not None and agent.extension is not None:
            # From here on as if the customer had called, and whoever dialed had been told.
            leg.inbound = Inbound(did="", number=number, told={(kind, agent.extension) for kind in Kind})

    def settle_number(self, root: Leg, inbound: Inbound) -> str:
        """The caller's number as the CRM gets it, from now on the same for the whole call."""
        if inbound.number is None:
            inbound.number = self._caller(root.caller_id_num)
        return inbound.number

    def _rings_behind(self, local: Leg | None, phone: Leg, extension: str) -> None:
        """A phone rings behind a Local that nobody is known to have dialed: who hears that it rings?"""
        audible = self._legs.hearing(local) if local is not None and phone.phase is Phase.RINGING else []
        callers = [root for root in audible if root.inbound is not None]
        for root in callers:
            if root.inbound is not None:
                self._tell(Kind.RING, root, root.inbound, phone, extension)
        if callers:
            self.rings_no_more(phone.uniqueid)
        else:
            self._unexplained[phone.uniqueid] = phone

    def _consults(self, origin: Leg, phone: Leg, extension: str) -> None:
        """A phone rings for a colleague: does that colleague have a caller on hold?"""
        for leg in self._legs:
            if leg.extension == origin.extension and leg.bridge is not None:
                for root in self._legs.hearing(leg):
                    if root.inbound is not None:
                        self._tell(Kind.RING, root, root.inbound, phone, extension)

    def _tell(self, kind: Kind, root: Leg, inbound: Inbound, phone: Leg, extension: str) -> None:
        again = kind is Kind.RING and self._is_another_ring(inbound, phone, extension)
        if (kind, extension) in inbound.told and not again:
            return
        inbound.told.add((kind, extension))
        inbound.rings_again += again
        if inbound.client_id is None:
            inbound.client_id = self._clients.of_call(did=inbound.did, trunk=root.name.endpoint, extension=extension)
        self.told.append(
            CallEvent(
                kind=kind,
                pbx=self._pbx,
                call=f"{root.uniqueid}#{inbound.rings_again + 1}" if again else root.uniqueid,
                extension=extension,
                number=self.settle_number(root, inbound),
                client_id=inbound.client_id,
                at=self.at,
                linkedid=root.linkedid,
                uniqueid=phone.uniqueid,
            )
        )

    def _is_another_ring(self, inbound: Inbound, phone: Leg, extension: str) -> bool:
        """Whether the extension rings anew for a caller it rang for before, and not on a second device."""
        last, inbound.rang[extension] = inbound.rang.get(extension), phone.uniqueid
        return self._debatable.ring_again and last not in (None, phone.uniqueid) and self._legs.get(last or "") is None
