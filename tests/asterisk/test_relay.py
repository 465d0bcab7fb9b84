"""The relay that stands for a network in trouble: what each of its faults is on the wire."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.asterisk.faults.relay import Relay, relaying
from tests.asterisk.lab.network import Network

pytestmark = pytest.mark.needs("namespaces")

LISTEN, TARGET = ("127.0.0.1", 15038), ("127.0.0.1", 5038)
ESTABLISHED = 1  # include/net/tcp_states.h


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@asynccontextmanager
async def linked(network: Network) -> AsyncIterator[tuple[Relay, socket.socket, socket.socket]]:
    """A relay, and both ends of a connection through it."""
    loop = asyncio.get_running_loop()
    with network.bound(TARGET) as target:
        async with asyncio.timeout(20), relaying(network, LISTEN, TARGET) as relay:
            with network.connected(LISTEN) as near:
                far, _ = await loop.sock_accept(target)
                await relay.linked()
                with far:
                    yield relay, near, far


async def sent(far: socket.socket, near: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(far, data)
    came = b""
    while len(came) < len(data):
        came += await loop.sock_recv(near, len(data) - len(came))
    return came


async def test_frozen_means_that_neither_bytes_nor_an_end_pass(network: Network) -> None:
    loop = asyncio.get_running_loop()
    async with linked(network) as (relay, near, far):
        assert await sent(far, near, b"one") == b"one"
        assert await sent(near, far, b"two") == b"two"
        relay.freeze()
        await loop.sock_sendall(far, b"three")
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(TimeoutError):  # nothing is to come: only waiting shows that
            async with asyncio.timeout(0.3):
                await loop.sock_recv(near, 1)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED, "no FIN has come"
        relay.thaw()
        assert await loop.sock_recv(near, 100) == b"three"
        assert await loop.sock_recv(near, 100) == b""


async def test_a_cut_is_a_reset_on_both_sides(network: Network) -> None:
    loop = asyncio.get_running_loop()
    async with linked(network) as (relay, near, far):
        relay.reset()
        for end in (near, far):
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(end, 1)


async def test_a_trickle_loses_nothing(network: Network) -> None:
    data = bytes(range(256)) * 2
    async with linked(network) as (relay, near, far):
        relay.trickle(slow=True)
        assert await sent(far, near, data) == data
        relay.trickle(slow=False)
        assert await sent(near, far, data) == data


async def test_what_the_bridge_was_given_is_what_it_could_see(network: Network) -> None:
    loop = asyncio.get_running_loop()
    async with linked(network) as (relay, near, far):
        listed = b"Event: CoreShowChannelsComplete\r\n\r\n"
        assert await sent(far, near, listed) == listed
        await relay.listed()
        since = loop.time()
        relay.freeze()
        await loop.sock_sendall(far, b"unseen")
        await asyncio.sleep(0.05)
        relay.reset()
        ((start, end),) = relay.sight(0.0).windows
        assert start <= since <= end < loop.time()
        assert relay.sight(0.0).handed[-1][1] <= since
