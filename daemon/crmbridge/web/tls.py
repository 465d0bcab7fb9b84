"""TLS on our own endpoint: a certificate and its key are tried out on themselves before anybody meets them.

The handshake comes before HTTP and before anything is known but the address, so connections count from the first byte
of it (`Doorway`): otherwise anybody could hold all file descriptors of the bridge by saying nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

log = structlog.get_logger("crmbridge.http")

HANDSHAKE_S = 10.0
"""How long a client may take to agree on TLS."""
CLOSE_S = 2.0
"""How long we wait for the other end's goodbye."""

_STEPS = 10
"""More than a handshake has."""
_EXPIRED, _NOT_YET_VALID = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID (openssl/x509_vfy.h)."""


class TlsError(Exception):
    """A certificate or key that can't be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and key that fit and are valid."""

    context: ssl.SSLContext
    until: datetime
    names: tuple[str, ...]
    """Names and addresses that it is for."""


def load(cert: Path, key: Path) -> Certificate:
    """Read a PEM certificate (its chain behind it) and its key. Raises TlsError."""
    _check_readable(cert, "http.tls_cert")
    _check_readable(key, "http.tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise TlsError(_why_unusable(error, cert, key)) from None
    shown = _shown_to_itself(context, cert)
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
    names = tuple(str(one[1]) for one in shown.get("subjectAltName", ()))
    return Certificate(context, until, names)


def _check_readable(file: Path, setting: str) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        advice = "" if not isinstance(error, PermissionError) else (
            "; the daemon's user must be able to, or systemd hands it over: "
            f"LoadCredential={setting}:{file} in the unit, and no {setting} in the settings"
        )  # fmt: skip
        raise TlsError(f"{setting} = {str(file)!r} can't be read: {error.strerror}{advice}") from None


def _no_passphrase() -> str:
    raise TlsError("http.tls_key has a passphrase, and nobody is there to type it: store the key without")


def _why_unusable(error: ssl.SSLError, cert: Path, key: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"http.tls_key {str(key)!r} is not the key of the certificate http.tls_cert {str(cert)!r}"
    if error.reason in ("NO_START_LINE", "PEM_LIB") or error.reason is None:
        what = "-----BEGIN CERTIFICATE-----, and the key with -----BEGIN PRIVATE KEY-----"
        return (
            f"http.tls_cert {str(cert)!r} or http.tls_key {str(key)!r} is not PEM: the certificate begins with {what}"
        )
    return f"http.tls_cert {str(cert)!r} with http.tls_key {str(key)!r} can't be used: {error.reason}"


def _shown_to_itself(context: ssl.SSLContext, cert: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    """What a client that trusts this certificate, and nothing else, sees of it in a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = context.wrap_bio(to_server, to_client, server_side=True)
    there = client.wrap_bio(to_client, to_server)
    try:
        for _ in range(_STEPS):
            for side in (there, here):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        return there.getpeercert() or {}  # type: ignore[return-value]  # a verified one is such a dict
    except ssl.SSLCertVerificationError as error:
        advice = {
            _EXPIRED: "has expired: renew it, then start crmbridge again",
            _NOT_YET_VALID: "is not valid yet: is this machine's clock right?",
        }
        why = advice.get(error.verify_code, f"is not accepted by clients: {error.verify_message}")
        raise TlsError(f"http.tls_cert {str(cert)!r} {why}") from None
    except ssl.SSLError as error:
        raise TlsError(f"http.tls_cert {str(cert)!r} can't be used: {error.reason}") from None


class Doorway(asyncio.Protocol):
    """A connection on which TLS is being agreed on, and which is then handed to the protocol of HTTP."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        admit: Callable[[Doorway, str | None], bool],
        leave: Callable[[Doorway], None],
        inside: Callable[[], asyncio.Protocol],
    ) -> None:
        """`admit`: whether there is room for it; `leave`: it needs none any more; `inside`: makes what comes next."""
        self._context = context
        self._admit = admit
        self._leave = leave
        self._inside = inside
        self._early = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is at the door."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else None
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"{transport!r} is no stream")
        if self._admit(self, address):
            self._task = asyncio.get_running_loop().create_task(self._agree(transport, address))
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """What was sent along with the end of the handshake."""
        self._early += data

    def close(self) -> None:
        """The server stops."""
        if self._task is not None:
            self._task.cancel()

    async def _agree(self, transport: asyncio.Transport, address: str | None) -> None:
        try:
            safe = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=CLOSE_S,
            )
        except OSError as error:
            # Scanners do that all day long, and so does who writes http:// for https://.
            log.info("http.tls_failed", address=address, reason=getattr(error, "reason", None) or str(error))
            return
        finally:
            self._leave(self)
        if safe is None:  # gone in the very moment
            return
        protocol = self._inside()
        safe.set_protocol(protocol)
        protocol.connection_made(safe)
        if self._early:
            protocol.data_received(self._early)
