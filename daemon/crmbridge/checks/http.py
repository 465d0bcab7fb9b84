"""HTTP in both directions: the CRM's address, and our own, at which the CRM asks."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address, ip_network

import aiohttp

from crmbridge import build
from crmbridge.checks.link import Link, broken, good, judged, some, weak
from crmbridge.config import Settings
from crmbridge.web import tls
from crmbridge.web.server import host_and_port

CRM, DIALER, TLS = "CRM", "dialer", "TLS"

_SHORTEST_PASSWORD = 12
_Info = tuple[int, int, int, str, tuple[object, ...]]


async def crm(settings: Settings) -> tuple[Link, float | None]:
    """Ask the CRM's address for nothing: any HTTP answer shows that it is there.

    With by how many seconds its clock is ahead of ours, where it says what time it is.
    """
    url = str(settings.crm.url)
    try:
        timeout = aiohttp.ClientTimeout(total=settings.crm.timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            status, target = answer.status, answer.headers.get("Location", "")
            ahead_s = _ahead_s(answer.headers.get("Date", ""))
    except ssl.SSLError as error:
        return broken(CRM, f"{url}: its certificate is not accepted ({error})"), None
    except TimeoutError:
        return broken(CRM, f"{url}: no answer within {settings.crm.timeout_s:g} s"), None
    except (aiohttp.ClientError, OSError) as error:
        return broken(CRM, f"{url}: {error}; check crm.url, DNS and the firewall"), None
    return _judged(settings, status, target), ahead_s


def _judged(settings: Settings, status: int, target: str) -> Link:
    url = str(settings.crm.url)
    if 300 <= status < 400:
        return broken(CRM, f"{url} redirects to {target}: set crm.url to the new address")
    if status == 404 or status >= 500:
        return broken(CRM, f"{url} answers HTTP {status}: check crm.url, ask the CRM's people")
    if settings.crm.url.scheme == "http" and not _is_near(settings.crm.url.host or ""):
        return weak(CRM, f"{url} answers (HTTP {status}), but callers' numbers go there unencrypted: use https")
    return good(CRM, f"{url} answers (HTTP {status})")


def _ahead_s(date: str) -> float | None:
    with suppress(ValueError):
        told = parsedate_to_datetime(date)
        return told.timestamp() - datetime.now(UTC).timestamp() if told.tzinfo else None
    return None


def _is_near(host: str) -> bool:
    """Whether what is sent there does not leave one's own network."""
    with suppress(ValueError):
        return ip_address(host.strip("[]")).is_private
    return host == "localhost"


def dialer(settings: Settings) -> Link:
    """Either our daemon listens there, or it could; and whether the CRM could reach it, and may."""
    listening = _listening(settings)
    if not listening.ok:
        return listening
    faults, remarks = _who_may(settings)
    return judged(DIALER, listening.found, faults=faults, remarks=remarks)


def _listening(settings: Settings) -> Link:
    host, port = host_and_port(settings.http.listen)
    where = settings.http.listen
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        return broken(DIALER, f"http.listen {where}: {error.strerror}; set it to an address of this machine")
    with socket.socket(info[0], info[1]) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(info[4])
        except OSError as error:
            if _answers(info):
                return good(DIALER, f"{where} is in use: by crmbridge itself if it runs (see {where}/healthz)")
            mend = "set http.listen to an address of this machine (ip address) and a port that this user may have"
            return broken(DIALER, f"{where}: {error.strerror}; {mend}")
    return good(DIALER, f"{where} is free; crmbridge does not run yet")


def _who_may(settings: Settings) -> tuple[list[str], list[str]]:
    http = settings.http
    accounts = build.accounts(settings)
    allowed = [ip_network(one, strict=False) for account in accounts for one in account.allow]
    faults, remarks = [], []
    if not allowed:
        faults.append("http.allow is empty, so nobody may ask: set it to the CRM's addresses")
    host = host_and_port(http.listen)[0]
    only_here = _is_loopback(host)
    away = [str(one) for one in allowed if not one.is_loopback]
    if only_here and away and not http.trusted_proxies:
        remarks.append(
            f"http.listen {http.listen} can be reached from this machine only, but http.allow names"
            f" {some(away, 3)}: set http.listen to the PBX's address, or name the reverse proxy in http.trusted_proxies"
        )
    if wide := [str(one) for one in allowed if one.prefixlen == 0]:
        remarks.append(f"http.allow lets anybody ask ({some(wide)}): name the CRM's addresses alone")
    if away and not only_here and http.tls_cert is None and any(not _is_private(one) for one in away):
        remarks.append("the password comes unencrypted over the internet: set http.tls_cert and http.tls_key")
    remarks += [
        f"the password of {account.username} is too easy to guess, and it guards your phone bill: take one of 16"
        " characters or more (openssl rand -hex 16)"
        for account in accounts
        if account.password == account.username
        or len(account.password) < _SHORTEST_PASSWORD
        or len(set(account.password)) < _SHORTEST_PASSWORD // 3
    ]
    return faults, remarks


def _is_private(net: str) -> bool:
    return ip_network(net).is_private


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def certificate(settings: Settings) -> list[Link]:
    """The one that our endpoint shows, if it does TLS itself."""
    cert, key = settings.http.tls_cert, settings.http.tls_key
    if cert is None or key is None:
        return []
    try:
        found = tls.load(cert, key)
    except tls.TlsError as error:
        return [broken(TLS, str(error))]
    left = found.until - datetime.now(UTC)
    text = f"certificate for {', '.join(found.names) or 'no name'} until {found.until:%Y-%m-%d}, {left.days} days left"
    if not found.names:
        return [broken(TLS, f"{text}: make one with a name (subjectAltName) by which the CRM asks")]
    if left <= build.CERTIFICATE_ENDS_SOON:
        return [broken(TLS, f"{text}: renew it, then `systemctl reload crmbridge`")]
    return [good(TLS, text)]


def _answers(info: _Info) -> bool:
    with socket.socket(info[0], info[1]) as probe:
        probe.settimeout(2)
        return probe.connect_ex(info[4]) == 0
