"""Who may ask: by address, and by HTTP Basic. Pure, and all that is compared in secret is compared in constant time.

The address is that of the socket. `X-Forwarded-For` counts only where the socket's own address is a trusted proxy's,
and then the last hop that is not itself a trusted proxy: what stands before that, anybody may have written.

There may be several accounts: those of the settings' `[http]`, and those of single clients of the CRM, which open
nothing but what is that client's, from addresses of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

CHALLENGE = 'Basic realm="crmbridge", charset="UTF-8"'

_PORT = re.compile(r"\[(?P<six>[^\]]+)\](?::\d+)?|(?P<four>[0-9.]+):\d+", re.ASCII)
_MAPPED_BITS = 96


@dataclass(frozen=True, slots=True)
class Account:
    """A name and a password, from where they are taken, and for whom one may ask with them."""

    username: str
    password: str = field(repr=False)
    allow: Sequence[str]
    """Addresses or networks in CIDR form."""
    client_ids: frozenset[str] | None = None
    """Clients of the CRM; None: every one."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What somebody who is let in may ask for."""

    client_ids: frozenset[str] | None
    """Clients of the CRM; None: every one."""

    def is_for(self, client_id: str) -> bool:
        """Whether they may ask for this client."""
        return self.client_ids is None or client_id in self.client_ids


class Denied(StrEnum):
    """Why somebody is not let in, for the log: who asks is told the same for all."""

    NOT_GIVEN = "no credentials were sent"
    WRONG = "wrong user or password"
    ELSEWHERE = "right user and password, but not from this address"


class Access:
    """The rules of one installation."""

    def __init__(
        self,
        accounts: Iterable[Account],
        *,
        trusted_proxies: Iterable[str] = (),
        links_from: Iterable[str] = (),
        credentials_as_parameters: bool = False,
    ) -> None:
        """`trusted_proxies`, `links_from`: addresses or networks in CIDR form. Raises ValueError for one that is none.

        `links_from`: from where signed links are followed, too, and nothing else is.
        """
        self._keys = [_Key(account) for account in accounts]
        self._allow = [net for key in self._keys for net in key.allow]
        self._proxies = [network(text) for text in trusted_proxies]
        self._links_from = [network(text) for text in links_from]
        self.credentials_as_parameters = credentials_as_parameters

    def follow(self, other: Access) -> None:
        """Let in whom the other one lets in, from now on, and nobody else."""
        vars(self).update(vars(other))

    def client(self, peer: str | None, forwarded: Sequence[str]) -> Address | None:
        """Who asks: the socket's peer, or whom a trusted proxy names. None where that can't be told.

        `forwarded`: the values of all X-Forwarded-For headers, in order. A proxy that names nobody but proxies is not
        who asks: were it on the list by mistake (this machine is, by default), it would let in the whole world.
        """
        found = address(peer or "")
        if found is None or not _within(found, self._proxies):
            return found
        hops = [hop.strip() for hop in ",".join(forwarded).split(",")] if forwarded else []
        for hop in reversed(hops):
            found = address(hop)
            if found is None or not _within(found, self._proxies):
                return found
        return None

    def may_ask(self, client: Address | None) -> bool:
        """Whether this address is on a list."""
        return client is not None and _within(client, self._allow)

    def may_follow(self, client: Address | None) -> bool:
        """Whether a signed link is followed from this address."""
        return self.may_ask(client) or (client is not None and _within(client, self._links_from))

    def may_connect(self, peer: str | None) -> bool:
        """Whether a connection from here may lead to something: a client, a proxy or this machine itself."""
        found = address(peer or "")
        return found is not None and (found.is_loopback or _within(found, self._allow + self._proxies))

    def may_connect_for_links(self, peer: str | None) -> bool:
        """Whether a connection from here may lead to a recording at least."""
        return self.may_follow(address(peer or ""))

    def login(
        self,
        client: Address | None,
        authorization: Sequence[str],
        usernames: Sequence[str] = (),
        passwords: Sequence[str] = (),
    ) -> Grant | Denied:
        """What opens from this address by the Authorization headers; where there are none, by parameters.

        There must be one of each that is there.
        """
        if authorization:
            return self._by_header(client, authorization)
        if self.credentials_as_parameters and (usernames or passwords):
            return self._by_parameters(client, usernames, passwords)
        return Denied.NOT_GIVEN

    def _by_header(self, client: Address | None, authorization: Sequence[str]) -> Grant | Denied:
        scheme, _, token = authorization[0].strip().partition(" ")
        try:
            plain = base64.b64decode(token.strip().encode("ascii", "strict"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return Denied.WRONG
        username, colon, password = plain.partition(b":")
        if len(authorization) != 1 or scheme.lower() != "basic" or not colon:
            return Denied.WRONG
        return self._grant(client, username, password)

    def _by_parameters(
        self, client: Address | None, usernames: Sequence[str], passwords: Sequence[str]
    ) -> Grant | Denied:
        if len(usernames) != 1 or len(passwords) != 1:
            return Denied.WRONG
        return self._grant(client, usernames[0].encode(errors="replace"), passwords[0].encode(errors="replace"))

    def _grant(self, client: Address | None, username: bytes, password: bytes) -> Grant | Denied:
        # All are compared, always: the time must not tell which one was wrong, or for whom it was nearly right.
        right = [key for key in self._keys if key.is_opened_by(username, password)]
        here = [key.client_ids for key in right if client is not None and _within(client, key.allow)]
        if not here:
            return Denied.ELSEWHERE if right else Denied.WRONG
        return Grant(None if None in here else frozenset().union(*(ids for ids in here if ids)))


class _Key:
    """An account, made ready for comparing."""

    __slots__ = ("_password", "_username", "allow", "client_ids")

    def __init__(self, account: Account) -> None:
        self.allow = [network(text) for text in account.allow]
        self.client_ids = account.client_ids
        self._username = _digest(account.username.encode())
        self._password = _digest(account.password.encode())

    def is_opened_by(self, username: bytes, password: bytes) -> bool:
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
