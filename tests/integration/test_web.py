"""The HTTP server on a real socket: who may ask, what is answered to the byte, and what is not done."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from crmbridge.calls.clicks import Asked, Outcome
from crmbridge.calls.dialable import Dialable
from crmbridge.calls.dialing import Click, Code, Dialing, DialingRules, Result
from crmbridge.calls.history import CallRow, Page, Position
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.phone_states import PhoneState
from crmbridge.calls.routing import Phones
from crmbridge.web import call_list, connection, dialer, parameters
from crmbridge.web.access import Access, Account
from crmbridge.web.attempts import FREE
from crmbridge.web.call_list import CallListing
from crmbridge.web.dialer import Dialer, new_click_id
from crmbridge.web.ops import Ops
from crmbridge.web.server import LARGEST_BODY, Server

GOOD = "Basic " + base64.b64encode(b"crm:s3cret").decode()
CLICK = "/dialer/sodialer.php?sExt=777&sNumber=033004799&ClientId=10"
OK = b'{"success":true,"result":[]}'
NESTED = (
    b'--b\r\nContent-Type: multipart/mixed; boundary=c\r\nContent-Disposition: form-data; name="sExt"\r\n\r\n'
    b"--c--\r\n--b--\r\n"
)
NUMBERS = Numbers(region="IL", form="national", anonymous="anonymous")
LIMIT_S = 10
HIDDEN = (*parameters.CREDENTIALS, "signature")


class Pbx:
    """What would place the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.result = Result()
        self.error: Exception | None = None
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def originate(self, click: Click) -> Result:
        self.calls.append((click.extension, click.number))
        self.ids.append(click.id)
        self.asked.set()
        await self.go.wait()
        if self.error:
            raise self.error
        return self.result


class AwayError(Exception):
    """The call list's database is away."""


class Calls:
    """What would look calls up."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.page = Page([], None)
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, key: str, **filters: object) -> Page:
        self.asked.append((key, filters))
        await self.go.wait()
        if self.error:
            raise self.error
        return self.page


def link(filename: str, client_id: str, pbx: str) -> str | None:
    assert pbx
    return None if filename.startswith("/elsewhere/") else f"/recordings/{filename}?for={client_id}"


class Trail:
    """What would keep the clicks."""

    def __init__(self) -> None:
        self.all: list[Asked] = []
        self.settled_as: dict[str, Result] = {}
        self.asked = asyncio.Event()
        self.stored = asyncio.Event()
        self.stored.set()

    def refused(self, asked: Asked) -> None:
        self.all.append(asked)

    def accepted(self, asked: Asked) -> asyncio.Future[None]:
        self.all.append(asked)
        self.asked.set()
        return asyncio.ensure_future(self._until_stored())

    async def _until_stored(self) -> None:
        await self.stored.wait()

    def settled(self, click_id: str, result: Result) -> None:
        self.settled_as[click_id] = result


class Answer:
    """An answer as it came."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1]) if status else 0
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def code(self) -> str:
        answer = json.loads(self.body)
        assert answer["success"] is False
        assert set(answer) == {"success", "error"}
        assert answer["error"]["message"]
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        return str(answer["error"]["code"])


class Site:
    """The server with its parts, and what stands behind them."""

    def __init__(self, server: Server, pbx: Pbx, calls: Calls, troubles: list[str], trail: Trail) -> None:
        self.server, self.pbx, self.calls, self.troubles, self.trail = server, pbx, calls, troubles, trail

    async def connect(self, source: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.server.address, local_addr=(source, 0) if source else None)

    async def raw(self, request: bytes, source: str | None = None) -> Answer:
        """Send bytes, read until the other end closes."""
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await self.connect(source)
            try:
                writer.write(request)
                await writer.drain()
                return Answer(await reader.read())
            finally:
                writer.close()
                await writer.wait_closed()

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | str = b"",
        headers: Sequence[tuple[str, str]] = (),
        auth: str | None = GOOD,
        source: str | None = None,
    ) -> Answer:
        data = body if isinstance(body, bytes) else body.encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += [f"Authorization: {auth}"] if auth else []
        if data and not any(name.lower() == "content-type" for name, _ in headers):
            lines.append("Content-Type: application/x-www-form-urlencoded")
        lines += [f"Content-Length: {len(data)}"] if data else []
        return await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + data, source)


def owns(client_id: str, extension: str) -> bool:
    """Client 11 has the extensions 711 and 712, client 10 has all others."""
    return (extension in {"711", "712"}) is (client_id == "11")


@asynccontextmanager
async def running(
    *,
    allow: Sequence[str] = ("127.0.0.0/8",),
    proxies: Sequence[str] = (),
    links_from: Sequence[str] = (),
    as_parameters: bool = False,
    listen: str | socket.socket = "127.0.0.1:0",
    limits: tuple[int, int] = (1000, 10_000),
    extra: Sequence[Any] = (),
    others: Sequence[Account] = (),
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Site]:
    pbx, calls, troubles, trail = Pbx(), Calls(), list[str](), Trail()
    rules = DialingRules(
        dialable={"pbx": Dialable.from_settings(region="IL", extensions=r"7\d\d")},
        per_extension_per_minute=limits[0],
        per_minute=limits[1],
        duplicate_window_s=60,
    )
    clients = {"10", "11"} if others else {"10"}
    phones = Phones(
        pbx="pbx",
        serves=clients.__contains__,
        owns=owns,
        lists=lambda client_id, extension: False,  # noqa: ARG005  # nobody's by name
        knows=lambda extension: True,  # noqa: ARG005  # all are known
        state=lambda extension: PhoneState.MAY_RING,  # noqa: ARG005  # of all
    )
    dialing = Dialing(rules, [phones])
    server = Server(
        listen=listen,
        access=Access(
            [Account("crm", "s3cret", allow, None if not others else frozenset({"10"})), *others],
            trusted_proxies=proxies,
            links_from=links_from,
            credentials_as_parameters=as_parameters,
        ),
        hidden_parameters=HIDDEN,
        parts=[
            Dialer(dialing=dialing, originate=pbx.originate, trail=trail),
            CallListing(
                by_number=calls, refusal=AwayError, key=NUMBERS.same, timezone=ZoneInfo("Asia/Jerusalem"), link=link
            ),
            Ops(lambda: troubles, lambda: b"crmbridge_info 1\n"),
            *extra,
        ],
        clock=clock,
    )
    async with server:
        yield Site(server, pbx, calls, troubles, trail)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


# The dialer


@pytest.mark.parametrize("path", ["/dialer/sodialer.php", "/dialer/sodialer.php:6560", "/dialer/sodialer.php%3A6560"])
async def test_a_click_as_the_questionnaire_writes_it(site: Site, path: str) -> None:
    answer = await site.ask(f"{path}?sExt=777&sNumber=033004799&ClientId=10")
    assert (answer.status, answer.body) == (200, OK)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["server"] == "crmbridge"
    assert site.pbx.calls == [("777", "033004799")]


@pytest.mark.parametrize(
    ("query", "body", "headers"),
    [
        ("", "sExt=777&sNumber=033004799&ClientId=10", []),
        ("?ClientId=10", "sExt=777&sNumber=03-300%204799", []),
        ("?sExt=777&sNumber=%2B97233004799&ClientId=10&_=1699", "", []),
        ("?sExt=777&sNumber=+97233004799&ClientId=10", "", []),
        (
            "",
            "".join(
                f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                for name, value in (("sExt", "777"), ("sNumber", "033004799"), ("ClientId", "10"))
            )
            + "--b--\r\n",
            [("Content-Type", "multipart/form-data; boundary=b")],
        ),
    ],
)
async def test_a_click_by_post(site: Site, query: str, body: str, headers: list[tuple[str, str]]) -> None:
    answer = await site.ask(f"/dialer/sodialer.php{query}", method="POST", body=body, headers=headers)
    assert (answer.status, answer.body) == (200, OK)
    assert site.pbx.calls == [("777", "033004799")]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "missing_parameter"),
        ("sExt=777&sNumber=033004799", 400, "missing_parameter"),
        ("sExt=777&ClientId=10", 400, "missing_parameter"),
        ("sNumber=033004799&ClientId=10", 400, "missing_parameter"),
        ("sExt=&sNumber=033004799&ClientId=10", 400, "missing_parameter"),
        ("sExt=777&sNumber=&ClientId=10", 400, "missing_parameter"),
        ("sExt&sNumber=033004799&ClientId=10", 400, "missing_parameter"),
        ("sext=777&snumber=033004799&clientid=10", 400, "missing_parameter"),
        ("sExt=777&sExt=777&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sExt=778&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=033004799&sNumber=0541234567&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=033004799&ClientId=10&ClientId=", 400, "malformed_parameter"),
        ("sExt[]=777&sNumber=033004799&ClientId=10", 400, "missing_parameter"),
        ("sExt=777&sNumber=033004799&ClientId=11", 403, "unknown_client"),
        ("sExt=777&sNumber=033004799&ClientId=10%0d%0a", 400, "malformed_parameter"),
        ("sExt=888&sNumber=033004799&ClientId=10", 403, "extension_not_allowed"),
        ("sExt=777%0d%0aAction:%20Command&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777%00&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777,778&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777%26PJSIP%2F778&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777/n&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777%40from-trunk&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=${EXTEN}&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=%D9%A7%D9%A7%D9%A7&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777%20&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=%ff&sNumber=033004799&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=033004799%0d%0aApplication:%20System&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=033004799%0a%0aAction:%20Logoff&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=033004799%00&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=033004799,,g&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=${SHELL(id)}&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=033004799%26PJSIP/1900&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=" + quote("٠٣٣٠٠٤٧٩٩") + "&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=" + "1" * 1000 + "&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=" + "1" * 7000 + "&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=%f0%28%8c%bc&ClientId=10", 400, "malformed_parameter"),
        ("sExt=777&sNumber=%2A72033004799&ClientId=10", 403, "number_not_allowed"),
        ("sExt=777&sNumber=%2331%23033004799&ClientId=10", 403, "number_not_allowed"),
        ("sExt=777&sNumber=1900123456&ClientId=10", 403, "number_not_allowed"),
        ("sExt=777&sNumber=%2B442079460018&ClientId=10", 403, "number_not_allowed"),
        ("sExt=777&sNumber=%2B881612345678&ClientId=10", 403, "number_not_allowed"),
        ("sExt=777&sNumber=123&ClientId=10", 403, "number_not_allowed"),
        ("sExt=777&sNumber=777&ClientId=10", 403, "number_not_allowed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_clicks_that_place_no_call(site: Site, method: str, query: str, status: int, code: str) -> None:
    form = quote(query, safe="=&%") if method == "POST" else ""
    answer = await site.ask("/dialer/sodialer.php" + ("" if form else f"?{query}"), method=method, body=form)
    assert (answer.status, answer.code) == (status, code)
    assert site.pbx.calls == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"sExt":"777","sNumber":"033004799","ClientId":"10"}', "application/json"),
        (b"\xff\xfe\x00", "application/x-www-form-urlencoded; charset=utf-16"),
        (b"sExt=777", "application/x-www-form-urlencoded; charset=no-such"),
        (b"sExt=777", "multipart/form-data"),
        (b"--b\r\nbroken", "multipart/form-data; boundary=b"),
        (b'--b\r\nContent-Disposition: form-data; name="sExt"; filename="f"\r\n\r\n777\r\n--b--\r\n',
         "multipart/form-data; boundary=b"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\n777\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (NESTED, "multipart/form-data; boundary=b"),
    ],
)  # fmt: skip
async def test_bodies_that_are_no_form(site: Site, body: bytes, content_type: str) -> None:
    answer = await site.ask("/dialer/sodialer.php", method="POST", body=body, headers=[("Content-Type", content_type)])
    assert answer.status == 400
    assert answer.code in {"bad_request", "missing_parameter", "malformed_parameter"}
    assert site.pbx.calls == []


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "DIAL"])
async def test_other_methods_do_not_dial(site: Site, method: str) -> None:
    answer = await site.ask(CLICK, method=method)
    assert answer.status in {400, 404, 405}
    if method != "HEAD":
        assert answer.code
    if answer.status == 405:
        assert answer.headers["allow"] == "GET,POST"
    assert site.pbx.calls == []


@pytest.mark.parametrize("body", [b"sExt=" + b"7" * LARGEST_BODY, b"a=1&" * 5000])
async def test_a_body_that_is_too_large(site: Site, body: bytes) -> None:
    answer = await site.ask("/dialer/sodialer.php", method="POST", body=body)
    assert (answer.status, answer.code) == (413, "too_large")


@pytest.mark.parametrize(
    ("result", "status", "code"),
    [
        (Result(Code.NOT_CONNECTED, "no connection to the PBX"), 503, "pbx_not_connected"),
        (Result(Code.REFUSED, "Extension does not exist."), 502, "originate_failed"),
        (Result(Code.UNKNOWN), 504, "originate_unknown"),
    ],
)
async def test_clicks_that_the_pbx_does_not_place(site: Site, result: Result, status: int, code: str) -> None:
    site.pbx.result = result
    answer = await site.ask(CLICK)
    assert (answer.status, answer.code) == (status, code)
    again = await site.ask(CLICK)
    assert again.code == code
    assert len(site.pbx.calls) == (1 if result.code is Code.UNKNOWN else 2)


async def test_what_places_calls_is_broken(site: Site) -> None:
    site.pbx.error = RuntimeError("boom")
    with capture_logs() as logs:
        answers = [await site.ask(CLICK) for _ in range(2)]
    assert [(answer.status, answer.code) for answer in answers] == [(504, "originate_unknown")] * 2
    assert len(site.pbx.calls) == 1, "how far it came is not known: not twice"
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["dialer.broken"]


async def test_too_many() -> None:
    async with running(limits=(1, 10)) as site:
        assert (await site.ask(CLICK)).body == OK
        answer = await site.ask(CLICK.replace("033004799", "0541234567"))
        assert (answer.status, answer.code) == (429, "too_many")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (await site.ask(CLICK)).body == OK, "the same click again is no other one"
    assert len(site.pbx.calls) == 1


async def test_the_same_click_at_the_same_instant_is_one_call(site: Site) -> None:
    site.pbx.go.clear()
    spellings = ["033004799", "03-3004799", "%2B97233004799", "(03)3004799"]
    clicks = [asyncio.create_task(site.ask(CLICK.replace("033004799", spellings[n % 4]))) for n in range(100)]
    await site.pbx.asked.wait()
    site.pbx.go.set()
    answers = await asyncio.gather(*clicks)
    assert {(answer.status, answer.body) for answer in answers} == {(200, OK)}
    assert site.pbx.calls == [("777", "033004799")]


async def test_the_same_click_fails_for_all_who_wait_for_it(site: Site) -> None:
    site.pbx.go.clear()
    site.pbx.result = Result(Code.NOT_CONNECTED)
    clicks = [asyncio.create_task(site.ask(CLICK)) for _ in range(10)]
    await site.pbx.asked.wait()
    site.pbx.go.set()
    answers = await asyncio.gather(*clicks)
    # One that came after the first had failed is a new click, and may be tried; it fails, too.
    assert {answer.code for answer in answers} == {"pbx_not_connected"}


async def test_a_client_that_hangs_up_does_not_take_the_others_click_along(site: Site) -> None:
    site.pbx.go.clear()
    _, writer = await site.connect()
    writer.write(f"GET {CLICK} HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\n\r\n".encode())
    await site.pbx.asked.wait()
    other = asyncio.create_task(site.ask(CLICK))
    writer.transport.abort()
    await asyncio.sleep(0)
    site.pbx.go.set()
    assert (await other).body == OK
    assert len(site.pbx.calls) == 1


async def test_stopping_while_a_click_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crmbridge.web.server.STOP_S", 0.05)
    async with running() as site:
        site.pbx.go.clear()
        click = asyncio.create_task(site.ask(CLICK))
        await site.pbx.asked.wait()
    answer = await click
    assert answer.status == 0 or answer.code == "originate_unknown"
    assert len(site.pbx.calls) == 1


async def test_clicks_have_ids_of_their_own(site: Site) -> None:
    for number in range(20):
        await site.ask(CLICK.replace("033004799", f"05412345{number:02}"))
    assert len(set(site.pbx.ids)) == 20
    assert all(len(one) <= 30 and one.startswith("crm-") for one in [*site.pbx.ids, new_click_id()])


async def test_a_line_for_each_click() -> None:
    with capture_logs() as logs:
        async with running() as site:
            await site.ask(CLICK)
            await site.ask(CLICK)
            await site.ask(CLICK.replace("033004799", "%0d%0aroot"))
            await site.ask(CLICK.replace("sExt=777&", ""))
    clicks = [line for line in logs if line["event"].startswith("dialer.")]
    assert [line["event"] for line in clicks] == [
        "dialer.placed",
        "dialer.repeated",
        "dialer.refused",
        "dialer.refused",
    ]
    assert {line["address"] for line in clicks} == {"127.0.0.1"}
    assert clicks[0]["click"] == clicks[1]["click"] == site.pbx.ids[0]
    assert {line["user"] for line in clicks} == {"crm"}
    assert clicks[2]["number"] == r"\r\nroot"
    assert clicks[3]["code"] == "missing_parameter"


async def test_a_trail_of_each_click() -> None:
    async with running() as site:
        await site.ask(CLICK.replace("033004799", "%2B972-3-300-4799"))
        await site.ask(CLICK)
        await site.ask(CLICK.replace("sNumber=033004799", "sNumber=100500"))
        await site.ask(CLICK.replace("sExt=777&", ""))
        placed, again, not_allowed, without = site.trail.all
    assert (placed.user, placed.address, placed.client_id, placed.extension) == ("crm", "127.0.0.1", "10", "777")
    assert (placed.number, placed.dialed, placed.click_id) == ("+972-3-300-4799", "033004799", site.pbx.ids[0])
    assert (placed.outcome, placed.code) == (Outcome.IN_PROGRESS, None)
    assert site.trail.settled_as == {placed.click_id: Result()}
    assert (again.outcome, again.click_id, again.number) == (Outcome.REPEATED, placed.click_id, "033004799")
    assert (not_allowed.outcome, not_allowed.code, not_allowed.dialed) == (Outcome.REFUSED, "number_not_allowed", None)
    assert (without.outcome, without.code, without.extension) == (Outcome.REFUSED, "missing_parameter", "")
    assert not_allowed.reason
    assert without.reason == "sExt is missing or empty"


async def test_a_click_is_on_disk_before_the_pbx_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "STORED_S", LIMIT_S)
    async with running() as site:
        site.trail.stored.clear()
        click = asyncio.create_task(site.ask(CLICK))
        await site.trail.asked.wait()
        assert not site.pbx.calls
        site.trail.stored.set()
        assert (await click).body == OK
        assert site.pbx.calls == [("777", "033004799")]


async def test_a_disk_that_hangs_holds_no_click_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "STORED_S", 0.0)
    async with running() as site:
        site.trail.stored.clear()
        assert (await site.ask(CLICK)).body == OK
        site.trail.stored.set()


# Who may ask


ADDRESSES = {"on the list": "127.0.0.5", "not on it": "127.0.0.6"}
CREDENTIALS = {
    "right": GOOD,
    "wrong": "Basic " + base64.b64encode(b"crm:wrong").decode(),
    "none": None,
    "malformed": "Basic %%%",
    "other scheme": "Bearer x",
}
ALL = ["/dialer/sodialer.php?sExt=777&sNumber=033004799&ClientId=10", "/calls?number=033004799", "/nothing"]


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("credentials", sorted(CREDENTIALS))
@pytest.mark.parametrize("source", sorted(ADDRESSES))
async def test_addresses_and_credentials(path: str, credentials: str, source: str) -> None:
    async with running(allow=["127.0.0.5/32"]) as site:
        answer = await site.ask(path, auth=CREDENTIALS[credentials], source=ADDRESSES[source])
    if source == "not on it":
        assert (answer.status, answer.code) == (403, "address_not_allowed")
    elif credentials != "right":
        assert (answer.status, answer.code) == (401, "not_authenticated")
        assert answer.headers["www-authenticate"].startswith('Basic realm="')
    else:
        assert answer.status == (404 if path == "/nothing" else 200)
    served = source == "on the list" and credentials == "right"
    assert bool(site.pbx.calls or site.calls.asked) == (served and path != "/nothing")


@pytest.mark.parametrize(
    ("source", "forwarded", "served"),
    [
        ("127.0.0.9", ["203.0.113.7"], True),
        ("127.0.0.9", ["198.51.100.1, 203.0.113.7"], True),
        ("127.0.0.9", ["203.0.113.7, 198.51.100.1"], False),
        ("127.0.0.9", ["203.0.113.7", "198.51.100.1"], False),
        ("127.0.0.9", ["garbage"], False),
        ("127.0.0.9", [], False),
        ("127.0.0.8", ["203.0.113.7"], False),  # says so itself
        ("127.0.0.5", ["198.51.100.1"], True),  # on the list, whatever it says
        ("127.0.0.10", [], False),  # a proxy that is on the list, and names nobody
        ("127.0.0.10", ["127.0.0.10"], False),
        ("127.0.0.10", ["203.0.113.7"], True),
    ],
)
async def test_behind_a_proxy(source: str, forwarded: list[str], served: bool) -> None:
    async with running(
        allow=["203.0.113.7/32", "127.0.0.5", "127.0.0.10"], proxies=["127.0.0.9", "127.0.0.10"]
    ) as site:
        answer = await site.ask(CLICK, source=source, headers=[("X-Forwarded-For", value) for value in forwarded])
    assert (answer.status == 200) is served
    assert bool(site.pbx.calls) is served


async def test_failed_logins_are_one_line_with_the_address_and_without_the_secret() -> None:
    with capture_logs() as logs:
        async with running(as_parameters=True) as site:
            await site.ask(CLICK, auth="Basic " + base64.b64encode(b"crm:hunter2").decode(), source="127.0.0.44")
            await site.ask(CLICK + "&username=crm&password=hunter2", auth=None, source="127.0.0.44")
            await site.ask(CLICK + "&username=crm&password=s3cret", auth=None, source="127.0.0.45")
    failed = [line for line in logs if line["event"] == "http.login_failed"]
    assert [(line["address"], line["log_level"]) for line in failed] == [("127.0.0.44", "warning")] * 2
    assert "hunter2" not in repr(logs)
    assert "s3cret" not in repr(logs)
    assert len(site.pbx.calls) == 1


@pytest.mark.parametrize("as_parameters", [True, False])
async def test_credentials_as_parameters_only_where_switched_on(as_parameters: bool) -> None:
    async with running(as_parameters=as_parameters) as site:
        query = await site.ask(CLICK + "&username=crm&password=s3cret", auth=None)
        form = await site.ask(
            "/dialer/sodialer.php",
            method="POST",
            body="sExt=778&sNumber=033004799&ClientId=10&username=crm&password=s3cret",
            auth=None,
        )
        wrong_header = await site.ask(CLICK + "&username=crm&password=s3cret", auth=CREDENTIALS["wrong"])
        twice = await site.ask(CLICK + "&username=crm&password=s3cret&password=s3cret", auth=None)
        calls = await site.ask("/calls?number=033004799&username=crm&password=s3cret", auth=None)
    assert [query.status, form.status, calls.status] == [200 if as_parameters else 401] * 3
    assert (wrong_header.status, twice.status) == (401, 401)
    assert len(site.pbx.calls) == (2 if as_parameters else 0)


ELEVEN = Account("eleven", "its own", ["127.0.0.11"], frozenset({"11"}))
OF_ELEVEN = "Basic " + base64.b64encode(b"eleven:its own").decode()
CLICK_OF_ELEVEN = CLICK.replace("ClientId=10", "ClientId=11").replace("777", "711")


async def test_a_client_with_credentials_of_its_own_clicks_for_itself_only() -> None:
    async with running(allow=["127.0.0.10"], others=[ELEVEN]) as site:
        assert (await site.ask(CLICK_OF_ELEVEN, auth=OF_ELEVEN, source="127.0.0.11")).body == OK
        assert (await site.ask(CLICK, source="127.0.0.10")).body == OK
        assert len(site.pbx.calls) == 2
        unknown = await site.ask(CLICK.replace("ClientId=10", "ClientId=12"), source="127.0.0.10")
        of_eleven = await site.ask(CLICK_OF_ELEVEN, source="127.0.0.10")
        of_ten = await site.ask(CLICK, auth=OF_ELEVEN, source="127.0.0.11")
        assert (unknown.status, unknown.code) == (403, "unknown_client")
        assert (of_eleven.status, of_eleven.body) == (of_ten.status, of_ten.body) == (unknown.status, unknown.body)
        foreign = await site.ask(CLICK_OF_ELEVEN.replace("711", "777"), auth=OF_ELEVEN, source="127.0.0.11")
        assert (foreign.status, foreign.code) == (403, "extension_not_allowed")
        for auth, source in ((GOOD, "127.0.0.11"), (OF_ELEVEN, "127.0.0.10")):
            for path in (CLICK, CLICK_OF_ELEVEN, "/calls?number=1&ext=711"):
                assert (await site.ask(path, auth=auth, source=source)).code == "not_authenticated"
    assert len(site.pbx.calls) == 2
    assert site.calls.asked == []


@pytest.mark.parametrize("query", ["", "&ext=777", "&ext=", "&ext=711,777", "&ClientId=11"])
async def test_a_client_with_credentials_of_its_own_sees_its_calls_only(query: str) -> None:
    """Whatever it asks for: also its call that another client's extension answered, and its call that rang nobody."""
    async with running(allow=["127.0.0.10"], others=[ELEVEN]) as site:
        assert (await site.ask(f"/calls?number=1{query}", auth=OF_ELEVEN, source="127.0.0.11")).body == OK
    ((_, filters),) = site.calls.asked
    assert filters["client_ids"] == {"11"}


async def test_another_client_s_calls_are_refused() -> None:
    async with running(allow=["127.0.0.10"], others=[ELEVEN]) as site:
        for client_id, auth, source in (("10", OF_ELEVEN, "127.0.0.11"), ("12", OF_ELEVEN, "127.0.0.11"),
                                        ("11", GOOD, "127.0.0.10")):  # fmt: skip
            answer = await site.ask(f"/calls?number=1&ClientId={client_id}", auth=auth, source=source)
            assert (answer.status, answer.code) == (403, "unknown_client")
        assert site.calls.asked == []
        assert (await site.ask("/calls?number=1", source="127.0.0.10")).body == OK
    assert site.calls.asked[0][1]["client_ids"] == {"10"}


async def test_who_may_ask_for_every_client_may_ask_for_one(site: Site) -> None:
    assert (await site.ask("/calls?number=1&ClientId=11")).body == OK
    assert (await site.ask("/calls?number=1")).body == OK
    assert [filters["client_ids"] for _, filters in site.calls.asked] == [{"11"}, None]


# Credentials as parameters, which no log shows


SECRET = "pa55w0rd-of-somebody"
AS_PARAMETERS = f"username=somebody-else&password={SECRET}"


def posted(length: str, kind: str) -> str:
    head = f"POST {CLICK} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\nContent-Type: {kind}\r\n\r\n"
    return head + AS_PARAMETERS


@pytest.mark.parametrize(
    "request_bytes",
    [
        f"GET {CLICK}&{AS_PARAMETERS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        f"GET {CLICK}&{AS_PARAMETERS}&{AS_PARAMETERS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        f"GET http://u:{SECRET}@x{CLICK}&{AS_PARAMETERS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        f"GET /dialer/sodialer.php&{AS_PARAMETERS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        f"GET /broken?{AS_PARAMETERS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {GOOD}\r\n\r\n",
        f"GET /nothing?{AS_PARAMETERS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        f"GET /dialer/sodialer.php?{AS_PARAMETERS} HTTP/9.9\r\n\r\n",
        f"GET {CLICK}&{AS_PARAMETERS}\r\n\r\n",
        f"GET {CLICK}&{AS_PARAMETERS} \x00HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET {CLICK}&{AS_PARAMETERS}&x={'a' * 20_000} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nBad Header {AS_PARAMETERS}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {SECRET}\x00\r\n\r\n",
        f"GET //[x?{AS_PARAMETERS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        f"{AS_PARAMETERS}\r\n\r\n",
        posted(f"Content-Length: {len(AS_PARAMETERS)}", "application/x-www-form-urlencoded"),
        posted(f"Content-Length: {len(AS_PARAMETERS)}", f"multipart/form-data; boundary={SECRET}"),
        posted("Transfer-Encoding: chunked", "application/x-www-form-urlencoded"),
    ],
)
@pytest.mark.parametrize("as_parameters", [True, False])
async def test_no_log_shows_credentials_whatever_goes_wrong(
    request_bytes: str, as_parameters: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at debug level of all libraries either, and not in an error that a handler makes."""
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        async with running(as_parameters=as_parameters, extra=[Odd()]) as site:
            answer = await site.raw(request_bytes.encode())
            assert answer.status >= 400
            assert SECRET.encode() not in answer.body
    shown = repr(logs) + caplog.text
    assert [line for line in logs if line["event"].startswith("http.")]
    assert SECRET not in shown
    assert "somebody-else" not in shown
    assert site.pbx.calls == []


# Failed logins


WRONG = "Basic " + base64.b64encode(b"crm:wrong").decode()


async def test_who_fails_too_often_must_wait_and_nobody_else() -> None:
    now_s = 0.0
    async with running(clock=lambda: now_s) as site:
        failed = [await site.ask(CLICK, auth=WRONG, source="127.0.0.44") for _ in range(FREE + 1)]
        assert {answer.code for answer in failed} == {"not_authenticated"}
        for auth in (WRONG, GOOD):
            answer = await site.ask(CLICK, auth=auth, source="127.0.0.44")
            assert (answer.status, answer.code) == (429, "too_many_failed_logins")
            assert answer.headers["retry-after"] == "1"
        assert (await site.ask(CLICK, auth=None, source="127.0.0.44")).status == 401, "asking how is no guess"
        assert (await site.ask("/healthz", auth=None, source="127.0.0.44")).status == 200
        assert site.pbx.calls == []
        assert (await site.ask(CLICK, source="127.0.0.45")).body == OK
        now_s = 1.0
        assert (await site.ask(CLICK, source="127.0.0.44")).body == OK
        assert (await site.ask(CLICK, auth=WRONG, source="127.0.0.44")).status == 401
        answer = await site.ask(CLICK, source="127.0.0.44")
        assert (answer.status, answer.headers["retry-after"]) == (429, "2"), "a right login forgives nothing"


async def test_behind_a_proxy_only_who_fails_must_wait() -> None:
    async with running(allow=["203.0.113.0/24"], proxies=["127.0.0.1"], clock=lambda: 0.0) as site:
        for _ in range(FREE + 2):
            answer = await site.ask(CLICK, auth=WRONG, headers=[("X-Forwarded-For", "203.0.113.6")])
        assert answer.code == "too_many_failed_logins"
        assert (await site.ask(CLICK, headers=[("X-Forwarded-For", "203.0.113.7")])).body == OK


@pytest.mark.parametrize("as_parameters", [True, False])
async def test_guesses_at_the_same_instant_are_few(as_parameters: bool) -> None:
    """Each connection's requests come in one piece, so that nothing but the count is in the way."""
    async with running(as_parameters=as_parameters, clock=lambda: 0.0) as site:
        guess, auth = ("&username=crm&password=wrong", None) if as_parameters else ("", WRONG)
        answers = await asyncio.gather(*(site.ask(CLICK + guess, auth=auth) for _ in range(100)))
    assert [answer.status for answer in answers].count(401) == FREE + 1
    assert [answer.status for answer in answers].count(429) == 100 - FREE - 1


# The call list


async def test_a_call_list(site: Site) -> None:
    began = datetime(2026, 11, 23, 5, 52, 57, tzinfo=UTC)
    key = {"pbx": "pbx", "linkedid": "1.1", "client_id": "10", "number": "033004799", "number_key": "+97233004799"}
    answered = CallRow(**key, extension="777", started_at=began, talk_s=2, filename="a.wav", incoming=True)
    in_summer = datetime(2026, 7, 1, 21, 0, tzinfo=UTC)
    missed = CallRow(**key, extension="", started_at=in_summer, talk_s=0, filename="", incoming=True)
    site.calls.page = Page([answered, missed], None)
    answer = await site.ask("/calls?number=033004799")
    assert answer.status == 200
    assert answer.body == (
        b'{"success":true,"result":['
        b'{"time":"2026-11-23 07:52:57","ext":"777","number":"033004799","duration":2,"filename":"a.wav",'
        b'"incoming":true,"link":"/recordings/a.wav?for=10"},'
        b'{"time":"2026-07-02 00:00:00","ext":"","number":"033004799","duration":0,"filename":"","incoming":true}]}'
    )


async def test_no_calls(site: Site) -> None:
    assert (await site.ask("/calls?number=033004799")).body == OK


@pytest.mark.parametrize(
    "spelling",
    ["033004799", "03-300-4799", "(03) 300 4799", "+972-3-3004799", "97233004799", "00972 3 300 4799"],
)
@pytest.mark.parametrize("escaped", [True, False])
async def test_any_spelling_finds_the_number(site: Site, spelling: str, escaped: bool) -> None:
    number = quote(spelling) if escaped else spelling.replace(" ", "%20")
    assert (await site.ask(f"/calls?number={number}")).status == 200
    assert site.calls.asked[0][0] == "+97233004799"


async def test_pages_and_filters_are_handed_on(site: Site) -> None:
    site.calls.page = Page([], Position(1795413177, 42))
    query = "number=033004799&ext=777&direction=in&since=2026-11-01&until=2026-11-30&limit=7&cursor=1795413999-43"
    first = await site.ask(f"/calls?{query}")
    assert json.loads(first.body)["cursor"] == "1795413177-42"
    assert site.calls.asked[0][1] == {
        "client_ids": None,
        "extension": "777",
        "incoming": True,
        "since_at": datetime(2026, 10, 31, 22, 0, tzinfo=UTC),  # midnight in Jerusalem
        "until_at": datetime(2026, 11, 30, 22, 0, tzinfo=UTC),  # the whole last day
        "limit": 7,
        "after": Position(1795413999, 43),
    }


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-11-23 05:52:57", datetime(2026, 11, 23, 3, 52, 57, tzinfo=UTC)),
        ("2026-11-23T05:52", datetime(2026, 11, 23, 3, 52, tzinfo=UTC)),
        ("2026-11-23T05:52:57Z", datetime(2026, 11, 23, 5, 52, 57, tzinfo=UTC)),
        ("2026-11-23T05:52:57+03:00", datetime(2026, 11, 23, 2, 52, 57, tzinfo=UTC)),
        ("2026-07-23 05:52:57", datetime(2026, 7, 23, 2, 52, 57, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
async def test_times(site: Site, written: str, meant: datetime, escaped: bool) -> None:
    assert (
        await site.ask(f"/calls?number=1&since={quote(written) if escaped else written.replace(' ', '%20')}")
    ).status == 200
    assert site.calls.asked[0][1]["since_at"] == meant


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("", "missing_parameter", "number"),
        ("number=", "missing_parameter", "number"),
        ("number=%20", "malformed_parameter", "digits"),
        ("number=1&number=2", "malformed_parameter", "more than once"),
        ("number=" + "1" * 1000, "malformed_parameter", "longer"),
        ("number=1&direction=inbound", "malformed_parameter", "in or out"),
        ("number=1&limit=0", "malformed_parameter", "1 to 1000"),
        ("number=1&limit=1001", "malformed_parameter", "1 to 1000"),
        ("number=1&limit=ten", "malformed_parameter", "1 to 1000"),
        ("number=1&limit=%D9%A1", "malformed_parameter", "1 to 1000"),
        ("number=1&cursor=x", "malformed_parameter", "cursor"),
        ("number=1&cursor=99999999999-1", "malformed_parameter", "cursor"),
        ("number=1&cursor=1-9223372036854775808", "malformed_parameter", "cursor"),
        ("number=1&cursor=1-99999999999999999999", "malformed_parameter", "cursor"),
        ("number=1&ClientId=", "malformed_parameter", "ClientId"),
        ("number=1&ClientId=10&ClientId=11", "malformed_parameter", "more than once"),
        ("number=1&since=yesterday", "malformed_parameter", "2026-11-23"),
        ("number=1&since=2026-13-01", "malformed_parameter", "2026-11-23"),
        ("number=1&since=20261123", "malformed_parameter", "2026-11-23"),
        ("number=1&until=9999-12-31", "malformed_parameter", "2026-11-23"),
        ("number=1&since=0001-01-01", "malformed_parameter", "2026-11-23"),
        ("number=1&form=2026-11-01", "malformed_parameter", "known: ClientId, cursor, direction"),
    ],
)
async def test_call_lists_that_are_refused(site: Site, query: str, code: str, says: str) -> None:
    answer = await site.ask(f"/calls?{query}")
    assert (answer.status, answer.code) == (400, code)
    assert says in answer.body.decode()
    assert site.calls.asked == []


ROW = CallRow(
    "pbx", "1.1", "10", "777", "033004799", "+97233004799", datetime(2026, 11, 23, tzinfo=UTC), 2, "", incoming=True
)


async def test_a_recording_that_lies_elsewhere_has_no_link(site: Site) -> None:
    site.calls.page = Page([ROW._replace(filename="/elsewhere/a.wav"), ROW], None)
    result = json.loads((await site.ask("/calls?number=1")).body)["result"]
    assert [(line["filename"], "link" in line) for line in result] == [("/elsewhere/a.wav", False), ("", False)]


async def test_the_largest_cursor_is_handed_on(site: Site) -> None:
    site.calls.page = Page([ROW], Position(1795413177, 2**63 - 1))
    cursor = json.loads((await site.ask("/calls?number=1")).body)["cursor"]
    assert (await site.ask(f"/calls?number=1&cursor={cursor}")).status == 200
    assert site.calls.asked[1][1]["after"] == Position(1795413177, 2**63 - 1)


@pytest.mark.parametrize(
    ("accepted", "squeezes"),
    [
        ([], False),
        ([""], False),
        (["gzip"], True),
        (["deflate, GZIP;q=0.5, br"], True),
        (["br", "gzip"], True),
        (["x-gzip"], True),
        (["gzip;q=0"], False),
        (["gzip ; Q = 0.000"], False),
        (["gzip;q=0.001"], True),
        (["identity, deflate, br"], False),
        (["*"], False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_long_lists_are_squeezed_where_that_is_asked(
    site: Site, method: str, accepted: list[str], squeezes: bool
) -> None:
    site.calls.page = Page([ROW] * 100, None)
    headers = [("Accept-Encoding", one) for one in accepted]
    plain, answer = await site.ask("/calls?number=1"), await site.ask("/calls?number=1", method=method, headers=headers)
    assert answer.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("content-encoding") == ("gzip" if squeezes else None)
    if method == "GET":
        assert (gzip.decompress(answer.body) if squeezes else answer.body) == plain.body
        assert int(answer.headers["content-length"]) == len(answer.body)
    else:
        assert answer.body == b""
        assert (int(answer.headers["content-length"]) < len(plain.body)) is squeezes


async def test_short_lists_and_errors_are_not_squeezed(site: Site) -> None:
    for path in ("/calls?number=1", "/calls"):
        assert "content-encoding" not in (await site.ask(path, headers=[("Accept-Encoding", "gzip")])).headers


async def test_conditions_mean_nothing_to_a_list(site: Site) -> None:
    """There is no ETag: what is not kept can't be asked for again only if it has changed."""
    headers = [("If-None-Match", "*"), ("If-Modified-Since", "Mon, 23 Nov 2026 05:52:57 GMT"), ("Range", "bytes=0-0")]
    answer = await site.ask("/calls?number=1", headers=headers)
    assert (answer.status, answer.body) == (200, OK)
    assert not {"etag", "last-modified", "accept-ranges"} & answer.headers.keys()


async def test_a_list_that_is_away_is_said_once_and_so_is_its_return(site: Site) -> None:
    site.calls.error = AwayError("the call list's database is read-only")
    with capture_logs() as logs:
        answers = [await site.ask("/calls?number=1") for _ in range(3)]
        site.calls.error = None
        assert (await site.ask("/calls?number=1")).body == OK
        site.calls.error = AwayError("it is gone")
        answers.append(await site.ask("/calls?number=1"))
    assert [(answer.status, answer.code) for answer in answers] == [(503, "call_list_unavailable")] * 4
    assert {answer.headers["retry-after"] for answer in answers} == {"10"}
    assert b"read-only" not in answers[0].body, "that is for the administrator"
    told = [(line["event"], line.get("reason")) for line in logs if line["event"].startswith("call_list.")]
    assert told == [
        ("call_list.unavailable", "the call list's database is read-only"),
        ("call_list.available", None),
        ("call_list.unavailable", "it is gone"),
    ]
    assert (await site.ask("/readyz")).status == 200, "popups matter more"


async def test_a_list_that_hangs_is_answered_for_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_list, "ANSWER_S", 0.05)
    async with running() as site:
        site.calls.go.clear()
        with capture_logs() as logs:
            answers = await asyncio.gather(*(site.ask("/calls?number=1") for _ in range(5)))
        assert {(answer.status, answer.code) for answer in answers} == {(503, "call_list_unavailable")}
        assert [line["event"] for line in logs].count("call_list.unavailable") == 1
        site.calls.go.set()
        assert (await site.ask("/calls?number=1")).body == OK


async def test_a_thousand_lines_are_written_bit_by_bit(site: Site) -> None:
    """Others get their turn in between."""
    site.calls.page = Page([ROW] * 1000, None)
    turns, done = 0, asyncio.Event()

    async def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    listing = CallListing(by_number=site.calls, refusal=AwayError, key=str, timezone=UTC)
    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    before = turns
    lines = await listing._lines(site.calls.page.rows)
    between = turns - before
    done.set()
    await counting
    assert len(lines) == 1000
    assert between >= 9


# Operations


@pytest.mark.parametrize(("allow", "source", "status"), [
    (["203.0.113.7"], "127.0.0.1", 200),  # this machine itself
    (["127.0.0.5"], "127.0.0.5", 200),
])  # fmt: skip
async def test_health_needs_no_credentials(allow: list[str], source: str, status: int) -> None:
    async with running(allow=allow) as site:
        for path in ("/healthz", "/readyz", "/metrics"):
            for method in ("GET", "HEAD"):
                assert (await site.ask(path, method=method, auth=None, source=source)).status == status


async def test_health_is_not_for_everybody() -> None:
    async with running(allow=["203.0.113.7"], proxies=["127.0.0.1"]) as site:
        for path in ("/healthz", "/readyz", "/metrics"):
            outside = await site.ask(path, auth=None, headers=[("X-Forwarded-For", "198.51.100.1")])
            assert (outside.status, outside.code) == (403, "address_not_allowed")
            inside = await site.ask(path, auth=None, headers=[("X-Forwarded-For", "203.0.113.7")])
            assert inside.status == 200
    async with running(allow=["203.0.113.7"]) as site:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await site.ask(path, auth=None, source="127.0.0.9")).status == 200, "this machine"


async def test_health_for_this_machine_which_has_a_proxy() -> None:
    async with running(allow=["203.0.113.7"], proxies=["127.0.0.1"]) as site:
        assert (await site.ask("/healthz", auth=None)).status == 200
        assert (await site.ask("/healthz", auth=None, headers=[("X-Forwarded-For", "127.0.0.1")])).status == 403
        assert (await site.ask("/calls?number=1")).code == "address_not_allowed"


async def test_readiness_says_why_not(site: Site) -> None:
    assert (await site.ask("/readyz")).body == b'{"success":true,"reasons":[]}'
    site.troubles.append("no connection to Asterisk at 127.0.0.1:5038")
    answer = await site.ask("/readyz")
    assert answer.status == 503
    assert json.loads(answer.body) == {"success": False, "reasons": ["no connection to Asterisk at 127.0.0.1:5038"]}
    assert (await site.ask("/healthz")).status == 200


# The server


class Odd:
    """A part that misbehaves."""

    needs_credentials = True

    def routes(self) -> list[web.RouteDef]:
        async def broken(request: web.Request) -> web.Response:
            raise RuntimeError(f"secret in {request.path}")

        async def slow(request: web.Request) -> web.Response:
            raise TimeoutError(request.path)

        async def half(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_length = 1000
            await response.prepare(request)
            await response.write(b"half")
            raise RuntimeError("the rest is missing")

        return [web.get("/broken", broken), web.get("/slow", slow), web.get("/half", half)]

    async def close(self) -> None: ...


@pytest.mark.parametrize("path", ["/broken", "/slow"])
async def test_a_handler_that_fails(path: str) -> None:
    with capture_logs() as logs:
        async with running(extra=[Odd()]) as site:
            answer = await site.ask(path)
            assert (answer.status, answer.code) == (500, "internal_error")
            assert b"secret" not in answer.body
            assert (await site.ask("/healthz")).status == 200
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["http.failed"]


async def test_a_handler_that_fails_in_the_middle_of_its_answer() -> None:
    """Nothing else comes on that connection, or it would be taken for the rest."""
    request = f"GET /half HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\n\r\n".encode()
    with capture_logs() as logs:
        async with running(extra=[Odd()]) as site:
            answer = Answer(await closed(site, request * 2))
            assert (answer.status, answer.body) == (200, b"half")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["http.failed"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: 1\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic secretsecret\x00\r\n\r\n",
    ],
)
async def test_what_is_no_http(request_bytes: bytes) -> None:
    with capture_logs() as logs:
        async with running() as site:
            answer = await site.raw(request_bytes)
            assert (answer.status, answer.code) == (400, "bad_request")
            assert answer.headers["server"] == "crmbridge"
    assert "secretsecret" not in repr(logs)
    assert [line["address"] for line in logs if line["event"] == "http.malformed"] == ["127.0.0.1"]


async def test_an_expectation_that_nobody_meets(site: Site) -> None:
    answer = await site.ask(CLICK, method="POST", headers=[("Expect", "200-ok")])
    assert (answer.status, answer.code) == (417, "expectation_failed")
    assert answer.headers["server"] == "crmbridge"
    assert site.pbx.calls == []


async def test_a_body_that_breaks(site: Site) -> None:
    head = f"POST /dialer/sodialer.php HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\nTransfer-Encoding: chunked\r\n"
    form = "Content-Type: application/x-www-form-urlencoded\r\n\r\n5\r\nsExt=\r\nzz\r\nbroken"
    answer = await site.raw(f"{head}{form}".encode())
    assert (answer.status, answer.code) == (400, "bad_request")
    assert site.pbx.calls == []


async def test_a_body_that_breaks_after_the_answer(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Who may not even ask must not be able to fill the log with tracebacks."""
    head = "POST /dialer/sodialer.php HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: deflate\r\n"
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await site.connect()
        writer.write(f"{head}Content-Length: 6\r\n\r\n".encode())
        assert Answer(await reader.readuntil(b"}}")).status == 401
        writer.write(b"\xff" * 6)
        await reader.read()
        writer.close()
    assert [line.name for line in caplog.records if line.levelname == "ERROR"] == []


async def test_a_compressed_body_is_not_unpacked(site: Site) -> None:
    bomb = zlib.compress(b"sExt=777&sNumber=033004799&ClientId=10&x=" + b"0" * 1_000_000)
    answer = await site.ask(
        "/dialer/sodialer.php", method="POST", body=bomb, headers=[
            ("Content-Encoding", "deflate"), ("Content-Type", "application/x-www-form-urlencoded")
        ]
    )  # fmt: skip
    assert answer.status == 400
    assert site.pbx.calls == []


async def test_two_requests_on_one_connection(site: Site) -> None:
    request = f"GET /calls?number=1 HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\n"
    both = f"{request}\r\n{request}Connection: close\r\n\r\n".encode()
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await site.connect()
        writer.write(both)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.count(OK) == 2
    assert len(site.calls.asked) == 2


async def closed(site: Site, sent: bytes, source: str | None = None) -> bytes:
    """What comes before the server closes by itself."""
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await site.connect(source)
        writer.write(sent)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"]
)
async def test_slow_heads_and_idle_connections_end(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 0.1)
    async with running() as site:
        await closed(site, sent)


async def test_a_slow_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "BODY_S", 0.1)
    monkeypatch.setattr(connection, "LINGER_S", 0.1)
    async with running() as site:
        head = f"POST /dialer/sodialer.php HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\nContent-Length: 50\r\n"
        answer = Answer(
            await closed(site, f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nsExt".encode())
        )
    assert (answer.status, answer.code) == (408, "request_timeout")


async def test_too_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers who hold all they can get don't keep out the CRM, and nobody can take all file descriptors."""
    monkeypatch.setattr(connection, "MOST_STRANGERS", 3)
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 5)

    monkeypatch.setattr(Access, "may_connect", lambda _, peer: peer == "127.0.0.5")
    request = b"GET / HTTP/1.0\r\n\r\n"
    async with running(allow=["127.0.0.5"]) as site, asyncio.timeout(LIMIT_S):
        held = [await site.connect("127.0.0.6") for _ in range(3)]
        assert await closed(site, request, "127.0.0.6") == b""
        assert (await site.ask(CLICK, source="127.0.0.5")).body == OK
        held += [await site.connect("127.0.0.5") for _ in range(5)]
        assert await closed(site, request, "127.0.0.5") == b""
        for reader, writer in held:
            writer.write(request)
            assert await reader.read(), "who came in time is served"
            writer.close()
        assert await closed(site, request, "127.0.0.6"), "there is room again"
        assert await closed(site, request, "127.0.0.5")


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            OSError, match=rf"^\[Errno 98\] http\.listen = '{listen}': .* another program has this port"
        ):
            async with running(listen=listen):
                pass


async def test_an_address_that_is_not_this_machine_s() -> None:
    with pytest.raises(OSError, match=r"http\.listen = '203\.0\.113\.77:6560'.*no such address"):
        async with running(listen="203.0.113.77:6560"):
            pass


async def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_name_server(*_args: object, **_options: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_name_server)
    with pytest.raises(OSError, match="this name has no address"):
        async with running(listen="pbx.example:6560"):
            pass


async def test_a_socket_that_is_bound_already() -> None:
    async with running(listen=socket.create_server(("127.0.0.1", 0))) as site:
        assert (await site.ask(CLICK)).body == OK


async def test_ipv6() -> None:
    async with running(listen="[::1]:0", allow=["::1/128"]) as site:
        assert (await site.ask(CLICK)).body == OK


async def test_the_port_is_free_after_a_stop() -> None:
    async with running() as site:
        host, port = site.server.address
        assert (await site.ask(CLICK)).body == OK
    async with running(listen=f"{host}:{port}") as again:
        assert (await again.ask(CLICK)).body == OK


async def test_a_line_for_each_request_without_secrets() -> None:
    query = urlencode(
        {"sExt": "777", "sNumber": "033004799", "ClientId": "10", "username": "crm", "password": "s3cret"}
    )
    with capture_logs() as logs:
        async with running(as_parameters=True, proxies=["127.0.0.1"], allow=["203.0.113.7"]) as site:
            await site.ask(f"/dialer/sodialer.php?{query}", auth=None, headers=[("X-Forwarded-For", "203.0.113.7")])
    (line,) = [line for line in logs if line["event"] == "http.request"]
    assert line["duration_ms"] >= 0
    assert {name: line[name] for name in ("address", "method", "path", "query", "status")} == {
        "address": "203.0.113.7",
        "method": "GET",
        "path": "/dialer/sodialer.php",
        "query": "sExt=777&sNumber=033004799&ClientId=10&username=***&password=***",
        "status": 200,
    }
