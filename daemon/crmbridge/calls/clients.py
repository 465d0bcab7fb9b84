"""Which of the CRM's clients a call belongs to, where several share one PBX. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Client:
    """One client of the CRM and what on the PBX is theirs."""

    client_id: str
    dids: frozenset[str] = frozenset()
    extensions: frozenset[str] = frozenset()
    trunks: frozenset[str] = frozenset()


class Clients:
    """Finds the ClientId of a call. The called number tells most, then the trunk, then the extension."""

    def __init__(self, default: str, clients: Iterable[Client] = ()) -> None:
        self.replace(default, clients)

    def replace(self, default: str, clients: Iterable[Client]) -> None:
        """Know these from now on. A call that has its ClientId keeps it."""
        self._default = default
        self._by_did: dict[str, str] = {}
        self._by_trunk: dict[str, str] = {}
        self._by_extension: dict[str, str] = {}
        for client in clients:
            self._by_did.update(dict.fromkeys(client.dids, client.client_id))
            self._by_trunk.update(dict.fromkeys(client.trunks, client.client_id))
            self._by_extension.update(dict.fromkeys(client.extensions, client.client_id))

    @property
    def ids(self) -> frozenset[str]:
        """Every ClientId that may come with a request from the CRM."""
        tables = (self._by_did, self._by_trunk, self._by_extension)
        return frozenset({self._default}.union(*(table.values() for table in tables)))

    def of_call(self, *, did: str, trunk: str, extension: str) -> str:
        """The ClientId of an inbound call that first rings `extension`. Ask once per call and keep the answer."""
        return self._by_did.get(did) or self._by_trunk.get(trunk) or self._by_extension.get(extension) or self._default

    def lists(self, client_id: str, extension: str) -> bool:
        """Whether an entry of this client names the extension."""
        return self._by_extension.get(extension) == client_id

    def owns(self, client_id: str, extension: str) -> bool:
        """Whether a click by this client may ring this extension.

        An extension that some client lists is theirs alone; one that nobody lists is the default client's.
        """
        return self._by_extension.get(extension, self._default) == client_id
