"""Recordings on a real socket: what is found, who may have it, how it is sent, and what a disk that hangs does."""

# small files
from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import pytest
from structlog.testing import capture_logs
from tests.integration.test_bridge import daemon, trace, write
from tests.integration.test_web import ELEVEN, GOOD, LIMIT_S, OF_ELEVEN, ROW, Answer, Site, closed, running

from crmbridge.calls.history import Page
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.web import connection, disk, folder
from crmbridge.web import recordings as served
from crmbridge.web.access import Access
from crmbridge.web.links import Links
from crmbridge.web.recordings import Recordings
from crmbridge.web.recordings_by_pbx import RecordingsByPbx

NOW_S = 1795413177.0
SOUND = bytes(range(256)) * 40
NAME = "in-trunk-0521234567-20261123-055257-1795413177.274.wav"
DAY = "2026/11/23"
OTHER = "q-600-0521234567-20261123-060000-1795413600.9.wav"


OF_CRM = "Basic " + base64.b64encode(b"crm:http-s3cret").decode()


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Desk:
    """The server with a folder of recordings."""

    def __init__(self, site: Site, monitor: Path, recordings: Recordings, clock: Clock) -> None:
        self.site, self.monitor, self.recordings, self.clock = site, monitor, recordings, clock

    async def ask(self, path: str, **more: object) -> Answer:
        return await self.site.ask(f"/recordings/{path}", **more)  # type: ignore[arg-type]

    async def get(self, path: str, *headers: tuple[str, str], method: str = "GET") -> Answer:
        return await self.ask(path, method=method, headers=headers)

    async def follow(self, link: str | None, source: str | None = None, auth: str | None = None) -> Answer:
        assert link
        return await self.site.ask(link, auth=auth, source=source)

    def link(self, name: str = NAME, client_id: str = "10") -> str:
        link = self.recordings.link(name, client_id)
        assert link is not None
        return link


@asynccontextmanager
async def serving(monitor: Path, **options: object) -> AsyncIterator[Desk]:
    clock = Clock()
    recordings = Recordings(folder=monitor, links=Links(b"k" * 32, expire_s=3600), clock=clock)
    async with running(extra=[recordings], **options) as site:  # type: ignore[arg-type]
        yield Desk(site, monitor, recordings, clock)


def put(file: Path, content: bytes = SOUND) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (NOW_S, NOW_S))
    return file


@pytest.fixture
def monitor(tmp_path: Path) -> Path:
    monitor = tmp_path / "monitor"
    put(monitor / DAY / NAME)
    put(monitor / DAY / OTHER, SOUND[::-1])
    return monitor


@pytest.fixture
async def desk(monitor: Path) -> AsyncIterator[Desk]:
    async with serving(monitor) as desk:
        yield desk


# What is found


async def test_a_recording(desk: Desk) -> None:
    answer = await desk.get(NAME)
    assert (answer.status, answer.body) == (200, SOUND)
    etag = answer.headers.pop("etag")
    assert etag.startswith('"')
    answer.headers.pop("date")
    assert answer.headers == {
        "content-type": "audio/wav",
        "content-length": str(len(SOUND)),
        "content-disposition": f'inline; filename="{NAME}"',
        "last-modified": "Mon, 23 Nov 2026 05:52:57 GMT",
        "accept-ranges": "bytes",
        "cache-control": "private, no-store",
        "x-content-type-options": "nosniff",
        "server": "crmbridge",
        "connection": "close",
    }


@pytest.mark.parametrize(
    ("there", "asked", "kind"),
    [
        ("2026/11/23/in-t-1-20261123-000001-1.2.wav", "in-t-1-20261123-000001-1.2.wav", "audio/wav"),
        ("in-t-1-20261123-000001-1.2.wav", "in-t-1-20261123-000001-1.2.wav", "audio/wav"),
        ("2026/11/23/in-t-1-20261123-000001-1.2.WAV", "in-t-1-20261123-000001-1.2.wav49", "audio/wav"),
        ("2026/11/23/in-t-1-20261123-000001-1.2.WAV", "in-t-1-20261123-000001-1.2.wav", "audio/wav"),
        ("2026/11/23/in-t-1-20261123-000001-1.2.mp3", "in-t-1-20261123-000001-1.2.wav", "audio/mpeg"),
        ("2026/11/23/in-t-1-20261123-000001-1.2.gsm", "in-t-1-20261123-000001-1.2", "audio/x-gsm"),
        ("calls/1795413177.274.ogg", "calls/1795413177.274", "audio/ogg"),
        ("calls/1795413177.274.ulaw", "calls//1795413177.274.ulaw", "audio/basic"),
        ("שיחה 1.wav", "שיחה 1.wav", "audio/wav"),
        ("a%2e.wav", "a%2e.wav", "audio/wav"),
        ("a+b&c=d?e#f;g.wav", "a+b&c=d?e#f;g.wav", "audio/wav"),
    ],
)
@pytest.mark.parametrize("spelled", ["as it is", "absolute", "absolute, without its slash", "all escaped"])
async def test_spellings(desk: Desk, there: str, asked: str, kind: str, spelled: str) -> None:
    put(desk.monitor / there)
    path = asked if spelled == "as it is" else f"{desk.monitor}/{asked}"
    if spelled.endswith("slash"):
        path = path.lstrip("/")
    if spelled == "absolute" and (desk.monitor / asked).parent != (desk.monitor / there).parent:
        path = str(desk.monitor / there).rpartition("/")[0] + "/" + asked
    escaped = "".join(f"%{byte:02x}" for byte in path.encode()) if spelled == "all escaped" else quote(path)
    answer = await desk.get(escaped)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert answer.body == SOUND


async def test_a_folder_that_is_a_link_and_links_that_stay_inside(tmp_path: Path, monitor: Path) -> None:
    (tmp_path / "spool").symlink_to(monitor)
    put(monitor / "2025/a.wav")
    (monitor / "old").symlink_to("2025")
    (monitor / "older").symlink_to(monitor / "2025")
    (monitor / "b.wav").symlink_to(monitor / "old/a.wav")
    async with serving(tmp_path / "spool") as desk:
        assert (await desk.get(NAME)).body == SOUND
        for path in ("old/a.wav", "older/a.wav", "b.wav", f"{tmp_path}/spool/old/a.wav", f"{monitor}/2025/a.wav"):
            assert (await desk.get(quote(path))).body == SOUND
        link = desk.recordings.link(f"{monitor}/{DAY}/{NAME}", "10")
        assert (await desk.follow(link)).body == SOUND


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("in-t-1-20261123-000009-1.2.wav", "(looked in 2026/11/23 and the recordings' folder itself)"),
        ("d/in-t-1-20261123-000009-1.2.wav", "(looked in d)"),
        ("a.wav", "(looked in the recordings' folder itself)"),
        ("../monitor/a.wav", "no recording has such a name"),
        ("/etc/passwd", "no recording has such a name"),
    ],
)
async def test_what_is_not_there(desk: Desk, name: str, says: str) -> None:
    answer = await desk.get(quote(name))
    assert (answer.status, answer.code) == (404, "recording_not_found")
    assert says in answer.body.decode()
    assert str(desk.monitor).encode() not in answer.body


@pytest.mark.parametrize(("name", "size"), [("a.wav", 44), ("a.wav", 0), ("a.WAV", 60), ("a.gsm", 0)])
async def test_a_header_without_sound(desk: Desk, name: str, size: int) -> None:
    put(desk.monitor / name, b"x" * size)
    answer = await desk.get(name)
    assert (answer.status, answer.code) == (404, "recording_empty")
    put(desk.monitor / name, b"x" * 62)
    assert len((await desk.get(name)).body) == 62


async def test_a_recording_that_is_still_written(desk: Desk) -> None:
    """What is there is sent, and is another recording for who asks on when there is more."""
    file = put(desk.monitor / "a.wav", SOUND[:100])
    first = await desk.get("a.wav")
    put(file, SOUND)
    rest = await desk.get("a.wav", ("Range", "bytes=100-"), ("If-Range", first.headers["etag"]))
    assert first.body == SOUND[:100]
    assert (rest.status, rest.body) == (200, SOUND)
    assert first.headers["cache-control"] == "private, no-store"


async def test_a_folder_that_is_away(desk: Desk) -> None:
    with capture_logs() as logs:
        shutil.move(desk.monitor, desk.monitor.with_name("away"))
        answers = [await desk.get(NAME) for _ in range(3)]
        shutil.move(desk.monitor.with_name("away"), desk.monitor)
        assert (await desk.get(NAME)).body == SOUND
    assert {(answer.status, answer.code) for answer in answers} == {(503, "recordings_unavailable")}
    assert answers[0].headers["retry-after"] == "10"
    assert str(desk.monitor).encode() not in answers[0].body
    told = [line["event"] for line in logs if line["event"].startswith("recordings.")]
    assert told == ["recordings.unavailable", "recordings.available"]
    (reason,) = [line["reason"] for line in logs if line["event"] == "recordings.unavailable"]
    assert reason.startswith(f"{desk.monitor}: No such file or directory; can the daemon's user")


async def test_a_recording_that_may_not_be_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is for a user who is not root, whom tests may be run by."""
    really = os.open

    def not_ours(path: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        if flags & folder.READ == folder.READ:
            raise PermissionError(13, "Permission denied")
        return really(path, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", not_ours)
    answer = await desk.get(NAME)
    assert (answer.status, answer.code) == (503, "recordings_unavailable")


@pytest.mark.parametrize("first", [0, 3, 6, 39, 42, 43, 44, 45])
async def test_the_header_of_a_recording_that_grows(desk: Desk, first: int) -> None:
    """It is mended in whatever part is asked for."""
    header = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 0, b"WAVEfmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 0)
    file = put(desk.monitor / "a.wav", header + SOUND)
    right = b"RIFF" + struct.pack("<I", len(SOUND) + 36) + header[8:40] + struct.pack("<I", len(SOUND)) + SOUND
    assert (await desk.get("a.wav", ("Range", f"bytes={first}-"))).body == right[first:]
    assert (await desk.get("a.wav", ("Range", f"bytes={first}-{first + 2}"))).body == right[first : first + 3]
    assert (await desk.get("a.wav")).body == right
    assert file.read_bytes() == header + SOUND


@pytest.mark.parametrize("mtime_s", [-1, 0, 2**34 - 1])
async def test_a_file_of_an_impossible_time(desk: Desk, mtime_s: int) -> None:
    os.utime(desk.monitor / DAY / NAME, (0, mtime_s))
    assert (await desk.get(NAME, ("If-Modified-Since", "Mon, 23 Nov 2026 05:52:57 GMT"))).status in {200, 304}


async def test_no_file_stays_open(desk: Desk) -> None:
    put(desk.monitor / "a.wav", b"")
    for _ in range(3):
        assert [(await desk.get(name)).status for name in (NAME, "a.wav", "b.wav")] == [200, 404, 404]
        assert (await desk.get(NAME, ("Range", "bytes=9999999-"))).status == 416
        assert (await desk.get(NAME, ("If-None-Match", "*"))).status == 304
    await until(lambda: not open_in(desk.monitor))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110  # what other threads and the kernel do sets no event
            await asyncio.sleep(0.01)


def open_in(monitor: Path) -> list[str]:
    """What this process has open below a folder."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if path.startswith(str(monitor)):
            found.append(path)
    return found


# Who may have it


async def test_the_call_list_links_to_its_recordings(monitor: Path) -> None:
    clock = Clock()
    recordings = Recordings(folder=monitor, links=Links(b"k" * 32, expire_s=3600), clock=clock)
    rows = [ROW._replace(filename=NAME), ROW._replace(filename=f"{monitor}/{DAY}/{OTHER}"), ROW]
    page = Page([*rows, ROW._replace(filename="/etc/passwd")], None)
    with pytest.MonkeyPatch.context() as patch:
        of_all = RecordingsByPbx({ROW.pbx: recordings})
        patch.setattr("tests.integration.test_web.link", of_all.link)
        async with running(extra=[of_all]) as site:
            site.calls.page = page
            result = json.loads((await site.ask("/calls?number=1")).body)["result"]
            assert ["link" in line for line in result] == [True, True, False, False]
            bodies = [(await site.ask(line["link"], auth=None)).body for line in result[:2]]
    assert bodies == [SOUND, SOUND[::-1]]


async def test_a_pbx_may_have_any_name(monitor: Path) -> None:
    name = "תל אביב %2F?#"
    recordings = Recordings(folder=monitor, links=Links(b"k" * 32, expire_s=3600), prefix=f"{name}/", clock=Clock())
    of_all = RecordingsByPbx(
        {"haifa": Recordings(folder=monitor.parent, links=Links(b"k", expire_s=1)), name: recordings}
    )
    async with running(extra=[of_all]) as site:
        for filename in (f"{name}/{NAME}", NAME, f"{name}{monitor}/{DAY}/{NAME}"):
            link = of_all.link(filename, "10", name)
            assert link is not None
            answer = await site.ask(link, auth=None)
            assert (answer.status, answer.body) == (200, SOUND)
        assert (await site.ask(f"/recordings/{quote(name)}/{NAME}")).body == SOUND
        assert of_all.link(NAME, "10", "acre") is None


async def test_a_link_opens_one_recording_for_a_while(desk: Desk) -> None:
    link = desk.link()
    assert link.startswith(f"/recordings/{NAME}?ClientId=10&expires=1795416777&signature=")
    assert (await desk.follow(link)).body == SOUND
    assert (await desk.follow(f"{link}&download=1")).headers["content-disposition"].startswith("attachment")
    assert (await desk.site.ask(link, auth=None, method="HEAD")).status == 200
    desk.clock.now_s += 3599
    assert (await desk.follow(link)).status == 200
    desk.clock.now_s += 1
    answer = await desk.follow(link)
    assert (answer.status, answer.code) == (403, "link_expired")
    assert (await desk.follow(link, auth=GOOD)).body == SOUND, "the credentials count then"
    assert (await desk.follow(link, auth="Basic eDp5")).code == "not_authenticated"


@pytest.mark.parametrize(
    ("what", "by"),
    [
        (NAME, OTHER),
        (NAME, f"{DAY}/{NAME}"),
        (NAME, NAME.upper()),
        ("ClientId=10", "ClientId=11"),
        ("ClientId=10", "ClientId="),
        ("ClientId=10&", ""),
        ("clientid", "ClientId"),
        ("expires=1", "expires=2"),
        ("expires=", "expires=0"),
        ("expires=1795416777&", ""),
        ("signature=", "signature=A"),
        ("signature=", "signature=&x="),
        ("signature=", "Signature="),
    ],
)
async def test_a_link_that_was_altered(desk: Desk, what: str, by: str) -> None:
    link = desk.link()
    altered = link.replace(what, by) if what in link else f"{link}&{by}=10"
    assert altered != link
    answer = await desk.follow(altered)
    assert answer.status in {400, 401, 403}
    assert answer.code in {"link_invalid", "malformed_parameter", "not_authenticated"}


@pytest.mark.parametrize("at", range(43))
async def test_each_character_of_the_signature_counts(desk: Desk, at: int) -> None:
    head, _, signature = desk.link().partition("signature=")
    wrong = signature[:at] + ("B" if signature[at] == "A" else "A") + signature[at + 1 :]
    answer = await desk.follow(f"{head}signature={wrong}")
    assert (answer.status, answer.code) == (403, "link_invalid")


async def test_a_link_opens_nothing_else(desk: Desk) -> None:
    _, _, query = desk.link().partition("?")
    for path in ("/calls", "/dialer/sodialer.php", f"/recordings/{OTHER}", "/recordings/", "/nothing", "/recordings"):
        answer = await desk.site.ask(f"{path}?{query}&number=1", auth=None)
        assert answer.status in {401, 403}
        assert answer.code in {"not_authenticated", "link_invalid"}
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert (await desk.site.ask(desk.link(), auth=None, method=method)).status == 401
    assert (await desk.follow(desk.link() + "&signature=x")).code == "malformed_parameter"


async def test_links_from_where_one_may_do_nothing_else(monitor: Path) -> None:
    browser, stranger = "127.0.2.1", "127.0.3.1"
    async with serving(monitor, allow=["127.0.0.5"], links_from=["127.0.2.0/24"]) as desk:
        assert (await desk.follow(desk.link(), browser)).body == SOUND
        assert (await desk.follow(desk.link(), "127.0.0.5")).body == SOUND
        assert (await desk.follow(desk.link(), stranger)).code == "address_not_allowed"
        assert (await desk.follow(desk.link().replace("=10", "=11"), browser)).code == "link_invalid"
        for path in (f"/recordings/{NAME}", "/calls?number=1", "/dialer/sodialer.php", "/x"):
            answer = await desk.site.ask(path, source=browser)
            assert (answer.status, answer.code) == (403, "address_not_allowed")
        with capture_logs() as logs:
            assert (await desk.site.ask("/favicon.ico", auth=None, source=browser)).code == "address_not_allowed"
        assert {line["log_level"] for line in logs} == {"info"}, "fail2ban bans nobody whose browser asks for an icon"
        desk.clock.now_s += 3600
        assert (await desk.follow(desk.link("x.wav"), browser)).code == "recording_not_found"


async def test_links_behind_a_proxy(monitor: Path) -> None:
    async with serving(monitor, allow=["203.0.113.7"], proxies=["127.0.0.1"], links_from=["198.51.100.0/24"]) as desk:
        for forwarded, status in (("198.51.100.9", 200), ("203.0.113.7", 200), ("192.0.2.1", 403), ("127.0.0.1", 403)):
            headers = [("X-Forwarded-For", forwarded)]
            assert (await desk.site.ask(desk.link(), auth=None, headers=headers)).status == status
            health = await desk.site.ask("/healthz", auth=None, headers=headers)
            assert health.status == (200 if forwarded == "203.0.113.7" else 403)
        assert (await desk.site.ask(desk.link(), auth=None)).status == 403


async def test_who_follows_links_takes_nobody_s_place(monitor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_READERS", 3)
    monkeypatch.setattr(Access, "may_connect", lambda _, peer: peer == "127.0.0.5")
    async with serving(monitor, allow=["127.0.0.5"], links_from=["127.0.2.0/24"]) as desk, asyncio.timeout(LIMIT_S):
        held = [await desk.site.connect("127.0.2.1") for _ in range(3)]
        assert await closed(desk.site, b"GET / HTTP/1.0\r\n\r\n", "127.0.2.2") == b"", "there is no room"
        assert (await desk.ask(NAME, source="127.0.0.5")).body == SOUND
        assert (await desk.ask(NAME, source="127.0.3.1")).code == "address_not_allowed", "nor a stranger's"
        for _, writer in held:
            writer.close()


async def test_a_client_with_credentials_of_its_own_opens_what_its_list_links_to(monitor: Path) -> None:
    async with serving(monitor, allow=["127.0.0.10"], others=[ELEVEN]) as desk:
        for auth, source in ((OF_ELEVEN, "127.0.0.11"), (GOOD, "127.0.0.10")):
            answer = await desk.ask(NAME, auth=auth, source=source)
            assert (answer.status, answer.code) == (403, "link_needed")
            assert (await desk.follow(desk.link(client_id="11"), source)).body == SOUND
            assert (await desk.follow(desk.link(client_id="11"), source, auth)).body == SOUND


async def test_without_credentials(desk: Desk) -> None:
    assert (await desk.ask(NAME, auth=None)).code == "not_authenticated"
    assert (await desk.ask("../x", auth=None)).code == "not_authenticated"


@pytest.mark.parametrize(
    "path",
    [
        "{link}",
        "{link}&signature={signature}",
        "{link}&x=1",
        "{name}?signatur%65={signature}",
        "{name}?SIGNATURE={signature}&expires=1&ClientId=10",
        "{name}?a;signature={signature}",
        "{name}?signature[]={signature}",
        "{name}%3Fsignature={signature}",
        "{name}%253Fsignature%253D{signature}",
        "{name}&signature={signature}",
        "{name}?{padding}&signature={signature}",
    ],
)
async def test_no_log_shows_a_signature(monitor: Path, path: str) -> None:
    with capture_logs() as logs:
        async with serving(monitor) as desk:
            link = desk.link().removeprefix("/recordings/")
            name, _, query = link.partition("?")
            signature = query.partition("signature=")[2]
            asked = path.format(link=link, name=name, signature=signature, padding="a=" + "b" * 280)
            await desk.ask(asked, auth=None)
            await desk.ask(asked)
    assert [line["event"] for line in logs].count("http.request") == 2
    assert len(signature) == 43
    assert signature[:20] not in unquote(unquote(repr(logs)))


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("download=yes", "malformed_parameter"),
        ("download=1&download=1", "malformed_parameter"),
        ("Download=1", "malformed_parameter"),
        ("expires=1&expires=2", "malformed_parameter"),
        ("range=1", "malformed_parameter"),
    ],
)
async def test_parameters_that_mean_nothing(desk: Desk, query: str, code: str) -> None:
    answer = await desk.get(f"{NAME}?{query}")
    assert (answer.status, answer.code) == (400, code)


# How it is sent


async def test_what_a_browser_does(desk: Desk) -> None:
    """An <audio> element: all of it, which it gives up; the end, for the length; then from where somebody clicks."""
    first = await desk.get(NAME, ("Range", "bytes=0-"))
    assert (first.status, first.body) == (206, SOUND)
    assert first.headers["content-range"] == f"bytes 0-{len(SOUND) - 1}/{len(SOUND)}"
    same = ("If-Range", first.headers["etag"])
    end = await desk.get(NAME, ("Range", "bytes=-128"), same)
    assert (end.status, end.body) == (206, SOUND[-128:])
    assert end.headers["content-range"] == f"bytes {len(SOUND) - 128}-{len(SOUND) - 1}/{len(SOUND)}"
    click = await desk.get(NAME, ("Range", "bytes=5000-5999"), same)
    assert (click.status, click.body, click.headers["content-length"]) == (206, SOUND[5000:6000], "1000")
    beyond = await desk.get(NAME, ("Range", f"bytes={len(SOUND)}-"), same)
    assert (beyond.status, beyond.code) == (416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(SOUND)}"
    several = await desk.get(NAME, ("Range", "bytes=0-9,20-29"))
    assert (several.status, several.body) == (200, SOUND)
    by_date = await desk.get(NAME, ("Range", "bytes=0-9"), ("If-Range", first.headers["last-modified"]))
    assert (by_date.status, by_date.body) == (206, SOUND[:10])


async def test_conditions(desk: Desk) -> None:
    etag = (await desk.get(NAME)).headers["etag"]
    kept = await desk.get(NAME, ("If-None-Match", etag))
    assert (kept.status, kept.body, kept.headers["etag"]) == (304, b"", etag)
    assert "content-type" not in kept.headers
    failed = await desk.get(NAME, ("If-Match", '"x"'))
    assert (failed.status, failed.code) == (412, "precondition_failed")


async def test_heads(desk: Desk) -> None:
    whole, head = await desk.get(NAME), await desk.get(NAME, ("Range", "bytes=0-9"), method="HEAD")
    whole.headers.pop("date")
    head.headers.pop("date")
    assert (head.status, head.body, head.headers) == (200, b"", whole.headers)
    assert (await desk.get("x.wav", method="HEAD")).status == 404


async def test_the_next_request_on_the_same_connection(desk: Desk) -> None:
    request = f"GET /recordings/{NAME} HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\n"
    answer = await desk.site.raw(f"{request}\r\n{request}Connection: close\r\n\r\n".encode())
    assert answer.body.count(SOUND) == 2


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("a b.wav", 'filename="a b.wav"'),
        ('a"b\\c.wav', "filename=\"a_b_c.wav\"; filename*=UTF-8''a%22b%5Cc.wav"),
        ("שיחה.wav", "filename=\"____.wav\"; filename*=UTF-8''%D7%A9%D7%99%D7%97%D7%94.wav"),
        ("a;b=c,d'e.wav", 'filename="a;b=c,d\'e.wav"'),
        ("a%41.wav", "filename=\"a_41.wav\"; filename*=UTF-8''a%2541.wav"),
        ("d/e/a.wav", 'filename="a.wav"'),
    ],
)
async def test_names_of_downloads(desk: Desk, name: str, disposition: str) -> None:
    put(desk.monitor / name)
    assert (await desk.get(quote(name))).headers["content-disposition"] == f"inline; {disposition}"
    assert (await desk.get(f"{quote(name)}?download=1")).headers["content-disposition"] == f"attachment; {disposition}"
    assert (await desk.get(f"{quote(name)}?download=0")).headers["content-disposition"] == f"inline; {disposition}"


LARGE = os.urandom(1024 * 1024) * 24


async def held(desk: Desk, name: str = "large.wav", source: str = "127.0.0.1") -> asyncio.StreamWriter:
    """A download that has begun and whose client takes no more."""
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.bind((source, 0))
    stream.setblocking(False)  # noqa: FBT003
    await asyncio.get_running_loop().sock_connect(stream, desk.site.server.address)
    reader, writer = await asyncio.open_connection(sock=stream, limit=1024)
    writer.write(f"GET /recordings/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
    return writer


async def test_a_large_recording_comes_whole(desk: Desk) -> None:
    put(desk.monitor / "large.wav", LARGE)
    assert (await desk.get("large.wav")).body == LARGE
    at = len(LARGE) - 300_000
    assert (await desk.get("large.wav", ("Range", f"bytes={at}-"))).body == LARGE[at:]


async def test_a_client_that_takes_nothing_is_let_go(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "STALL_S", 0.1)
    put(desk.monitor / "large.wav", LARGE)
    with capture_logs() as logs:
        writer = await held(desk)
        await until(lambda: not open_in(desk.monitor))
    (line,) = [line for line in logs if line["event"] == "recordings.cut_off"]
    assert line["bytes_left"] > 0
    assert line["reason"] == "the client takes nothing, or too long"
    writer.close()
    assert (await desk.get(NAME)).body == SOUND


async def test_a_download_does_not_last_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "LONGEST_S", 0.1)
    put(desk.monitor / "large.wav", LARGE)
    writer = await held(desk)
    await until(lambda: not open_in(desk.monitor))
    writer.close()


async def test_who_goes_away_in_the_middle_leaves_nothing_behind(desk: Desk) -> None:
    put(desk.monitor / "large.wav", LARGE)
    with capture_logs() as logs:
        writer = await held(desk)
        assert open_in(desk.monitor)
        writer.transport.abort()
        await until(lambda: not open_in(desk.monitor))
    assert [line["event"] for line in logs if line["log_level"] in {"error", "warning"}] == []


async def test_too_many_downloads(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "MOST_PER_ADDRESS", 2)
    monkeypatch.setattr(served, "MOST_DOWNLOADS", 3)
    put(desk.monitor / "large.wav", LARGE)
    writers = [await held(desk) for _ in range(2)]
    answer = await desk.get(NAME)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "too_many_downloads", "5")
    writers.append(await held(desk, source="127.0.0.2"))
    assert (await desk.ask(NAME, source="127.0.0.3")).code == "too_many_downloads"
    assert (await desk.site.ask("/calls?number=1")).status == 200
    for writer in writers:
        writer.transport.abort()
    await until(lambda: not open_in(desk.monitor))
    assert (await desk.get(NAME)).status == 200
    assert not desk.recordings._downloads, "addresses are forgotten"


async def test_a_recording_that_becomes_shorter_while_it_is_sent(desk: Desk) -> None:
    """The client must not take a part for the whole."""
    file = put(desk.monitor / "large.wav", LARGE)
    with capture_logs() as logs:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await desk.site.connect()
            writer.write(f"GET /recordings/large.wav HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            os.truncate(file, 1000)
            got = b""
            try:
                while data := await reader.read(65536):
                    got += data
            except ConnectionResetError:
                pass
            writer.close()
    assert len(got) < len(LARGE)
    assert [line["reason"] for line in logs if line["event"] == "recordings.cut_off"] == [
        "the recording has become shorter meanwhile"
    ]


async def test_stopping_while_a_recording_is_sent(monitor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crmbridge.web.server.STOP_S", 0.05)
    put(monitor / "large.wav", LARGE)
    async with serving(monitor) as desk:
        writer = await held(desk)
    await until(lambda: not open_in(monitor))
    writer.close()


# A disk that hangs


class Hanging:
    """A call that hangs until it is let go."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self.go = threading.Event()
        self.times = 0

    def __call__(self, *arguments: object) -> object:
        self.times += 1
        self.go.wait(LIMIT_S)
        return self._call(*arguments)


async def test_a_disk_that_hangs_when_a_file_is_opened(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests hang as there are threads, and more: all are answered, and nothing else notices."""
    monkeypatch.setattr(served, "DISK_S", 0.2)
    hanging = Hanging(folder.open_first)
    monkeypatch.setattr(folder, "open_first", hanging)
    with capture_logs() as logs:
        asked = [asyncio.create_task(desk.get(NAME)) for _ in range(12)]
        await until(lambda: hanging.times == 8)
        assert (await desk.site.ask("/calls?number=1")).status == 200
        assert (await desk.site.ask("/healthz")).status == 200
        # asyncio's own threads are free
        assert await asyncio.get_running_loop().run_in_executor(None, lambda: 1) == 1
        answers = await asyncio.gather(*asked)
    assert {(answer.status, answer.code) for answer in answers} == {(503, "recordings_unavailable")}
    assert [line["event"] for line in logs].count("recordings.unavailable") == 1
    hanging.go.set()
    monkeypatch.setattr(served, "DISK_S", 10)
    assert (await desk.get(NAME)).body == SOUND
    assert hanging.times == 9, "what nobody waited for any more was not begun"
    await until(lambda: not open_in(desk.monitor))


async def test_a_disk_that_hangs_in_the_middle(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "DISK_S", 0.2)
    hanging = Hanging(os.pread)
    monkeypatch.setattr(os, "pread", hanging)
    with capture_logs() as logs:
        answer = await cut_off(desk, NAME)
    assert answer.status == 200
    assert answer.body == b""
    assert [line["reason"] for line in logs if line["event"] == "recordings.cut_off"] == ["no answer within 0.2 s"]
    assert len(open_in(desk.monitor)) == 1, "it is not closed under the thread that reads"
    hanging.go.set()
    await until(lambda: not open_in(desk.monitor))


async def cut_off(desk: Desk, name: str) -> Answer:
    """What comes of a recording before the connection is reset."""
    raw = b""
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await desk.site.connect()
        writer.write(f"GET /recordings/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\n\r\n".encode())
        try:
            while data := await reader.read(65536):
                raw += data
        except ConnectionResetError:
            pass
        writer.close()
    return Answer(raw)


async def test_a_disk_for_which_too_many_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    put(desk.monitor / "large.wav", LARGE)
    writer = await held(desk)
    monkeypatch.setattr(disk, "MOST_WAITING", 0)
    assert (await desk.get(NAME)).code == "recordings_unavailable"
    writer.close()
    await until(lambda: not open_in(desk.monitor))


async def test_a_disk_that_gives_an_error(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> bytes:
        raise TimeoutError(110, "Connection timed out")  # what a soft NFS mount says

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        with capture_logs() as logs:
            answer = await cut_off(desk, NAME)
    assert (answer.status, answer.body) == (200, b"")
    assert "Connection timed out" in next(line["reason"] for line in logs if line["event"] == "recordings.cut_off")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "open_first", broken)
        assert (await desk.get(NAME)).code == "recordings_unavailable"
    assert (await desk.get(NAME)).body == SOUND


async def test_a_process_does_not_wait_for_a_disk_that_hangs(monitor: Path) -> None:
    """systemd would end it by force: with callbacks under way."""
    code = f"""
import asyncio, threading
from pathlib import Path
from crmbridge.web import folder
from crmbridge.web.links import Links
from crmbridge.web.recordings import Recordings
folder.real = lambda path: threading.Event().wait()
async def main():
    Recordings(folder=Path({str(monitor)!r}), links=Links(b"k", expire_s=1))
    await asyncio.sleep(0.05)
    print("done", flush=True)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"done\n")


# What people use


async def output(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode == 0, command
    return out


@pytest.mark.needs("curl")
async def test_curl(desk: Desk, tmp_path: Path) -> None:
    put(desk.monitor / "large.wav", LARGE)
    host, port = desk.site.server.address
    base = f"http://{host}:{port}"
    account = ("-sS", "--fail", "-u", "crm:s3cret")
    assert await output("curl", *account, "-r", "100-199", f"{base}/recordings/{NAME}") == SOUND[100:200]
    assert await output("curl", *account, "-r", "-100", f"{base}/recordings/{NAME}") == SOUND[-100:]
    part = tmp_path / "part.wav"
    part.write_bytes(LARGE[:1_000_000])
    await output("curl", *account, "-C", "-", "-o", str(part), f"{base}/recordings/large.wav")
    assert part.read_bytes() == LARGE
    await output("curl", "-sS", "--fail", "-OJ", "--output-dir", str(tmp_path), f"{base}{desk.link()}&download=1")
    assert (tmp_path / NAME).read_bytes() == SOUND
    seen = await output("curl", *account, "-I", f"{base}/recordings/{NAME}")
    assert f"Content-Length: {len(SOUND)}".encode() in seen
    assert await output("curl", *account, "-z", "Mon, 23 Nov 2026 05:52:57 GMT", f"{base}/recordings/{NAME}") == b""


# The whole


async def test_from_the_record_to_the_browser_and_over_a_restart(tmp_path: Path, monitor: Path) -> None:
    """A call is played; its line has a link, which outlives a restart but not its key, and which no log shows."""
    call = trace("22/did_answered")
    (recorded,) = set(re.findall(rb"RecordingFile: (\S+)", call.raw))
    put(monitor / recorded.decode())
    pbx = SimulatedPbx(username="crmbridge", secret="s3cret")
    await pbx.start()
    settings = write(
        tmp_path,
        ami_port=pbx.port,
        url="http://127.0.0.1:1/",
        more=f'[cdr]\nrecordings_dir = "{monitor}"\n[log]\nmask_numbers = true\nformat = "json"\nlevel = "debug"',
    )
    lines: list[dict[str, Any]] = []
    try:
        async with daemon(settings) as bridge:
            await bridge.logged("ami.connected")
            await pbx.play(call, speed=50)
            port = await bridge.port()
            (line,) = await listed(port, call.expected[0][2], OF_CRM)
            assert line["filename"] == recorded.decode()
            assert await asked(port, line["link"]) == (200, SOUND)
        lines += bridge.lines
        async with daemon(settings) as bridge:
            assert await asked(await bridge.port(), line["link"]) == (200, SOUND)
        lines += bridge.lines
        (tmp_path / "links.key").unlink()
        async with daemon(settings) as bridge:
            status, body = await asked(await bridge.port(), line["link"])
            assert (status, json.loads(body)["error"]["code"]) == (403, "link_invalid")
        lines += bridge.lines
    finally:
        await pbx.stop()
    requests = [one for one in lines if one["event"] == "http.request"]
    assert len(requests) >= 4
    signature = line["link"].partition("signature=")[2]
    assert len(signature) == 43
    assert signature not in json.dumps(lines)
    assert recorded.decode() not in json.dumps(requests), "names of recordings hold numbers, which are masked"


async def test_pages_of_the_real_list(tmp_path: Path) -> None:
    """Each page begins behind the one before, whatever comes in between."""
    pbx, call = SimulatedPbx(username="crmbridge", secret="s3cret"), trace("22/did_answered")
    number = call.expected[0][2]
    await pbx.start()
    try:
        async with daemon(write(tmp_path, ami_port=pbx.port, url="http://127.0.0.1:1/")) as bridge:
            await bridge.logged("ami.connected")
            port = await bridge.port()
            for count in range(1, 4):
                await pbx.play(call, speed=50)
                await listed(port, number, OF_CRM, count)
            pages: list[dict[str, Any]] = []
            cursor = ""
            while not pages or cursor:
                more = f"&cursor={cursor}" if cursor else ""
                _, body = await asked(port, f"/calls?number={number}&limit=1{more}", OF_CRM)
                pages.append(json.loads(body))
                cursor = pages[-1].get("cursor", "")
                if len(pages) == 1:
                    await pbx.play(call, speed=50)
                    await listed(port, number, OF_CRM, 4)
            assert [len(page["result"]) for page in pages] == [1] * (len(pages))
            assert len(pages) in {3, 4}, "all calls are of one second: the new one may come behind the first page"
            assert len({page.get("cursor") for page in pages}) == len(pages)
    finally:
        await pbx.stop()


async def test_several_clients(tmp_path: Path, monitor: Path) -> None:
    """Each sees and hears its own calls: by their records' DID here, whoever answered them."""
    call = trace("22/did_answered")
    (recorded,) = set(re.findall(rb"RecordingFile: (\S+)", call.raw))
    put(monitor / recorded.decode())
    pbx = SimulatedPbx(username="crmbridge", secret="s3cret")
    await pbx.start()
    eleven = '[[crm.clients]]\nclient_id = 11\ndids = ["0723456777"]\nusername = "eleven"\npassword = "its own"'
    more = f'[cdr]\nrecordings_dir = "{monitor}"\n{eleven}'
    settings = write(tmp_path, ami_port=pbx.port, url="http://127.0.0.1:1/", more=more)
    number = call.expected[0][2]
    try:
        async with daemon(settings) as bridge:
            await bridge.logged("ami.connected")
            await pbx.play(call, speed=50)
            port = await bridge.port()

            lines = await listed(port, number, OF_ELEVEN)
            assert [line["link"].partition("?")[2][:12] for line in lines] == ["ClientId=11&"]
            of_crm = await asked(port, f"/calls?number={number}", OF_CRM)
            assert json.loads(of_crm[1]) == {"success": True, "result": []}
            assert (await asked(port, f"/calls?number={number}&ClientId=11", OF_CRM))[0] == 403
            assert await asked(port, lines[0]["link"]) == (200, SOUND)
            for auth in (OF_ELEVEN, OF_CRM):
                status, body = await asked(port, f"/recordings/{recorded.decode()}", auth)
                assert (status, json.loads(body)["error"]["code"]) == (403, "link_needed")
    finally:
        await pbx.stop()


async def asked(port: int, path: str, auth: str | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": auth} if auth else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer,
    ):
        return answer.status, await answer.read()


async def listed(port: int, number: str, auth: str, count: int = 1) -> list[dict[str, Any]]:
    """The calls with a number, once there are so many."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            _, body = await asked(port, f"/calls?number={number}", auth)
            lines: list[dict[str, Any]] = json.loads(body)["result"]
            if len(lines) >= count:
                return lines
            await asyncio.sleep(0.05)
