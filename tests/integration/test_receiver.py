"""The receiver that plays the CRM: it notes what came to the byte, and misbehaves as told."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import yarl

from crmbridge.demo.receiver import SUCCESS, Manner, Received, Receiver, Reply


async def raw(url: str, request: bytes) -> bytes:
    """Send bytes, and return all that comes back until the connection ends."""
    address = yarl.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: crm\r\nIdempotency-Key: k1\r\nConnection: close\r\n\r\n".encode()


async def test_targets_are_kept_to_the_byte_and_answered_as_the_questionnaire_says() -> None:
    seen: list[Received] = []
    target = "/webservice.php?operation=incomingCall&sExt=7%37%2a&sNumber=%D7%93+&ClientId="
    async with Receiver(seen.append) as receiver:
        answer = await raw(await receiver.start(), get(target))
        assert receiver.targets == [target]
        (received,) = receiver.received
    assert answer.endswith(b"\r\n\r\n" + SUCCESS)
    assert seen == [received]
    assert received.idempotency_key == "k1"
    assert [received[name] for name in ("operation", "sExt", "sNumber", "ClientId")] == [
        "incomingCall",
        "77*",
        "ד ",
        "",
    ]


async def test_waiting_for_requests() -> None:
    async with Receiver() as receiver:
        url = await receiver.start()
        waiting = asyncio.create_task(receiver.wait_for(2))
        await raw(url, get("/a"))
        assert not waiting.done()
        await raw(url, get("/b"))
        async with asyncio.timeout(10):
            assert [each.target for each in await waiting] == ["/a", "/b"]


async def test_a_script_is_followed_then_the_default() -> None:
    async with Receiver() as receiver:
        url = await receiver.start()
        receiver.script(Reply(status=500), Reply(status=429, headers={"Retry-After": "7"}), Reply(manner=Manner.ABORT))
        assert (await raw(url, get("/"))).startswith(b"HTTP/1.1 500 ")
        assert b"Retry-After: 7\r\n" in await raw(url, get("/"))
        assert await aborted(url)
        assert (await raw(url, get("/"))).startswith(b"HTTP/1.1 200 ")


async def aborted(url: str) -> bool:
    try:
        return await raw(url, get("/")) == b""
    except ConnectionResetError:
        return True


async def test_a_held_answer_comes_when_it_is_let_go() -> None:
    async with Receiver() as receiver:
        url = await receiver.start()
        hold = asyncio.Event()
        receiver.script(Reply(hold=hold))
        request = asyncio.create_task(raw(url, get("/held")))
        await receiver.wait_for(1)
        await raw(url, get("/other"))
        assert not request.done()
        hold.set()
        assert (await request).endswith(SUCCESS)
        assert receiver.most_at_once == 2


async def test_an_endless_answer_and_no_answer_end_with_the_receiver() -> None:
    async with Receiver() as receiver, aiohttp.ClientSession() as session:
        url = await receiver.start()
        receiver.script(Reply(manner=Manner.ENDLESS), Reply(manner=Manner.NEVER))
        async with session.get(url) as response:
            assert len(await response.content.readexactly(1_000_000)) == 1_000_000
        never = asyncio.create_task(raw(url, get("/never")))
        await receiver.wait_for(2)
        assert not never.done()
        await receiver.close()
        await asyncio.wait([never], timeout=10)
        assert never.done()
        never.exception()


async def test_a_socket_bound_elsewhere() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.9", 0))
    async with Receiver() as receiver:
        url = await receiver.start(sock=sock)
        assert url == f"http://127.0.0.9:{sock.getsockname()[1]}/webservice.php"
        await raw(url, get("/"))
        assert receiver.targets == ["/"]
