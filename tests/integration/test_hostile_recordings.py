"""Requests that are meant to get something out of the PBX's host that is no recording.

The whole bridge runs, as `crmbridge run` runs it. Around the folder of recordings lie a canary and the bridge's own
secrets, in the folder lie links to them and things that are no files. Each request is made with the right credentials,
and, where what it asks for can be told, with a link that is signed for just that. Whatever comes back holds nothing of
what lies outside, is an error or the sound of a recording, and comes at once.
"""

from __future__ import annotations

import base64
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote_to_bytes

import pytest
from tests.integration.bridge_thread import BridgeThread
from tests.integration.test_bridge import write

from crmbridge.web.links import Links

NAME = "in-trunk-0521234567-20261123-055257-1795413177.274.wav"
DAY = "2026/11/23"
CANARY = b"canary-5b1d7a"
SOUND = b"the sound of a recording " * 40
RIGHT = "Authorization: Basic " + base64.b64encode(b"crm:http-s3cret").decode()
SECRETS = [CANARY, b"http-s3cret", b"root:", b"SQLite format", b"PATH="]


class Bridge(BridgeThread):
    """The bridge, and what lies around its recordings."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.monitor = folder / "monitor"
        self._lay_out()

    def configured(self, ami_port: int) -> Path:
        recordings = f'[cdr]\nrecordings_dir = "{self.monitor}"'
        return write(self.folder, ami_port=ami_port, url="http://127.0.0.1:1/", more=recordings)

    def _lay_out(self) -> None:
        (self.monitor / DAY).mkdir(parents=True)
        (self.folder / "monitor2").mkdir()
        (self.monitor / DAY / NAME).write_bytes(SOUND)
        for file in ("canary.wav", "monitor2/canary.wav", "monitor2/a.wav", "monitor/notes.txt", "monitor/.wav"):
            (self.folder / file).write_bytes(CANARY * 20)
        for name, target in {
            "out": "..", "beside": "../monitor2", "link.wav": "../canary.wav", "abs.wav": f"{self.folder}/canary.wav",
            "proc": "/proc/self", "root": "/", "environ.wav": "/proc/self/environ", "zero.wav": "/dev/zero",
            "key.wav": "../links.key", "loop.wav": "loop.wav", "config.wav": "../config.toml", "txt.wav": "/etc/passwd",
            "fd": "/proc/self/fd", "twice.wav": "out/monitor/link.wav",
        }.items():  # fmt: skip
            (self.monitor / name).symlink_to(target)
        os.mkfifo(self.monitor / "fifo.wav")
        (self.monitor / "dir.wav").mkdir()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.monitor / "s.wav"))

    def __enter__(self) -> Self:
        super().__enter__()
        self.key = (self.folder / "links.key").read_bytes()
        return self

    def signed(self, escaped: bytes) -> bytes | None:
        """The query of a link for what this path would name once it is unescaped."""
        try:
            name = unquote_to_bytes(escaped).decode()
            link = Links(self.key, expire_s=3600).link(name, "10", time.time())
        except UnicodeError:
            return None
        return link.partition("?")[2].encode()

    def contents(self) -> dict[str, str]:
        """What is in and around the folder, but for the bridge's own state."""
        return {
            str(path.relative_to(self.folder)): os.readlink(path) if path.is_symlink() else str(path.lstat().st_size)
            for path in self.folder.rglob("*")
            if "outbox" not in path.name and "calls" not in path.name and "clicks" not in path.name
        }


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    with Bridge(tmp_path_factory.mktemp("hostile")) as running:
        yield running


def harmless(answer: bytes) -> int:
    """The status, of an answer that holds nothing that is nobody's business."""
    for secret in SECRETS:
        assert secret not in answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1."), answer[:200]
    status = int(head.split()[1])
    assert status < 500, answer
    if status in {200, 206}:
        assert b"\r\n\r\n" not in body, "one answer to one request"
        assert body
        assert body in SOUND
    return status


def head(path: bytes, *headers: str, method: str = "GET") -> bytes:
    lines = b"".join(header.encode() + b"\r\n" for header in ("Host: pbx", "Connection: close", *headers))
    return method.encode() + b" " + path + b" HTTP/1.1\r\n" + lines + b"\r\n"


def both_ways(bridge: Bridge, escaped: bytes) -> list[int]:
    """With credentials, and by a link for just that (401 where it does not even lead there). The statuses."""
    found = [harmless(bridge.raw(head(b"/recordings/" + escaped, RIGHT)))]
    if (query := bridge.signed(escaped)) is not None:
        found.append(harmless(bridge.raw(head(b"/recordings/" + escaped + b"?" + query))))
    return found


def test_the_recording_itself(bridge: Bridge) -> None:
    """Or all that follows would show nothing."""
    assert both_ways(bridge, NAME.encode()) == [200, 200]
    assert both_ways(bridge, f"{bridge.monitor}/{DAY}/{NAME}".encode())[0] == 200


UPS = [
    b"..",
    b"%2e%2e",
    b"%2E.",
    b".%2e",
    b"%252e%252e",
    b"%25252e%25252e",
    b"%25%32%65%25%32%65",
    b"%c0%ae%c0%ae",
    b"%e0%80%ae%e0%80%ae",
    b"%f0%80%80%ae%f0%80%80%ae",
    b"%c0.%c0.",
    b"%uff0e%uff0e",
    b"%u002e%u002e",
    b"%ef%bc%8e%ef%bc%8e",
    b"..%00",
    b"%00..",
    b"..;",
    b"..%20",
    b"%20..",
    b"..%09",
    b"..%0d%0a",
    b"...",
    b"....",
    b"..%c2%a0",
    b"..%e2%80%8b",
    b"..?",
    b"..#",
    b"\xc0\xae\xc0\xae",
    b"./..",
    b"x/../..",
]
SLASHES = [
    b"/",
    b"//",
    b"/./",
    b"%2f",
    b"%2F",
    b"%252f",
    b"%25252f",
    b"\\",
    b"%5c",
    b"%255c",
    b"%c0%af",
    b"%e0%80%af",
    b"%c1%9c",
    b"%ef%bc%8f",
    b"%u2215",
    b";/",
    b"%00/",
]
TARGETS = [b"canary.wav", b"monitor2/canary.wav", b"monitor2/a.wav", b"config.toml", b"links.key", b"canary"]


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("slash", SLASHES)
def test_ways_up(bridge: Bridge, up: bytes, slash: bytes) -> None:
    for target in TARGETS[:2]:
        for start, levels in ((b"", 1), (b"2026/11/23/", 4), (b"out/", 1), (b"nothing/", 2)):
            status, *by_link = both_ways(bridge, start + (up + slash) * levels + target.replace(b"/", slash))
            assert status in {400, 404}
            assert set(by_link) <= {400, 401, 403, 404}


def test_all_targets_by_all_ways_up(bridge: Bridge) -> None:
    for up in UPS:
        for target in TARGETS:
            assert set(both_ways(bridge, up + b"/" + target)) <= {400, 401, 403, 404}


OUTSIDE = [
    b"/etc/passwd",
    b"//etc/passwd",
    b"///etc/passwd",
    b"%2fetc%2fpasswd",
    b"%2Fetc/passwd",
    b"etc/passwd",
    b"/proc/self/environ",
    b"/proc/self/fd/0",
    b"/proc/self/root/etc/passwd",
    b"/proc/self/cwd/setup.cfg",
    b"/dev/zero",
    b"/dev/stdin",
    b"/dev/fd/0",
    b"file:///etc/passwd",
    b"file:%2f%2f%2fetc%2fpasswd",
    b"http://127.0.0.1/",
    b"C:%5cboot.ini",
    b"%5c%5chost%5cshare",
    b"~/.ssh/id_rsa",
    b"~root/.bashrc",
    b"$HOME/.bashrc",
    b"${HOME}",
    b"`id`",
    b"|id",
    b"*",
    b"*.wav",
    b"2026/*/23/*.wav",
    b"{FOLDER}/canary.wav",
    b"{FOLDER}/monitor2/canary.wav",
    b"{FOLDER}/monitor/../canary.wav",
    b"{FOLDER}/monitor/%2e%2e/canary.wav",
    b"{FOLDER}/monitor/./../monitor2/a.wav",
    b"{FOLDER}/monitor2%2fcanary.wav",
    b"{FOLDER}/monitor",
    b"{FOLDER}/monitor/",
    b"{FOLDER}/links.key",
    b"{FOLDER}/config.toml",
    b"{FOLDER}/outbox.db",
    # in the folder, and no recordings
    b"notes.txt",
    b"notes",
    b".wav",
    b"dir.wav",
    b"fifo.wav",
    b"fifo",
    b"s.wav",
    b"2026",
    b"2026/",
    b"2026/11/23",
    b".",
    b"./",
    b"/",
    b"//",
    b"",
    # links that lead out
    b"link.wav",
    b"link",
    b"abs.wav",
    b"twice.wav",
    b"loop.wav",
    b"key.wav",
    b"config.wav",
    b"txt.wav",
    b"environ.wav",
    b"zero.wav",
    b"out/canary.wav",
    b"out/links.key",
    b"out/monitor/out/canary.wav",
    b"beside/canary.wav",
    b"beside/a",
    b"proc/environ",
    b"proc/root/etc/passwd",
    b"root/etc/passwd",
    b"fd/0",
    b"fd/3",
    # names that are hardly any
    b"x" * 255,
    b"x" * 256,
    b"x" * 4000,
    b"x" * 7900,
    b"a/" * 120,
    b"a/" * 3000,
    b"/" * 5000,
    b"./" * 100 + b"a.wav",
    "שיחה".encode(),
    quote("שיחה" * 60).encode(),
    b"%ff%fe.wav",
    b"\xff\xfe.wav",
    b"%ed%a0%80.wav",
    b"%",
    b"%2",
    b"%zz.wav",
    b"%00",
    b"%00.wav",
    b"link.wav%00",
    b"canary.wav%00.wav",
    b"out%00/canary.wav",
    b"link.wav.",
    b"link.wav%20",
    b"link.wav/",
    b"link.wav/.",
    b"link.wav::$DATA",
    b"link.wav;.wav",
    b"link.wav?.wav",
    b"link.wav#.wav",
    b"%0d%0aX-Injected:%201",
    b"a%0d%0aSet-Cookie:%20x=1.wav",
    b"a%0a.wav",
    b"a%1b[2J.wav",
    b"a%e2%80%ae.wav",
    b"<script>alert(1)</script>.wav",
    b"%3Cscript%3E.wav",
    b"'%20OR%201=1--.wav",
    b"{{7*7}}.wav",
    b"%s%n.wav",
    b"CON.wav",
    b"LINK.WAV",
    b"Out/canary.wav",
]


@pytest.mark.parametrize("at", range(len(OUTSIDE)))
def test_names_that_are_no_recordings(bridge: Bridge, at: int) -> None:
    """Nor does anything hang, be it a pipe (`raw` waits for so long and no longer)."""
    escaped = OUTSIDE[at].replace(b"{FOLDER}", str(bridge.folder).encode())
    assert set(both_ways(bridge, escaped)) <= {400, 401, 403, 404}


WRITTEN = {
    "an absolute URI": b"GET http://pbx/recordings/../canary.wav HTTP/1.1",
    "an absolute URI of a file": b"GET file:///etc/passwd HTTP/1.1",
    "no slash": b"GET recordings/../canary.wav HTTP/1.1",
    "two slashes": b"GET //recordings/../canary.wav HTTP/1.1",
    "up before it": b"GET /x/../recordings/../canary.wav HTTP/1.1",
    "up to the routes": b"GET /recordings/../metrics HTTP/1.1",
    "escaped": b"GET /%72ecordings/%2e%2e/canary.wav HTTP/1.1",
    "a slash escaped": b"GET /recordings%2f..%2fcanary.wav HTTP/1.1",
    "a backslash": b"GET \\recordings\\..\\canary.wav HTTP/1.1",
    "capitals": b"GET /RECORDINGS/../canary.wav HTTP/1.1",
    "as a parameter": b"GET /recordings/x?filename=../canary.wav HTTP/1.1",
    "as the query": b"GET /recordings?/../canary.wav HTTP/1.1",
    "a semicolon": b"GET /recordings;/../canary.wav HTTP/1.1",
    "a fragment": b"GET /recordings/" + NAME.encode() + b"#/../../canary.wav HTTP/1.1",
    "a real line end": b"GET /recordings/a\r\n/../canary.wav HTTP/1.1",
    "a tab": b"GET /recordings/\t../canary.wav HTTP/1.1",
    "HTTP/0.9": b"GET /recordings/../canary.wav",
    "no version": b"GET /recordings/../canary.wav HTTP",
    "another host": b"GET http://localhost:1/recordings/%2e%2e/canary.wav HTTP/1.1",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_requests_that_are_written_oddly(bridge: Bridge, name: str) -> None:
    request = WRITTEN[name] + f"\r\nHost: pbx\r\nConnection: close\r\n{RIGHT}\r\n\r\n".encode()
    answer = bridge.raw(request)
    assert CANARY not in answer
    for secret in SECRETS:
        assert secret not in answer
    if answer:
        assert int(answer.split()[1]) in {200, 400, 404}


@pytest.mark.parametrize(
    "header",
    [
        "X-Original-URL: /recordings/../canary.wav",
        "X-Rewrite-URL: /../canary.wav",
        "X-Sendfile: {folder}/canary.wav",
        "X-Accel-Redirect: /../canary.wav",
        "X-Accel-Mapping: /recordings/=/",
        "X-Forwarded-Prefix: /..",
        "Destination: ../stolen.wav",
        "Content-Location: ../canary.wav",
        "Range: bytes=-9223372036854775808",
        "Range: bytes=99999999999999999999-",
        "Range: bytes=0-0," + ",".join(f"{n}-{n + 9}" for n in range(0, 5000, 10)),
        "Range: bytes=" + "0-," * 2000,
        "If-Range: " + '"' * 5000,
        "If-None-Match: " + 'W/"x", ' * 900,
        "If-None-Match: " + '"' + "a" * 7000,
        "If-Modified-Since: " + "Mon, " * 1000,
        "If-Modified-Since: Mon, 99 Nov 99999999999999999999 99:99:99 +999999",
        "Accept-Encoding: " + "gzip;q=0.1, " * 600,
    ],
)
def test_headers_that_are_meant_for_others(bridge: Bridge, header: str) -> None:
    for path in (f"/recordings/{NAME}", "/recordings/link.wav", "/recordings/x"):
        status = harmless(bridge.raw(head(path.encode(), RIGHT, header.format(folder=bridge.folder))))
        assert status in {200, 206, 304, 400, 404, 412, 416}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH", "COPY", "MOVE", "MKCOL", "PROPFIND", "LINK"])
def test_nothing_is_ever_written(bridge: Bridge, method: str) -> None:
    before = bridge.contents()
    for path in (NAME, "new.wav", "../new.wav", "link.wav"):
        for query in (b"", b"?" + (bridge.signed(path.encode()) or b"")):
            request = head(f"/recordings/{path}".encode() + query, RIGHT, "Content-Length: 0", method=method)
            assert harmless(bridge.raw(request)) in {400, 405}
    assert bridge.contents() == before


@pytest.mark.parametrize("seed", range(4))
def test_damaged_paths(bridge: Bridge, seed: int) -> None:
    """Pieces of all these, put together at random."""
    chance = random.Random(seed)
    pieces = [
        *UPS,
        *SLASHES,
        *TARGETS,
        NAME.encode(),
        DAY.encode(),
        b"out",
        b"beside",
        b"proc",
        b"link.wav",
        b"monitor",
    ]
    pieces += [str(bridge.folder).encode(), str(bridge.monitor).encode(), b"monitor", b"%", b"?", b".wav", b"&", b"="]
    for _ in range(250):
        escaped = b"".join(chance.choices(pieces, k=chance.randint(1, 9)))
        assert set(both_ways(bridge, escaped)) <= {200, 400, 401, 403, 404}


def test_the_table_is_long_enough(bridge: Bridge) -> None:
    assert len(UPS) * len(SLASHES) * 8 + len(UPS) * len(TARGETS) + len(OUTSIDE) + len(WRITTEN) > 1000
    test_the_recording_itself(bridge)
