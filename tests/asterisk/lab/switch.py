"""Machines, each with a network namespace and an address of its own, joined by a switch whose links can be cut.

The switch is a Linux bridge in one more namespace; nothing of it is seen on this host, and it ends with the process.
A link that is cut is silent: what is sent over it vanishes, in both directions, and nobody is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from tests.asterisk.lab.network import Network

_CUTTABLE = (
    "add table bridge lab; add set bridge lab cut { type ifname . ifname; }; "
    "add chain bridge lab forward { type filter hook forward priority 0; }; "
    "add rule bridge lab forward iifname . oifname @cut drop"
)


@dataclass(frozen=True)
class Machine:
    """One machine on the switch."""

    name: str
    address: str
    network: Network

    def __str__(self) -> str:
        return self.name


Link = tuple[Machine, Machine]


class Switch:
    """Joins machines. Needs root, and nftables."""

    def __init__(self) -> None:
        self._network = Network()
        self._machines: list[Machine] = []
        self._network.run("ip", "link", "add", "switch", "type", "bridge")
        self._network.run("ip", "link", "set", "switch", "up")
        self._network.run("nft", _CUTTABLE)

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in (*(machine.network for machine in self._machines), self._network):
            one.__exit__(kind, error, at)

    def join(self, name: str, address: str) -> Machine:
        """A new machine with this address (of a network of 24 bits) on its eth0; `name`: at most 15 characters."""
        machine = Machine(name, address, Network())
        self._machines.append(machine)
        self._network.run(
            *("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", machine.network.path)
        )
        self._network.run("ip", "link", "set", name, "master", "switch", "up")
        machine.network.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        machine.network.run("ip", "link", "set", "eth0", "up")
        return machine

    def cut(self, links: Iterable[Link]) -> None:
        """Let nothing through between any of these pairs."""
        self._change("add", links)

    def mend(self, links: Iterable[Link]) -> None:
        """Let all through again."""
        self._change("delete", links)

    def between(self, some: Iterable[Machine]) -> list[Link]:
        """The links between these machines and all others."""
        inside = list(some)
        return [(one, other) for one in inside for other in self._machines if other not in inside]

    def _change(self, verb: str, links: Iterable[Link]) -> None:
        pairs = [pair for one, other in links for pair in ((one, other), (other, one))]
        elements = ", ".join(f'"{one}" . "{other}"' for one, other in pairs)
        self._network.run("nft", f"{verb} element bridge lab cut {{ {elements} }}")
