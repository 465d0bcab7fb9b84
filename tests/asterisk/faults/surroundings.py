"""Around a bridge whose CRM misbehaves: where things listen, who answers names, whose certificates are trusted.

As root all is in a network of its own, with a name server there; else on this machine's loopback, without names.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.asterisk.lab.network import Network

NAME_SERVER = ("127.0.0.53", 53)
NAME = "crm.test"
"""A top-level domain that is nobody's (RFC 6761)."""
_A = 1
_NO_SUCH_NAME = 3


class NameServer(asyncio.DatagramProtocol):
    """Knows the addresses of these names, and says nothing about the silent ones."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.silent: set[str] = set()
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name = _name(data)
        if name not in self.silent:
            self._transport.sendto(self._answer(data, self.addresses.get(name)), addr)

    def _answer(self, query: bytes, address: str | None) -> bytes:
        """RFC 1035, section 4: the question comes back, with a record of 1 s where there is one."""
        end = query.index(b"\0", 12) + 5
        (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
        record = b""
        if address is not None and kind == _A:
            record = struct.pack("!HHHIH", 0xC00C, _A, 1, 1, 4) + socket.inet_aton(address)
        code = _NO_SUCH_NAME if address is None else 0
        return query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, bool(record), 0, 0) + query[12:end] + record


def _name(query: bytes) -> str:
    """The name that is asked for: labels, each with its length before it."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower()


@dataclass
class Place:
    """Where a bridge and all that it speaks with live."""

    network: Network | None = None

    def bound(self, host: str, port: int) -> socket.socket:
        """A listening socket; without a network of our own, on any free port."""
        if self.network is not None:
            return self.network.bound((host, port))
        made = socket.create_server(("127.0.0.1", 0))
        made.settimeout(0)
        return made

    def again(self, address: tuple[str, int]) -> socket.socket:
        """A socket that listens where one listened before."""
        if self.network is not None:
            return self.network.bound(address)
        made = socket.create_server(address)
        made.settimeout(0)
        return made

    def command(self, *command: str, resolv_conf: Path | None = None) -> list[str]:
        """The command line that runs a command here, asking our name server."""
        if self.network is None:
            return list(command)
        if resolv_conf is None:
            return self.network.command(*command)
        # A mount namespace of its own, which ends with the command.
        script = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        return self.network.command("unshare", "--mount", "--", "sh", "-c", script, str(resolv_conf), *command)

    @asynccontextmanager
    async def name_server(self) -> AsyncIterator[NameServer]:
        """A name server; where there can be none, nobody asks it."""
        if self.network is None:
            yield NameServer()
            return
        sock = self.network.bound(NAME_SERVER, socket.SOCK_DGRAM)
        transport, server = await asyncio.get_running_loop().create_datagram_endpoint(NameServer, sock=sock)
        try:
            yield server
        finally:
            transport.close()


@dataclass(frozen=True)
class Certificates:
    """Of an authority that the bridge is made to trust (SSL_CERT_FILE)."""

    authority: Path
    right: ssl.SSLContext
    expired: ssl.SSLContext
    wrong_name: ssl.SSLContext


def certificates(folder: Path) -> Certificates:
    """Made anew, for the name and for any address in the cases."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    key, authority = folder / "ca.key", folder / "ca.crt"
    _openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=lab", "-keyout", str(key), "-out", str(authority))

    def context(name: str, alternative: str, days: int) -> ssl.SSLContext:
        own_key, request, certificate = (str(folder / f"{name}.{kind}") for kind in ("key", "csr", "crt"))
        alternative = f"subjectAltName={alternative}"
        _openssl("req", *curve, "-subj", f"/CN={name}", "-addext", alternative, "-keyout", own_key, "-out", request)
        signing = ("-CA", str(authority), "-CAkey", str(key), "-set_serial", str(len(name)), "-days", str(days))
        _openssl("x509", "-req", "-in", request, *signing, "-copy_extensions", "copy", "-out", certificate)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(certificate, own_key)
        return made

    here = "IP:127.0.0.1," + ",".join(f"IP:127.1.{number}.1" for number in range(1, 40))
    return Certificates(
        authority, context("right", here, 2), context("expired", here, -1), context("wrong-name", "DNS:other.test", 2)
    )


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
