"""Who may ask: by address, and by HTTP Basic. Pure, and all that is compared in secret is compared in constant time.

The address is that of the socket. `X-Forwarded-For` counts only where the socket's own address is a trusted proxy's,
and then the last hop that is not itself a trusted proxy: what stands before that, anybody may have written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

CHALLENGE = 'Basic realm="crmbridge", charset="UTF-8"'

_PORT = re.compile(r"\[(?P<six>[^\]]+)\](?::\d+)?|(?P<four>[0-9.]+):\d+", re.ASCII)
_MAPPED_BITS = 96


class Access:
    """The rules of one installation."""

    def __init__(
        self,
        *,
        allow: Iterable[str],
        trusted_proxies: Iterable[str],
        username: str,
        password: str,
        credentials_as_parameters: bool = False,
    ) -> None:
        """`allow`, `trusted_proxies`: addresses or networks in CIDR form. Raises ValueError for one that is none."""
        self._allow = [network(text) for text in allow]
        self._proxies = [network(text) for text in trusted_proxies]
        self._username = _digest(username.encode())
        self._password = _digest(password.encode())
        self.credentials_as_parameters = credentials_as_parameters

    def client(self, peer: str | None, forwarded: Sequence[str]) -> Address | None:
        """Who asks: the socket's peer, or whom a trusted proxy names. None where that can't be told.

        `forwarded`: the values of all X-Forwarded-For headers, in order.
        """
        found = address(peer or "")
        if found is None or not _within(found, self._proxies):
            return found
        hops = [hop.strip() for hop in ",".join(forwarded).split(",")] if forwarded else []
        for hop in reversed(hops):
            found = address(hop)
            if found is None or not _within(found, self._proxies):
                return found
        return found

    def may_ask(self, client: Address | None) -> bool:
        """Whether this address is on the list."""
        return client is not None and _within(client, self._allow)

    def may_connect(self, peer: str | None) -> bool:
        """Whether a connection from here may lead to something: a client, a proxy or this machine itself."""
        found = address(peer or "")
        return found is not None and (found.is_loopback or _within(found, self._allow + self._proxies))

    def has_credentials(self, authorization: Sequence[str]) -> bool:
        """Whether these Authorization headers (there must be one) hold the right name and password."""
        if len(authorization) != 1:
            return False
        scheme, _, token = authorization[0].strip().partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            plain = base64.b64decode(token.strip().encode("ascii", "strict"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return False
        username, colon, password = plain.partition(b":")
        return self._are_right(username, password) and bool(colon)

    def are_credentials(self, usernames: Sequence[str], passwords: Sequence[str]) -> bool:
        """Whether these parameters, one of each, are the right name and password."""
        if len(usernames) != 1 or len(passwords) != 1:
            return False
        return self._are_right(usernames[0].encode(errors="replace"), passwords[0].encode(errors="replace"))

    def _are_right(self, username: bytes, password: bytes) -> bool:
        # Both are compared, always: the time must not tell which one was wrong.
        name_is_right = hmac.compare_digest(_digest(username), self._username)
        password_is_right = hmac.compare_digest(_digest(password), self._password)
        return name_is_right & password_is_right


def network(text: str) -> Network:
    """A network or a single address. IPv4 networks in IPv6 clothes are IPv4. Raises ValueError."""
    found = ip_network(text)
    if isinstance(found, IPv6Network) and found.prefixlen >= _MAPPED_BITS:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, found.prefixlen - _MAPPED_BITS))
    return found


def address(text: str) -> Address | None:
    """An address, also with a port or a zone (`fe80::1%eth0`), as sockets and proxies write it. None if it is none."""
    match = _PORT.fullmatch(text)
    if match:
        text = match["six"] or match["four"]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _within(one: Address, networks: Iterable[Network]) -> bool:
    return any(one in net for net in networks)


def _digest(secret: bytes) -> bytes:
    """Of one length whatever the secret's: compare_digest tells the length."""
    return hashlib.sha256(secret).digest()
